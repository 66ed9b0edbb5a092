from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imlctl.data.manifest import Entry
from imlctl.errors import ConfigError, InputError, NumericalError
from imlctl.evaluate.score import MapAnswer, evaluate, score_picture
from imlctl.mask.decide import Rule, Verdict, decide


def answer_of(probability: Any, score: float = 0.7, rule: Rule | None = None) -> MapAnswer:
    return MapAnswer(probability, decide(probability, score, rule or Rule()))


def save(path: Path, size: tuple[int, int] = (8, 6), level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)
    return path


class TestEvaluate:
    @pytest.fixture
    def cases(self, tmp_path: Path) -> list[Entry]:
        truth = np.zeros((6, 8), np.uint8)
        truth[:3] = 255
        truth[0, 0] = 127  # masks are cut at the middle of their range
        (tmp_path / "mask.png").parent.mkdir(exist_ok=True)
        Image.fromarray(truth).save(tmp_path / "mask.png")
        image = save(tmp_path / "a.png")
        return [Entry(image, tmp_path / "mask.png", "set"), Entry(image, None, "set")]

    @staticmethod
    def answer(_: Path) -> MapAnswer:
        probability = np.full((6, 8), 0.1, np.float32)
        probability[:, :4] = 0.5
        probability[0, 0] = 0.9
        return answer_of(probability)

    def test_scores(self, cases: list[Entry]) -> None:
        forged, clean = evaluate(cases, self.answer)
        assert (forged.set, forged.image, forged.tampered) == ("set", "a.png", True)
        assert forged.marked == clean.marked == 0.5
        assert forged.score == clean.score == 0.7
        assert (forged.verdict, forged.edited, clean.edited) == (Verdict.INCONCLUSIVE, 23 / 48, 0)
        assert forged.f1 == pytest.approx(2 * 11 / (24 + 23))
        assert forged.iou == pytest.approx(11 / 36)
        wins = 11 * 12 + 0.5 * (11 * 12 + 12 * 12) - 0.0
        assert forged.auc == pytest.approx(wins / (23 * 25))
        assert forged.best_f1 == pytest.approx(2 * 23 / (48 + 23))
        assert not clean.tampered
        assert all(math.isnan(x) for x in (clean.f1, clean.iou, clean.auc, clean.best_f1))
        assert forged.precision == pytest.approx(11 / 24)
        assert forged.recall == pytest.approx(11 / 23)

    def test_f1_at_one_half_and_of_the_mask_of_the_verdict(self, cases: list[Entry]) -> None:
        faint = np.full((6, 8), 0.01, np.float32)
        faint[:3] = 0.3  # found, though no pixel reaches one half
        found, missed = (
            next(evaluate(cases, lambda _, score=score: answer_of(faint, score)))
            for score in (0.95, 0.1)
        )
        assert (found.f1, missed.f1) == (0, 0)
        assert found.f1_verdict == pytest.approx(2 * 23 / (24 + 23))
        assert missed.f1_verdict == 0

    def test_mask_of_another_size(self, cases: list[Entry], tmp_path: Path) -> None:
        wrong = replace(cases[0], mask=save(tmp_path / "wrong.png", (6, 8)))
        with pytest.raises(ConfigError, match=r"wrong.png: is 6x8, its picture 8x6"):
            next(evaluate([wrong], self.answer))

    def test_damaged_mask(self, cases: list[Entry], tmp_path: Path) -> None:
        (tmp_path / "torn.png").write_bytes((tmp_path / "mask.png").read_bytes()[:40])
        torn = replace(cases[0], mask=tmp_path / "torn.png")
        with pytest.raises(InputError, match=r"torn.png: is not a readable mask"):
            next(evaluate([torn], self.answer))

    def test_a_forgery_whose_mask_marks_nothing_is_refused(
        self, cases: list[Entry], tmp_path: Path
    ) -> None:
        empty = replace(cases[0], mask=save(tmp_path / "empty.png"))
        with pytest.raises(ConfigError, match=r"empty.png: marks nothing"):
            next(evaluate([empty], self.answer))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_map_that_is_not_finite_is_no_answer(self, value: float, cases: list[Entry]) -> None:
        def broken(path: Path) -> MapAnswer:
            answer = self.answer(path)
            answer.probability[2, 2] = value
            return answer

        with pytest.raises(NumericalError, match=r"a.png: its map contains NaN or infinity"):
            next(evaluate(cases, broken))


@pytest.mark.parametrize("score", [0.1, 0.5, 0.95])
def test_masks_and_verdicts_are_those_of_the_product(score: float) -> None:
    rng, rule = np.random.default_rng(1), Rule(0.9, 0.4)
    for _ in range(20):
        probability = rng.choice(np.float32([0.1, 0.5, 0.6, 0.7, 0.85, 0.9]), (8, 8))
        answer = answer_of(probability, score, rule)
        found = score_picture(Entry(Path("a.png"), None, "s"), answer, None)
        assert found.verdict is rule.verdict(score)
        assert (found.marked, found.score) == (answer.decision.share, score)
