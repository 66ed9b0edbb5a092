"""Scenes that are photographed anew: whatever they show, they are authentic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imlctl.train import scene

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(("depth", "sigma"), [(0.0, 0.5), (0.25, 1.5), (0.5, 3.0), (1.0, 6.0)])
def test_each_depth_has_its_own_blur(depth: float, sigma: float, photo: Callable[..., Any]) -> None:
    pixels = photo(0, 48, 64)
    out = scene.defocus(pixels, np.full((48, 64), depth, np.float32), 6.0)
    expected = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), sigma)
    assert np.abs(out - expected).max() < 1e-3


def test_depths_in_between_are_blended_and_keep_the_light() -> None:
    flat = np.full((40, 40, 3), 90, np.uint8)
    depth = np.linspace(0, 1, 1600, dtype=np.float32).reshape(40, 40)
    assert np.abs(scene.defocus(flat, depth, 5.0) - 90).max() < 1e-3


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, height=st.integers(32, 90), width=st.integers(32, 90))
def test_fields_stay_in_their_range(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    depth, light = scene._depth(pixels, rng), scene._light(rng, height, width)
    assert depth.shape == light.shape == (height, width)
    assert depth.dtype == light.dtype == np.float32
    assert 0 <= depth.min() <= depth.max() <= 1 + 1e-6
    assert 0.24 < light.min() <= light.max() <= 1 + 1e-6


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_a_retaken_picture_keeps_shape_and_type(seed: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (41, 52, 3), dtype=np.uint8)
    first, second = (scene.retake(pixels, np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == pixels.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, second)


def test_noise_is_the_same_in_focus_and_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare wall, half of it out of focus: the camera's noise must not tell."""
    depth = np.zeros((128, 128), np.float32)
    depth[:, 64:] = 1
    monkeypatch.setattr(scene, "_depth", lambda *_: depth)
    monkeypatch.setattr(scene, "_light", lambda *_: np.ones_like(depth))
    wall = np.full((128, 128, 3), 120, np.uint8)
    for seed in range(10):
        taken = scene.retake(wall, np.random.default_rng(seed)).astype(float)
        assert taken[:, :60].std() == pytest.approx(taken[:, 68:].std(), rel=0.1)


def test_detail_remains_only_where_it_was_in_focus(
    monkeypatch: pytest.MonkeyPatch, photo: Callable[..., Any]
) -> None:
    depth = np.zeros((96, 96), np.float32)
    depth[:, 48:] = 1
    pixels = photo(0, 96, 96)
    out = scene.defocus(pixels, depth, 4.0)
    gone = np.abs(out - pixels).mean((0, 2))
    assert gone[56:].mean() > 2 * gone[:40].mean()
