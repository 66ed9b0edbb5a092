"""A photograph as a tensor, whole or in overlapping tiles, and the exact way back from its map.

Evidence is not shrunk: what exceeds the memory budget is analysed in pieces at full resolution,
which start on multiples of the model's stride, where the JPEG grid has its own phase.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imlctl.device import side_by_side
from imlctl.errors import NumericalError, UsageError

if TYPE_CHECKING:
    from imlctl.image.decode import Photo

MIN_SIDE = 64  # of what a model is given, in pixels


def prepare(photo: Photo) -> Tensor:
    """Lay a photo out for a model, as stored, neither turned nor padded: (3, H, W), integers."""
    return torch.from_numpy(np.array(np.moveaxis(photo.pixels, 2, 0), order="C", copy=True))


def pad(image: Tensor, *, multiple: int = 32, min_side: int = MIN_SIDE) -> Tensor:
    """Reflect a picture (3, H, W) below and on the right, never above, where the JPEG grid begins.

    Its sides become multiples of `multiple`, and at least `min_side`; its type stays.
    """
    below, right = (
        -(-max(side, min_side) // multiple) * multiple - side for side in image.shape[1:]
    )
    if not below and not right:
        return image
    # Numpy reflects as often as it takes, and repeats the edge where there is a single row.
    frame = ((0, 0), (0, below), (0, right))
    return torch.from_numpy(np.pad(image.numpy(), frame, mode="reflect"))


def to_float(image: Tensor) -> Tensor:
    """Scale uint8 or uint16 samples to float32 in [0, 1] by the maximum of their type."""
    if image.is_floating_point():
        return image.to(torch.float32)
    return image.to(torch.float32).div_(torch.iinfo(image.dtype).max)


def restore(values: Tensor, orientation: int) -> NDArray[np.float32]:
    """Turn a map (H, W) of a picture as stored upright."""
    return upright(values.detach().to("cpu", torch.float32).numpy(), orientation)


def stored(upright_map: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn a map of the upright picture back to lie over the stored one: undoes `upright`."""
    # Six and eight are quarter turns, each the other's inverse; the rest undo themselves.
    return upright(upright_map, {6: 8, 8: 6}.get(orientation, orientation))


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn a stored picture or map (H, W, ...) as its EXIF orientation says; returns a copy."""
    turned = np.swapaxes(pixels, 0, 1) if orientation >= 5 else pixels
    if orientation in (3, 4, 7, 8):
        turned = np.flipud(turned)
    if orientation in (2, 3, 6, 7):
        turned = np.fliplr(turned)
    return np.array(turned, order="C", copy=True)


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of the picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, values: Tensor, stride: int = 1) -> Tensor:
        """Cut this part from (..., H / stride, W / stride); the sides are multiples of `stride`."""
        top, left = self.top // stride, self.left // stride
        rows, columns = self.height // stride, self.width // stride
        return values[..., top : top + rows, left : left + columns]


def plan_tiles(
    height: int, width: int, *, tile: int, overlap: int, multiple: int = 32
) -> tuple[Tile, ...]:
    """Cover a picture, whose sides are multiples of `multiple`, with equal tiles, row by row.

    Tiles are as small as their number allows, and at most `tile` wide and high; neighbours share
    `overlap` pixels at the least. UsageError where these do not fit each other or `multiple`.
    """
    if tile < 1 or tile % multiple:
        near = max(1, round(tile / multiple)) * multiple
        what = f"a tile of {tile} pixels is not a multiple of {multiple}"
        raise UsageError(what, remedy=f"Use {near}, for instance.")
    shared = -(-overlap // multiple) * multiple
    if overlap < 0 or tile - shared < multiple:
        what = f"an overlap of {overlap} pixels does not fit tiles of {tile}"
        raise UsageError(what, remedy="Use larger tiles or a smaller overlap.")
    rows, tops = _along(height, tile, shared, multiple)
    columns, lefts = _along(width, tile, shared, multiple)
    return tuple(Tile(top, left, rows, columns) for top in tops for left in lefts)


def _along(length: int, tile: int, shared: int, multiple: int) -> tuple[int, list[int]]:
    """Return side and starts of tiles along one axis: as few as it takes, as small as they may."""
    if length <= tile:
        return length, [0]
    count = -(-(length - shared) // (tile - shared))
    even = -(-(length + (count - 1) * shared) // (count * multiple)) * multiple
    side = min(tile, max(even, MIN_SIDE))
    return side, [*range(0, length - side, side - shared), length - side]


def run_tiled(
    fn: Callable[[Tensor, Tile], Tensor],
    image: Tensor,
    *,
    tile: int,
    overlap: int,
    multiple: int = 32,
    workers: int = 1,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Tensor:
    """Apply a model tile by tile and blend its answers: (V, H', W') float32, on the CPU.

    In an overlap each tile's weight falls off linearly towards its edge; the weights of all tiles
    over a pixel are positive and sum to one, so that a blend never leaves the range of what was
    blended. Besides one tile for each worker, memory holds the integer picture and one float32 map.
    The model is called with views of one tile, (V, 3, h, w) float32 in [0, 1], and where that lies,
    and answers (V, 1, h, w), probabilities or logits; NumericalError if NaN or infinity is among
    them. `image` is (V, 3, H', W') uint8, uint16 or float; for `tile`, `overlap` and `multiple` see
    `plan_tiles`. `workers` are threads that work on a tile each; `progress` is called with the
    number of finished tiles and of all, also before the first.
    """
    height, width = image.shape[2:]
    tiles = plan_tiles(height, width, tile=tile, overlap=overlap, multiple=multiple)
    if len(tiles) == 1:
        return _checked(fn, image, tiles[0])
    rows = _weights(height, tiles[0].height, sorted({each.top for each in tiles}))
    columns = _weights(width, tiles[0].width, sorted({each.left for each in tiles}))
    merged = torch.zeros(len(image), height, width)
    low, high = float("inf"), float("-inf")
    progress(0, len(tiles))
    results = side_by_side(lambda each: _checked(fn, each.of(image), each), tiles, workers)
    for done, (each, result) in enumerate(zip(tiles, results, strict=True), 1):
        progress(done, len(tiles))
        low, high = min(low, float(result.min())), max(high, float(result.max()))
        each.of(merged).addcmul_(result, rows[each.top][:, None] * columns[each.left])
    # Rounding may carry a blend past the values it came from by one unit in the last place.
    return merged.clamp_(low, high)


def _weights(length: int, tile: int, starts: list[int]) -> dict[int, Tensor]:
    """Return each tile's weights (tile,) along one axis; those over any pixel sum to one."""
    ramp = 1 + (starts[0] + tile - starts[1] if len(starts) > 1 else 0)
    distance = np.minimum(np.arange(1, tile + 1), np.arange(tile, 0, -1))
    profile = np.minimum(distance / ramp, 1.0)
    total = np.zeros(length)
    for start in starts:
        total[start : start + tile] += profile
    shares = {start: profile / total[start : start + tile] for start in starts}
    return {start: torch.from_numpy(share.astype(np.float32)) for start, share in shares.items()}


def _checked(fn: Callable[[Tensor, Tile], Tensor], image: Tensor, tile: Tile) -> Tensor:
    """Return what `fn` answers for a part of the picture, (V, h, w) float32 on the CPU."""
    values = fn(to_float(image), tile)[:, 0].detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(values).all()):
        what = "the model returned NaN or infinity, so there is no mask"
        remedy = "Check the weights; if they are the bundled ones, report this picture."
        raise NumericalError(what, remedy=remedy)
    return values
