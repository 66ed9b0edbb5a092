from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from imlctl.train.masks import MAX_AREA, MIN_AREA
from imlctl.train.segments import segment

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def disc(side: int = 256, radius: int = 60) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A red disc on a slightly noisy blue ground, and where it is."""
    pixels = np.empty((side, side, 3), np.uint8)
    pixels[:] = (40, 60, 160)
    where = np.zeros((side, side), np.uint8)
    cv2.circle(where, (side // 2, side // 2), radius, 1, -1)
    pixels[where > 0] = (210, 60, 50)
    noisy = pixels + np.random.default_rng(0).normal(0, 2, pixels.shape)
    return noisy.clip(0, 255).astype(np.uint8), where > 0


def test_follows_the_border_of_a_thing() -> None:
    pixels, thing = disc()
    found = [segment(pixels, np.random.default_rng(seed)) for seed in range(20)]
    overlaps = [(mask & thing).sum() / (mask | thing).sum() for mask in found if mask is not None]
    assert len(overlaps) > 15  # the ground alone is too large to be a region, the disc is not
    assert np.median(overlaps) > 0.8  # a pixel or two short of the border


@pytest.mark.parametrize("size", [(64, 64), (100, 300), (448, 448)])
def test_regions_are_of_one_piece_and_a_fair_size(
    size: tuple[int, int], photo: Callable[..., Any]
) -> None:
    pixels = photo(0, *size)
    some = 0
    for seed in range(30):
        mask = segment(pixels, np.random.default_rng(seed))
        if mask is None:
            continue
        some += 1
        assert mask.shape == size
        assert mask.dtype == bool
        assert MIN_AREA <= mask.mean() <= MAX_AREA
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        if count > 2:  # smoothing may cut off a corner
            assert stats[1:, cv2.CC_STAT_AREA].max() > 0.9 * mask.sum()
    assert some


def test_the_same_seed_grows_the_same_region(photo: Callable[..., Any]) -> None:
    pixels = photo(1, 128, 128)
    first, second = (segment(pixels, np.random.default_rng(3)) for _ in range(2))
    assert (first is None) == (second is None)
    if first is not None:
        assert np.array_equal(first, second)


def test_a_picture_without_borders_has_none() -> None:
    flat = np.full((96, 96, 3), 90, np.uint8)
    assert segment(flat, np.random.default_rng(0)) is None
