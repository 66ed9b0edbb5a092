from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imlctl.train import fill

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

WAYS = {"diffuse": fill.diffuse, "smooth": fill.smooth, "piecewise": fill.piecewise}


def stripes(height: int = 96, width: int = 96, period: int = 12) -> NDArray[np.uint8]:
    """Vertical stripes, each row alike."""
    row = (np.sin(2 * np.pi * np.arange(width) / period) * 80 + 120).astype(np.uint8)
    return np.repeat(np.tile(row, (height, 1))[..., None], 3, axis=2)


def hole(height: int = 96, width: int = 96) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    mask[40:60, 35:62] = True
    return mask


@pytest.mark.parametrize("way", WAYS)
def test_what_was_in_the_hole_is_not_looked_at(way: str, photo: Callable[..., Any]) -> None:
    host = photo(3, 96, 96)
    other = host.copy()
    other[hole()] = 255 - other[hole()]
    first, second = (
        WAYS[way](np.ascontiguousarray(x), hole(), np.random.default_rng(1)) for x in (host, other)
    )
    if way == "smooth":  # its texture is taken from anywhere in the picture
        assert np.abs(first.astype(int) - second)[hole()].mean() < 12
    else:
        assert np.array_equal(first[hole()], second[hole()])


@pytest.mark.parametrize("seed", range(12))
def test_pieces_are_pixels_of_the_picture(seed: int, photo: Callable[..., Any]) -> None:
    host = photo(seed, 96, 96)
    filled = fill.piecewise(host, hole(), np.random.default_rng(seed))
    smooth = fill.smooth(host, hole(), np.random.default_rng(seed))
    known = {tuple(colour) for colour in host[~hole()].tolist()}
    copied = (filled != smooth).any(-1) & hole()
    share = np.mean([tuple(colour) in known for colour in filled[copied].tolist()])
    assert share > 0.9 or share < 0.6  # the rest were smoothed as they were copied


def test_pieces_continue_a_pattern() -> None:
    """Of the places tried, those in step with the stripes change the surroundings least."""
    errors = []
    for seed in range(20):
        filled = fill.piecewise(stripes(), hole(), np.random.default_rng(seed))
        errors.append(np.abs(filled.astype(int) - stripes())[hole()].mean())
    assert np.median(errors) < 15  # against 60 for any other phase
    assert np.mean(errors) < 30


def test_a_hole_without_surroundings_is_survived() -> None:
    everything = np.ones((96, 96), bool)
    assert fill.piecewise(stripes(), everything, np.random.default_rng(0)).shape == (96, 96, 3)
    nothing = np.zeros((96, 96), bool)
    assert fill.piecewise(stripes(), nothing, np.random.default_rng(0)).shape == (96, 96, 3)
