from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imlctl.evaluate.charts import _ticks
from imlctl.train.checkpoint import Log
from imlctl.train.validate import draw_curves

if TYPE_CHECKING:
    from pathlib import Path


def lines(*events: dict[str, Any]) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


def step(number: int, **numbers: float) -> dict[str, Any]:
    return {"event": "step", "step": number, **numbers}


def draw(tmp_path: Path, text: str) -> Any:
    (tmp_path / "log.jsonl").write_text(text)
    png = draw_curves(tmp_path / "log.jsonl")
    return None if png is None else np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_one_panel_for_each_kind_of_number(tmp_path: Path) -> None:
    loss = [step(n, loss=1 / n) for n in range(1, 60)]
    one = draw(tmp_path, lines(*loss))
    scores = [{"event": "validation", "step": n, "synthetic_auc": 0.5 + n / 99} for n in (1, 9)]
    two = draw(tmp_path, lines(*loss, *scores))
    assert one.shape == (300, 880, 3)
    assert two.shape == (600, 880, 3)
    assert np.array_equal(two[:300], one)


def test_a_falling_number_is_a_falling_line(tmp_path: Path) -> None:
    picture = draw(tmp_path, lines(*(step(n, loss=1 - n / 100) for n in range(101))))
    blue = (picture == (0, 114, 178)).all(-1)
    blue[:, 690:] = False  # the legend
    heights = [np.nonzero(blue[:, x])[0].mean() for x in (100, 300, 500, 670)]
    assert heights == sorted(heights)
    assert heights[-1] - heights[0] > 120


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 400, [0, 100, 200, 300, 400]),
        (0.8579, 0.8692, [0.855, 0.86, 0.865, 0.87]),
        (1, 1, [0.5, 1.0, 1.5]),
        (-3, 1e5, [-5e4, 0, 5e4, 1e5]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, expected: list[float]) -> None:
    ticks = _ticks(low, high, 4)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert len(ticks) <= 8
    assert {round(t, 9) for t in ticks} >= {round(t, 9) for t in expected[1:-1]}


@pytest.mark.parametrize(
    "text",
    [
        lines(step(20, loss=0.5)),
        lines(step(20, loss=0.5), step(40, loss=0.5)),
        lines(step(20, loss=0.5)) + '{"event": "st',
        lines(step(20, loss=0.5, norm=float("nan"))),
    ],
)
def test_odd_logs(text: str, tmp_path: Path) -> None:
    assert draw(tmp_path, text).shape == (300, 880, 3)


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert draw(tmp_path, "") is None
    assert draw(tmp_path, lines({"event": "skipped", "what": "a"})) is None


def test_a_resumed_run_says_a_step_twice_and_the_later_word_counts(tmp_path: Path) -> None:
    once = draw(tmp_path, lines(*(step(n, loss=n) for n in (20, 40, 60))))
    twice = draw(
        tmp_path, lines(step(20, loss=20), step(40, loss=900), *(step(n, loss=n) for n in (40, 60)))
    )
    assert np.array_equal(once, twice)


def test_only_one_process_writes(tmp_path: Path) -> None:
    told: list[Any] = []
    Log(None, told.append)({"event": "step"})
    assert told == []
    Log(tmp_path / "log.jsonl", told.append)({"event": "regenerated"})
    assert told == [{"event": "regenerated"}]
    assert not (tmp_path / "log.jsonl").exists()
