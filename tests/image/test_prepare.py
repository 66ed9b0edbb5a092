from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch import Tensor

from imlctl.errors import NumericalError, UsageError
from imlctl.image.decode import Photo
from imlctl.image.facts import FormatFacts
from imlctl.image.prepare import (
    Tile,
    pad,
    plan_tiles,
    prepare,
    restore,
    run_tiled,
    stored,
    to_float,
    upright,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


def as_float(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Scale integers to 0..1 by the maximum of their type."""
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def photo(pixels: Any, orientation: int = 1) -> Photo:
    height, width, _ = pixels.shape
    facts = FormatFacts(
        format="PNG", width=width, height=height, mode="RGB", bit_depth=8, orientation=orientation
    )
    return Photo(pixels=pixels, facts=facts, sha256="0" * 64, source="a")


def noise(height: int, width: int, dtype: Any = np.uint8) -> Any:
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, (height, width, 3), dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 500), (500, 1), (2, 2), (64, 64), (65, 63), (96, 128), (33, 200)]
)
def test_padding_is_a_reflection_around_an_untouched_picture(
    shape: tuple[int, int], dtype: Any
) -> None:
    height, width = shape
    pixels = noise(height, width, dtype)
    image = prepare(photo(pixels))
    assert np.array_equal(image.numpy(), np.moveaxis(pixels, 2, 0))
    padded = pad(image).numpy()
    assert padded.dtype == dtype
    for side, original in zip(padded.shape[1:], shape, strict=True):
        assert side % 32 == 0
        assert side == max(64, -(-original // 32) * 32)
    assert np.array_equal(padded[:, :height, :width], np.moveaxis(pixels, 2, 0))
    for row in range(height, padded.shape[1]):
        assert np.array_equal(padded[:, row], padded[:, reflected(row, height)])
    for column in range(width, padded.shape[2]):
        assert np.array_equal(padded[:, :, column], padded[:, :, reflected(column, width)])


def reflected(index: int, length: int) -> int:
    """Where `index` lands when the axis is folded back at its ends, again and again."""
    if length == 1:
        return 0
    period = 2 * (length - 1)
    index %= period
    return min(index, period - index)


def test_multiple_and_least_side_are_settings() -> None:
    image = prepare(photo(noise(30, 70)))
    assert pad(image, multiple=16, min_side=1).shape == (3, 32, 80)
    assert pad(image, multiple=10, min_side=1) is image


def test_the_photo_is_not_touched() -> None:
    pixels = noise(64, 64)
    image = prepare(photo(pixels))
    before = pixels.copy()
    image.zero_()
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_floats_are_those_of_numpy(dtype: Any) -> None:
    pixels = noise(64, 64, dtype)
    image = prepare(photo(pixels))
    part = to_float(image[:, 10:50, 20:60])
    assert part.dtype == torch.float32
    expected = np.moveaxis(as_float(pixels), 2, 0)[:, 10:50, 20:60]
    np.testing.assert_allclose(part.numpy(), expected, rtol=1e-7, atol=0)
    assert float(to_float(torch.full((1,), int(np.iinfo(dtype).max), dtype=image.dtype))) == 1.0
    assert torch.equal(to_float(part), part)


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    orientation=st.integers(1, 8),
)
def test_restore_undoes_prepare(height: int, width: int, orientation: int) -> None:
    pixels = noise(height, width)
    image = prepare(photo(pixels, orientation))
    restored = restore(to_float(image)[1], orientation)
    assert restored.dtype == np.float32
    assert restored.flags.c_contiguous
    assert np.array_equal(
        restored,
        upright(
            as_float(pixels)[..., 1],
            orientation,
        ),
    )
    assert np.array_equal(
        stored(restored, orientation),
        as_float(pixels)[..., 1],
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_what_pillow_does(orientation: int) -> None:
    pixels = noise(5, 7)
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    turned = upright(pixels, orientation)
    assert np.array_equal(turned, expected)
    assert not np.shares_memory(turned, pixels)
    assert np.array_equal(stored(expected, orientation), pixels)


def test_restore_accepts_half_precision() -> None:
    values = torch.arange(15, dtype=torch.float32).reshape(3, 5)
    assert np.array_equal(restore(values.bfloat16(), 1), values.numpy())


def first_channel(batch: Tensor, _: Tile) -> Tensor:
    """The identity, as far as a model with one output channel can be it."""
    return batch[:, :1]


def random_image(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, int]:
    multiple = draw(st.sampled_from([1, 2, 8, 32]))
    tile = draw(st.integers(1, 6))
    overlap = draw(st.integers(0, (tile - 1) * multiple))
    sides = st.integers(1, 24)
    return {
        "height": draw(sides) * multiple,
        "width": draw(sides) * multiple,
        "tile": tile * multiple,
        "overlap": overlap,
        "multiple": multiple,
    }


@given(layouts())
def test_plan_covers_the_picture_with_equal_tiles_inside_it(layout: dict[str, int]) -> None:
    tiles = plan_tiles(**layout)
    height, width, tile = layout["height"], layout["width"], layout["tile"]
    covered = torch.zeros(height, width, dtype=torch.bool)
    for each in tiles:
        assert each.top + each.height <= height
        assert each.left + each.width <= width
        assert (each.height, each.width) == (tiles[0].height, tiles[0].width)
        assert max(each.height, each.width) <= tile
        assert each.top % layout["multiple"] == each.left % layout["multiple"] == 0
        assert each.height % layout["multiple"] == each.width % layout["multiple"] == 0
        covered[each.top : each.top + each.height, each.left : each.left + each.width] = True
    assert covered.all()
    assert len(set(tiles)) == len(tiles)
    lefts = sorted({each.left for each in tiles})
    for left, following in pairwise(lefts):
        assert left + tiles[0].width - following >= layout["overlap"]
    shared = -(-layout["overlap"] // layout["multiple"]) * layout["multiple"]
    fewest = 1 if width <= tile else -(-(width - shared) // (tile - shared))
    assert len(lefts) == fewest


@settings(deadline=None)
@given(layouts())
def test_merge_of_the_identity_is_the_identity(layout: dict[str, int]) -> None:
    image = random_image(layout.pop("height"), layout.pop("width"))
    merged = run_tiled(first_channel, image[None], **layout)
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged[0], to_float(image)[0], rtol=0, atol=1e-6)
    assert merged.min() >= 0
    assert merged.max() <= 1


def test_one_tile_is_the_model_itself_bit_for_bit() -> None:
    image = random_image(64, 96)

    def model(batch: Tensor, _: Tile) -> Tensor:
        return torch.sin(batch.mean(dim=1, keepdim=True) * 7)

    merged = run_tiled(model, image[None], tile=128, overlap=32)
    assert torch.equal(merged, model(to_float(image)[None], Tile(0, 0, 64, 96))[0])


def test_model_sees_the_right_part_in_floats_one_at_a_time() -> None:
    image = random_image(96, 160)
    seen = []

    def model(batch: Tensor, tile: Tile) -> Tensor:
        seen.append((batch, tile))
        return batch[:, :1]

    run_tiled(model, image[None], tile=64, overlap=32)
    assert len(seen) == len(plan_tiles(96, 160, tile=64, overlap=32)) == 2 * 4
    for (batch, told), tile in zip(seen, plan_tiles(96, 160, tile=64, overlap=32), strict=True):
        assert told == tile
        assert batch.dtype == torch.float32
        rows = slice(tile.top, tile.top + tile.height)
        columns = slice(tile.left, tile.left + tile.width)
        assert torch.equal(batch[0], to_float(image)[:, rows, columns])


def test_seams_are_ramps_and_stay_between_what_they_join() -> None:
    values = iter([0.2, 0.8])

    def constant(batch: Tensor, _: Tile) -> Tensor:
        return torch.full_like(batch[:, :1], next(values))

    row = run_tiled(constant, random_image(64, 96)[None], tile=64, overlap=32)[0, 0]
    assert torch.equal(row[:32], torch.full((32,), 0.2))
    assert torch.equal(row[64:], torch.full((32,), 0.8))
    steps = row.diff()[31:64]
    assert steps.min() > 0
    assert steps.max() < 1.5 * 0.6 / 33
    assert row.min() >= torch.tensor(0.2)
    assert row.max() <= torch.tensor(0.8)


def test_16_bit_and_float_pictures() -> None:
    wide = torch.arange(3 * 64 * 96).reshape(3, 64, 96).to(torch.uint16)
    merged = run_tiled(first_channel, wide[None], tile=64, overlap=16)
    torch.testing.assert_close(merged[0], to_float(wide)[0], rtol=0, atol=1e-6)
    merged = run_tiled(first_channel, to_float(wide)[None], tile=64, overlap=16)
    torch.testing.assert_close(merged[0], to_float(wide)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("width", [64, 128])
def test_nan_and_infinity_never_become_a_map(bad: float, width: int) -> None:
    def model(batch: Tensor, _: Tile) -> Tensor:
        answer = batch[:, :1].clone()
        answer[0, 0, -1, -1] = bad
        return answer

    with pytest.raises(NumericalError, match="NaN or infinity"):
        run_tiled(model, random_image(64, width)[None], tile=64, overlap=0)


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (100, 0, "not a multiple"),
        (0, 0, "not a multiple"),
        (64, 64, "does not fit"),
        (64, 33, "does not fit"),
        (64, -1, "does not fit"),
    ],
)
def test_settings_that_do_not_fit(tile: int, overlap: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_tiles(256, 256, tile=tile, overlap=overlap)


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_24_megapixels_take_one_map_and_one_tile() -> None:
    image = torch.ones(3, 4000, 6016, dtype=torch.uint8)  # zeros would first be held when read
    before, peak = resident(), 0

    def model(batch: Tensor, _: Tile) -> Tensor:
        nonlocal peak
        peak = max(peak, resident())
        return batch[:, :1]

    merged = run_tiled(model, image[None], tile=1024, overlap=128)
    peak = max(peak, resident())
    one_map = merged.numel() * 4
    assert peak - before < one_map + 6 * 1024 * 1024 * 4 * 3  # the floats alone would be three maps


@settings(deadline=None)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    tile=st.integers(2, 6),
    overlap=st.integers(0, 32),
    orientation=st.integers(1, 8),
    wide=st.booleans(),
)
def test_any_picture_comes_back_through_padding_and_tiles_as_it_was(
    height: int, width: int, tile: int, overlap: int, orientation: int, wide: bool
) -> None:
    kind = np.uint16 if wide else np.uint8
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (height, width, 3), kind)
    facts = FormatFacts("PNG", width, height, "RGB", 16 if wide else 8, orientation)
    image = prepare(Photo(pixels, facts, "0" * 64, "a"))
    merged = run_tiled(first_channel, pad(image)[None], tile=32 * tile, overlap=overlap)
    merged = merged[0, :height, :width]
    expected = upright(as_float(pixels)[..., 0], orientation)
    np.testing.assert_allclose(restore(merged, orientation), expected, rtol=0, atol=1e-6)
