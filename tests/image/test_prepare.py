from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from imlctl.image.decode import Photo
from imlctl.image.facts import FormatFacts
from imlctl.image.prepare import (
    Geometry,
    pad,
    padded_size,
    prepare,
    restore,
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
    image, _ = prepare(photo(pixels))
    assert np.array_equal(image.numpy(), np.moveaxis(pixels, 2, 0))
    padded = pad(image).numpy()
    assert padded.dtype == dtype
    assert padded.shape == (3, *padded_size(height, width))
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
    image, _ = prepare(photo(noise(30, 70)))
    assert pad(image, multiple=16, min_side=1).shape == (3, 32, 80)
    assert pad(image, multiple=10, min_side=1) is image
    with pytest.raises(ValueError, match="positive"):
        pad(image, multiple=0)


def test_the_photo_is_not_touched() -> None:
    pixels = noise(64, 64)
    image, _ = prepare(photo(pixels))
    before = pixels.copy()
    image.zero_()
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_floats_are_those_of_numpy(dtype: Any) -> None:
    pixels = noise(64, 64, dtype)
    image, _ = prepare(photo(pixels))
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
    image, geometry = prepare(photo(pixels, orientation))
    restored = restore(to_float(image)[1], geometry)
    assert restored.dtype == np.float32
    assert restored.shape == geometry.upright_shape
    assert restored.flags.c_contiguous
    assert np.array_equal(
        restored,
        upright(
            as_float(pixels)[..., 1],
            orientation,
        ),
    )
    assert np.array_equal(
        stored(restored, geometry),
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
    geometry = Geometry(5, 7, orientation=orientation)
    assert geometry.upright_shape == expected.shape[:2]
    assert np.array_equal(stored(expected, geometry), pixels)


def test_restore_accepts_arrays_and_half_precision() -> None:
    geometry = Geometry(3, 5)
    values = np.arange(15, dtype=np.float64).reshape(3, 5)
    expected = values.astype(np.float32)
    assert np.array_equal(restore(values, geometry), expected)
    assert np.array_equal(restore(torch.from_numpy(values).bfloat16(), geometry), expected)


def test_wrong_shapes_are_refused() -> None:
    geometry = Geometry(4, 5, orientation=6)
    with pytest.raises(ValueError, match="expected \\(4, 5\\)"):
        restore(np.zeros((3, 5)), geometry)
    with pytest.raises(ValueError, match="expected \\(5, 4\\)"):
        stored(np.zeros((3, 5)), geometry)


@pytest.mark.parametrize("changes", [{"height": 0}, {"width": 0}])
def test_impossible_geometry_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="impossible"):
        Geometry(**{"height": 1, "width": 1, **changes})
    with pytest.raises(ValueError, match="orientation"):
        Geometry(1, 1, orientation=0)
