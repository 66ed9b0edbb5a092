from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from imlctl.train.edges import WIDTH, edge_map

KINDS: Any = ("canny", "band")


def box() -> Any:
    mask = np.zeros((64, 80), bool)
    mask[16:48, 20:60] = True
    return mask


@pytest.mark.parametrize(("kind", "thickness"), [("canny", WIDTH), ("band", WIDTH - 1)])
def test_a_straight_border_is_marked_so_wide(kind: Any, thickness: int) -> None:
    edges = edge_map(box(), kind)
    row = np.flatnonzero(edges[32])
    left, right = row[row < 40], row[row >= 40]
    for side, border in ((left, 20), (right, 60)):
        assert len(side) == thickness
        assert abs(side.mean() + 0.5 - border) <= 1  # centred on the border


def test_the_band_is_what_the_cross_reaches_from_both_sides() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((20, 24)) < 0.02
    wide, reach = np.zeros_like(mask), 3
    for y, x in np.ndindex(mask.shape):
        column = mask[max(0, y - reach) : y + reach + 1, x]
        row = mask[y, max(0, x - reach) : x + reach + 1]
        near = np.concatenate((column, row))
        wide[y, x] = near.any() and not near.all()
    assert wide.any()
    assert np.array_equal(edge_map(mask, "band"), wide)


@pytest.mark.parametrize("kind", KINDS)
def test_inside_and_outside_have_the_same_edge(kind: Any) -> None:
    mask = box()
    same = edge_map(mask, kind) == edge_map(~mask, kind)
    assert same.mean() > 0.99 if kind == "canny" else same.all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [False, True])
def test_the_frame_is_no_edge(kind: Any, value: bool) -> None:
    assert not edge_map(np.full((32, 32), value), kind).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_width_is_a_choice(kind: Any) -> None:
    areas = [edge_map(box(), kind, width=w).sum() for w in (3, 7, 11)]
    assert areas == sorted(areas)
    assert areas[0] < areas[1] < areas[2]


def test_refuses_what_it_does_not_know() -> None:
    wrong: Any = "sobel"
    with pytest.raises(ValueError, match="unknown edge map 'sobel'; known: canny, band"):
        edge_map(box(), wrong)
    for width in (0, 4):
        with pytest.raises(ValueError, match="must be odd and positive"):
            edge_map(box(), width=width)
