from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imlctl.train import masks
from imlctl.train.masks import MAX_AREA, feather, fit_object, random_mask

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = list(dict.fromkeys(masks._SHAPES))  # one is listed twice, to be drawn more often


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, height=st.integers(32, 120), width=st.integers(32, 120))
def test_random_masks_fit_the_frame_and_hold_something(seed: int, height: int, width: int) -> None:
    mask = random_mask(np.random.default_rng(seed), height, width)
    assert mask.shape == (height, width)
    assert mask.dtype == bool
    assert mask.any()
    assert mask.mean() < 0.55  # 40 % is aimed at; a polygon may come out larger


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_the_same_seed_draws_the_same_mask(seed: int) -> None:
    first, second = (random_mask(np.random.default_rng(seed), 64, 80) for _ in range(2))
    assert np.array_equal(first, second)


def test_five_shapes_are_drawn() -> None:
    assert len(SHAPES) == 5


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_nearly_always_there_and_near_its_area(
    shape: Callable[..., masks.Mask],
) -> None:
    area = 0.1 * 128 * 128
    drawn = [shape(np.random.default_rng(seed), 128, 128, area) for seed in range(100)]
    assert all(mask.dtype == bool and mask.shape == (128, 128) for mask in drawn)
    assert np.mean([mask.any() for mask in drawn]) > 0.9
    assert 0.4 < np.mean([mask.sum() for mask in drawn]) / area < 1.4  # some leave the frame
    assert max(mask.sum() for mask in drawn) < 2.2 * area


def test_areas_span_the_range_evenly_in_their_logarithm() -> None:
    shares = [random_mask(np.random.default_rng(s), 128, 128).mean() for s in range(400)]
    small, middle, large = np.histogram(shares, [0, 0.02, 0.09, 1])[0] / 400
    assert 0.2 < small < 0.5
    assert 0.2 < middle < 0.5
    assert 0.15 < large < 0.45
    assert max(shares) > 0.3


def test_shapes_lie_anywhere() -> None:
    hits = np.mean([random_mask(np.random.default_rng(s), 64, 64) for s in range(400)], axis=0)
    quarters = [hits[:32, :32], hits[:32, 32:], hits[32:, :32], hits[32:, 32:]]
    means = [q.mean() for q in quarters]
    assert max(means) < 1.4 * min(means)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, height=st.integers(48, 96), width=st.integers(48, 96))
def test_an_object_is_fitted_inside_the_frame(seed: int, height: int, width: int) -> None:
    outline = np.zeros((70, 90), bool)
    outline[10:30, 20:80] = True
    outline[30:60, 20:40] = True  # an L, so that mirroring shows
    mask = fit_object(np.random.default_rng(seed), outline, height, width)
    assert mask.shape == (height, width)
    assert mask.dtype == bool
    ys, xs = np.nonzero(mask)
    tall, wide = np.ptp(ys) + 1, np.ptp(xs) + 1
    assert 4 <= tall <= 0.75 * height
    assert 4 <= wide <= 0.75 * width
    share = mask.sum() / (tall * wide)
    assert abs(share - 0.6) < 0.2  # the L's share of its box survives the scaling


def test_an_object_is_mirrored_half_of_the_time() -> None:
    outline = np.zeros((40, 40), bool)
    outline[:, :10] = True
    outline[:10] = True
    heavy_left = 0
    for seed in range(100):
        mask = fit_object(np.random.default_rng(seed), outline, 128, 128)
        xs = np.nonzero(mask)[1]
        heavy_left += xs.mean() < (xs.min() + xs.max()) / 2
    assert 30 < heavy_left < 70


def test_a_single_pixel_object_grows_to_something() -> None:
    outline = np.zeros((40, 40), bool)
    outline[7, 9] = True
    assert fit_object(np.random.default_rng(0), outline, 64, 64).sum() >= 16


def test_feather_of_nothing_is_the_mask() -> None:
    mask = random_mask(np.random.default_rng(0), 64, 64)
    alpha = feather(mask, 0.0)
    assert alpha.dtype == np.float32
    assert np.array_equal(alpha, mask.astype(np.float32))


def test_feather_softens_the_border_and_keeps_the_middle() -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    alpha = feather(mask, 2.0)
    assert alpha.min() >= 0
    assert alpha.max() <= 1 + 1e-6
    assert alpha[32, 32] > 0.999
    assert alpha[0, 0] == 0
    assert 0.4 < alpha[32, 16] < 0.7
    assert np.count_nonzero((alpha >= 0.5) != mask) <= 16  # the corners alone


def test_bounds_are_those_of_the_recipe() -> None:
    assert masks.MIN_AREA == 0.005
    assert MAX_AREA == 0.4
