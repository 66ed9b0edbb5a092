"""A large picture in overlapping tiles with blended seams.

Evidence is not shrunk: a picture beyond the memory budget is analysed in pieces at full
resolution. Tiles start on multiples of the model's stride, so that each sees the picture's JPEG
grid in the phase that the whole picture has.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from imlctl.errors import NumericalError, UsageError
from imlctl.image.prepare import to_float

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of the picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.top < 0 or self.left < 0 or self.height < 1 or self.width < 1:
            raise ValueError(f"impossible tile: {self}")

    def of(self, values: Tensor, stride: int = 1) -> Tensor:
        """Cut this part from (..., H / stride, W / stride); the sides are multiples of `stride`."""
        rows, columns = (
            slice(start // stride, (start + side) // stride)
            for start, side in ((self.top, self.height), (self.left, self.width))
        )
        return values[..., rows, columns]


def plan(
    height: int, width: int, *, tile: int, overlap: int, multiple: int = 32, grain: int = 0
) -> tuple[Tile, ...]:
    """Cover a picture with equal tiles, row by row.

    Args:
        height: Of the picture, a multiple of `multiple`.
        width: Likewise.
        tile: Largest side of a tile, a multiple of `grain`. Tiles are as small as their number
            allows, each side on its own.
        overlap: Pixels shared by neighbours at the least, rounded up to a multiple of `grain`.
            The last tile of a row or column is shifted back inside and shares more.
        multiple: What the model asks of a picture's sides.
        grain: Sides of tiles are multiples of this, where there are several; `multiple` when 0.

    Raises:
        UsageError: `tile` and `overlap` do not fit each other or `grain`.
        ValueError: The picture's sides are not positive multiples of `multiple`.
    """
    if height < 1 or width < 1 or height % multiple or width % multiple:
        raise ValueError(f"{height} x {width} is not a positive multiple of {multiple}")
    grain = grain or multiple
    if tile < 1 or tile % grain:
        raise UsageError(
            f"a tile of {tile} pixels is not a multiple of {grain}",
            remedy=f"Use {max(1, round(tile / grain)) * grain}, for instance.",
        )
    shared = -(-overlap // grain) * grain
    if overlap < 0 or tile - shared < grain:
        raise UsageError(
            f"an overlap of {overlap} pixels does not fit tiles of {tile}",
            remedy="Use larger tiles or a smaller overlap.",
        )
    rows, columns = (_even(side, tile, shared, grain) for side in (height, width))
    return tuple(
        Tile(top=top, left=left, height=rows, width=columns)
        for top in _starts(height, rows, rows - shared)
        for left in _starts(width, columns, columns - shared)
    )


def run_tiled(
    fn: Callable[[Tensor, Tile], Tensor],
    image: Tensor,
    *,
    tile: int,
    overlap: int,
    multiple: int = 32,
    grain: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Tensor:
    """Apply a model tile by tile and blend its answers.

    In an overlap each tile's weight falls off linearly towards its edge; the weights of all tiles
    over a pixel are positive and sum to one, so that a blend never leaves the range of what was
    blended. A picture of one tile is passed to `fn` whole and its answer returned as it is.

    Besides one tile for each worker, memory holds the integer picture and one float32 map.

    Args:
        fn: From (V, 3, h, w) float32 in [0, 1], and where that lies in the picture, to
            (V, 1, h, w), probabilities or logits.
        image: (V, 3, H', W') uint8, uint16 or float: views of one picture.
        tile: See `plan`.
        overlap: See `plan`.
        multiple: See `plan`.
        grain: See `plan`.
        workers: Threads that work on a tile each, sharing out this process's threads; the result is
            the same for any number of them that leaves each one thread.
        progress: Called with the number of finished tiles and of all, also before the first.

    Returns:
        (V, H', W') float32, on the CPU.

    Raises:
        NumericalError: `fn` returned NaN or infinity.
        UsageError: See `plan`.
    """
    height, width = image.shape[2:]
    tiles = plan(height, width, tile=tile, overlap=overlap, multiple=multiple, grain=grain)
    if len(tiles) == 1:
        return _checked(fn, image, tiles[0])
    rows = _weights(height, tiles[0].height, sorted({each.top for each in tiles}))
    columns = _weights(width, tiles[0].width, sorted({each.left for each in tiles}))
    merged = torch.zeros(len(image), height, width)
    low, high = float("inf"), float("-inf")
    progress(0, len(tiles))
    results = _in_parallel(lambda each: _checked(fn, each.of(image), each), tiles, workers)
    for done, (each, result) in enumerate(zip(tiles, results, strict=True), 1):
        progress(done, len(tiles))
        low, high = min(low, float(result.min())), max(high, float(result.max()))
        each.of(merged).addcmul_(result, rows[each.top][:, None] * columns[each.left])
    # Rounding may carry a blend past the values it came from by one unit in the last place.
    return merged.clamp_(low, high)


def _in_parallel(
    work: Callable[[Tile], Tensor], tiles: Sequence[Tile], workers: int
) -> Iterator[Tensor]:
    """Yield what `work` returns for each tile, in order, computed by some threads at once."""
    if workers <= 1:
        yield from map(work, tiles)
        return
    threads = torch.get_num_threads()
    each = max(1, threads // workers)
    try:
        with ThreadPoolExecutor(workers, "tile", torch.set_num_threads, (each,)) as pool:
            yield from pool.map(work, tiles)
    finally:  # threads that are started from now on have all of them again
        torch.set_num_threads(threads)


def _even(length: int, tile: int, shared: int, multiple: int) -> int:
    """Return the least side, at most `tile`, that covers the axis with as few tiles as `tile` does.

    Shifting the last full tile back inside would analyse up to twice as many pixels.
    """
    if length <= tile:
        return length
    count = -(-(length - shared) // (tile - shared))
    return -(-(length + (count - 1) * shared) // (count * multiple)) * multiple


def _starts(length: int, tile: int, step: int) -> list[int]:
    """Return where tiles start along one axis; the last is shifted back inside."""
    last = length - tile
    return [*range(0, last, step), last] if last else [0]


def _weights(length: int, tile: int, starts: list[int]) -> dict[int, Tensor]:
    """Return each tile's weights (tile,) along one axis; over any pixel they sum to one.

    The tiles form a grid, so the weight of a pixel is the product of its row's and its column's.
    """
    ramp = 1 + (starts[0] + tile - starts[1] if len(starts) > 1 else 0)
    distance = np.minimum(np.arange(1, tile + 1), np.arange(tile, 0, -1))
    profile = np.minimum(distance / ramp, 1.0)
    total = np.zeros(length)
    for start in starts:
        total[start : start + tile] += profile
    return {
        start: torch.from_numpy((profile / total[start : start + tile]).astype(np.float32))
        for start in starts
    }


def _checked(fn: Callable[[Tensor, Tile], Tensor], image: Tensor, tile: Tile) -> Tensor:
    """Call `fn` on a part of the picture; return its answer (V, h, w) float32 on the CPU."""
    answer = fn(to_float(image), tile)
    expected = (len(image), 1, *image.shape[2:])
    if tuple(answer.shape) != expected:
        raise ValueError(f"the model returned {tuple(answer.shape)}, expected {expected}")
    return finite(answer[:, 0].detach().to("cpu", torch.float32))


def finite(values: Tensor) -> Tensor:
    """Return a map as it is.

    Raises:
        NumericalError: It holds NaN or infinity.
    """
    if not bool(torch.isfinite(values).all()):
        raise NumericalError(
            "the model returned NaN or infinity, so there is no mask",
            remedy="Check the weights; if they are the bundled ones, report this picture.",
        )
    return values
