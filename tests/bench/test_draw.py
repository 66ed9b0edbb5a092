"""Pictures that the benchmark draws: the contact sheet and the charts."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imlctl.bench.draw import Panel, Shown, charts, contact_sheet, extremes, round_top


def score(f1: float | None, name: str = "x.png") -> dict[str, Any]:
    return {"set": "s", "image": name, "tampered": f1 is not None, "f1": f1}


def as_array(data: bytes | None) -> Any:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


class TestSheet:
    def test_worst_and_best_are_different_pictures(self) -> None:
        scores = [score(None), score(0.5), score(0.1), score(0.9), score(0.3), score(0.7)]
        assert extremes(scores, 2) == ([2, 4], [3, 5])
        assert extremes(scores, 9) == ([2, 4, 1], [3, 5])
        assert extremes([score(None)], 2) == ([], [])
        assert extremes([score(0.4)], 2) == ([0], [])

    def test_what_is_drawn(self) -> None:
        shown = Shown(
            np.full((50, 100, 3), (200, 30, 30), np.uint8),
            np.ones((50, 100), bool),
            np.full((50, 100), 0.5, np.float32),
        )
        asked: list[int] = []

        def show(place: int) -> Shown:
            asked.append(place)
            return shown

        picture = as_array(contact_sheet([score(0.2), score(0.8)], show))
        assert asked == [0, 1]
        colours = {tuple(c) for c in picture.reshape(-1, 3).tolist()}
        assert {(200, 30, 30), (128, 128, 128), (255, 255, 255)} <= colours

    def test_deep_pictures_and_odd_names(self) -> None:
        shown = Shown(
            np.full((40, 30, 3), 65535, np.uint16), np.zeros((40, 30), bool), np.zeros((40, 30))
        )
        assert as_array(contact_sheet([score(0.2, "\x1b[31m" + "n" * 200)], lambda _: shown)).size

    def test_nothing_tampered_nothing_drawn(self) -> None:
        assert contact_sheet([score(None)], lambda _: pytest.fail("not asked for")) is None


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
