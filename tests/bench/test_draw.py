"""Pictures that the benchmark draws: the contact sheet and the charts."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imlctl.bench.draw import Panel, charts, contact_sheet, round_top


def as_array(data: bytes | None) -> Any:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_contact_sheet_shows_every_kind_of_view() -> None:
    shape = (50, 100)
    views = (
        np.full((*shape, 3), (200, 30, 30), np.uint8),
        np.full((*shape, 3), 65535, np.uint16),
        np.zeros(shape, bool),
        np.full(shape, 0.5, np.float32),
    )
    sheet = as_array(contact_sheet([("one", views), ("\x1b[31m" + "n" * 999, views[:2])]))
    colours = {tuple(c) for c in sheet.reshape(-1, 3).tolist()}
    assert {(200, 30, 30), (255, 255, 255), (0, 0, 0), (128, 128, 128)} <= colours
    assert sheet.shape[1] > sheet.shape[0]


class TestCharts:
    PANEL = Panel("F1 after JPEG", "quality", ["a", "b", "c"], [0.9, None, 0.2], [None] * 3, 0.8)

    def test_size_grows_with_panels(self) -> None:
        one, four = as_array(charts([self.PANEL])), as_array(charts([self.PANEL] * 4))
        assert four.shape[:2] == (2 * one.shape[0], 3 * one.shape[1])
        assert np.array_equal(four[: one.shape[0], : one.shape[1]], one)

    def test_higher_values_are_drawn_higher(self) -> None:
        heights = []
        for value in (0.1, 0.9):
            panel = Panel("t", "x", ["a"], [value], [(value, value)])
            picture = as_array(charts([panel])).astype(int)
            blue = (picture[..., 2] - picture[..., 0]) > 120
            heights.append(np.nonzero(blue)[0].mean())
        assert heights[1] < heights[0]

    def test_same_panels_same_bytes(self) -> None:
        assert charts([self.PANEL]) == charts([self.PANEL])

    def test_panels_are_checked(self) -> None:
        with pytest.raises(ValueError, match="each place"):
            Panel("t", "x", ["a"], [], [None])

    @pytest.mark.parametrize(("highest", "top"), [(0.9, 1), (1.0, 1), (3.2, 5), (77, 100)])
    def test_axes_end_at_round_numbers(self, highest: float, top: float) -> None:
        assert round_top([0.1, highest]) == pytest.approx(top)
