from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imlctl.errors import NumericalError
from imlctl.report.preview import (
    MAP_SIDE,
    PHOTO_SIDE,
    Preview,
    make_preview,
    photo_jpeg,
    share_curve,
    shrunk,
    small_map_png,
)


def image(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)))


def random_map(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((height, width), np.float32)


def test_a_small_picture_keeps_its_size_and_its_map_every_level() -> None:
    probability = random_map(60, 80)
    pixels = np.full((60, 80, 3), (200, 100, 50), np.uint8)
    preview = make_preview(pixels, probability)
    assert np.array_equal(image(preview.soft), np.rint(probability * 255).astype(np.uint8))
    photo = image(preview.photo)
    assert photo.shape == (60, 80, 3)
    assert np.abs(photo.astype(int) - pixels).max() <= 3


@pytest.mark.parametrize("shape", [(3000, 4000), (5000, 40), (1, 3000), (641, 640)])
def test_a_large_one_is_reduced_with_its_aspect(shape: tuple[int, int]) -> None:
    preview = make_preview(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.float32))
    for data, side in ((preview.photo, PHOTO_SIDE), (preview.soft, MAP_SIDE)):
        height, width = image(data).shape[:2]
        assert max(height, width) == side
        assert height == max(1, round(shape[0] * side / max(shape)))
        assert width == max(1, round(shape[1] * side / max(shape)))


def test_a_single_high_pixel_is_never_lost() -> None:
    probability = np.full((2000, 3001), 0.1, np.float32)
    probability[1777, 2999] = 1.0
    for side in (MAP_SIDE, 77):
        small = image(small_map_png(probability, side))
        assert small.max() == 255
        assert (small == 255).sum() == 1
        row, column = np.argwhere(small == 255)[0]
        assert abs(row - 1777 * small.shape[0] / 2000) <= 1
        assert abs(column - 2999 * small.shape[1] / 3001) <= 1
    preview = shrunk(make_preview(np.zeros((2000, 3001, 3), np.uint8), probability), 160)
    assert image(preview.soft).max() == 255


def test_sixteen_bits_are_shown_in_their_upper_eight() -> None:
    photo = image(photo_jpeg(np.full((16, 16, 3), 40_000, np.uint16)))
    assert np.abs(photo.astype(int) - 40_000 // 256).max() <= 2


def test_the_curve_counts_every_pixel_of_the_map() -> None:
    probability = random_map(1200, 1100)
    probability[:10] = 0.5
    probability[10, :5] = 1.0
    probability[11, :5] = 0.0
    curve = share_curve(probability)
    assert len(curve) == 101
    assert curve[0] == 1
    for step in (1, 25, 50, 75, 99):
        assert curve[step] == pytest.approx((probability >= step / 100).mean(), abs=2e-6)
    assert curve[100] == pytest.approx(5 / probability.size, abs=1e-6)
    assert all(high >= low for high, low in pairwise(curve))


def test_a_packed_preview_is_the_same_again_and_of_the_same_bytes() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (900, 1300, 3), np.uint8)
    probability = rng.random((900, 1300), np.float32)
    boxes = [(1200, 10, 50, 60), (0, 0, 1300, 900)]
    views = [("noise", pixels), ("ghost", pixels)]
    preview = make_preview(pixels, probability, boxes=boxes, views=views)
    assert Preview.unpacked(preview.packed()) == preview
    assert preview.packed() == preview.packed()
    assert [crop.box for crop in preview.crops] == [(660, 0, 640, 640), (0, 0, 1300, 900)]
    crop = np.asarray(Image.open(io.BytesIO(preview.crops[0].photo)))
    assert crop.shape == (640, 640, 3)  # not reduced
    few = shrunk(preview, 640, extras=len(preview.crops[0].photo) + len(preview.crops[0].soft))
    assert (few.crops, few.views) == (preview.crops[:1], ())


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (70, 50, 10, 10), (0, 0, 80, 60)])
def test_a_crop_of_a_small_picture_is_all_of_it(box: tuple[int, int, int, int]) -> None:
    pixels = np.zeros((60, 80, 3), np.uint8)
    preview = make_preview(pixels, np.zeros((60, 80), np.float32), boxes=[box])
    assert preview.crops[0].box == (0, 0, 80, 60)


def test_shrinking_makes_smaller_and_never_larger() -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (900, 1200, 3)).astype(np.uint8)
    preview = make_preview(pixels, random_map(900, 1200))
    small = shrunk(preview, 240)
    assert max(image(small.photo).shape) == 240
    assert max(image(small.soft).shape) == 96
    assert len(small.photo) + len(small.soft) < 0.4 * (len(preview.photo) + len(preview.soft))
    assert small.curve == preview.curve
    assert shrunk(small, 240) is small
    assert shrunk(small, 640) is small


def test_wrong_maps_are_refused() -> None:
    pixels = np.zeros((8, 9, 3), np.uint8)
    probability = np.zeros((8, 9), np.float32)
    probability[3, 3] = np.nan
    with pytest.raises(NumericalError):
        make_preview(pixels, probability)
