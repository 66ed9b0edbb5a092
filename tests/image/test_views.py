"""Views for an examiner's eyes: closed forms, and a forgery that each of two must show."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from imlctl.image.views import (
    ELA_GAIN,
    ELA_QUALITY,
    GHOST_BLOCK,
    GHOST_QUALITIES,
    NOISE_GAIN,
    THUMBNAIL_GAIN,
    error_levels,
    ghost,
    gradient,
    how_to_read,
    noise_residual,
    views_of,
)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(buffer))


def textured(height: int = 192, width: int = 256) -> np.ndarray:
    """Noise of several scales, as photographs have it."""
    rng = np.random.default_rng(4)
    layers = [
        np.kron(rng.normal(0, 12, (height // s, width // s, 3)), np.ones((s, s, 1)))
        for s in (1, 4, 16)
    ]
    return np.clip(128 + sum(layers), 0, 255).astype(np.uint8)


def test_error_levels_are_the_difference_from_a_saved_copy() -> None:
    pixels = textured()
    saved = jpeg(pixels, 90).astype(int)
    expected = np.clip(ELA_GAIN * np.abs(pixels.astype(int) - saved), 0, 255)
    np.testing.assert_array_equal(error_levels(pixels), expected)
    assert error_levels(jpeg(pixels, 90)).mean() < error_levels(pixels).mean() / 3


def test_a_part_of_another_quality_is_a_ghost() -> None:
    pixels = textured()
    forged = pixels.copy()
    forged[48:144, 64:192] = jpeg(pixels, 60)[48:144, 64:192]
    shown = ghost(jpeg(forged, 95))[..., 0].astype(float)
    inside = np.zeros(shown.shape, bool)
    inside[48:144, 64:192] = True
    assert shown[inside].mean() > 3 * shown[~inside].mean()
    assert not ghost(np.full((40, 50, 3), 77, np.uint8)).any()


def test_noise_is_what_the_median_takes_away() -> None:
    flat = np.full((20, 30, 3), 90, np.uint8)
    assert (noise_residual(flat) == 128).all()
    flat[10, 15] = 95
    shown = noise_residual(flat)
    assert shown[10, 15].tolist() == [128 + 5 * NOISE_GAIN] * 3
    assert (shown != 128).any(2).sum() == 1


def test_gradients_are_slopes() -> None:
    ramp = np.repeat(np.arange(0, 200, 4, dtype=np.uint8)[None, :, None], 40, 0).repeat(3, 2)
    shown = gradient(ramp)[5:-5, 5:-5]
    assert (shown == [128 + 8, 128, 16]).all()  # 4 levels a pixel, times Sobel's 8 over 4
    down = gradient(ramp.transpose(1, 0, 2))[5:-5, 5:-5]
    assert (down == [128, 128 + 8, 16]).all()


@pytest.mark.parametrize("size", [(64, 96), (1, 1), (1, 300)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_every_picture_has_all_views(size: tuple[int, int], kind: type) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (*size, 3), kind)
    views = dict(views_of(pixels))
    assert list(views) == [*how_to_read()][:4]
    assert {(view.shape, view.dtype.name) for view in views.values()} == {((*size, 3), "uint8")}


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def smooth(height: int = 240, width: int = 320) -> np.ndarray:
    small = np.random.default_rng(2).integers(60, 200, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("bars", [False, True])
def test_a_thumbnail_of_an_earlier_state_differs_where_it_was_changed(bars: bool) -> None:
    pixels = smooth()
    small = np.asarray(Image.fromarray(pixels).resize((160, 120), Image.Resampling.BOX))
    if bars:  # as cameras fill a thumbnail of another aspect than their pictures
        small = np.pad(small, ((20, 20), (0, 0), (0, 0)))
    forged = pixels.copy()
    forged[80:160, 120:200] = 255
    views = dict(views_of(forged, encoded(small)))
    assert list(views) == [*how_to_read()][:-1]
    assert views["thumbnail"].shape == forged.shape
    assert np.abs(views["thumbnail"].astype(int) - pixels).mean() < 4
    shown = views["thumbnail-difference"].mean(2)
    inside = np.zeros(shown.shape, bool)
    inside[84:156, 124:196] = True
    assert shown[inside].mean() > 10 * shown[~inside].mean()


def test_a_thumbnail_of_other_proportions_is_not_stretched() -> None:
    square = np.full((100, 100, 3), 200, np.uint8)
    shown = dict(views_of(smooth(), encoded(square)))["thumbnail"]
    assert shown[:, :30].max() < 10  # black beside it
    assert shown[:, 60:260].min() > 190


@pytest.mark.parametrize("data", [b"", b"no picture", encoded(smooth(8, 8))[:40]])
def test_what_is_no_thumbnail_has_no_view(data: bytes) -> None:
    assert "thumbnail" not in dict(views_of(smooth(), data))


def test_titles_name_the_numbers_that_views_are_made_with() -> None:
    titles = {name: view.title for name, view in how_to_read().items()}
    assert titles["error-levels"].endswith(f"JPEG quality {ELA_QUALITY}, times {ELA_GAIN}")
    assert f"where {GHOST_BLOCK} x {GHOST_BLOCK} pixels" in titles["ghost"]
    assert titles["ghost"].endswith(f" {GHOST_QUALITIES[0]} to {GHOST_QUALITIES[-1]}")
    assert titles["noise"].endswith(f"times {NOISE_GAIN}")
    assert titles["thumbnail-difference"].endswith(f"times {THUMBNAIL_GAIN}")
