from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imlctl.bench.accuracy import (
    Answer,
    Rule,
    copy_move_masks,
    evaluate,
    score_picture,
)
from imlctl.data.manifest import Entry
from imlctl.data.masks import read_mask
from imlctl.errors import ConfigError, InputError, NumericalError
from imlctl.mask.decide import decide


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
    def answer(_: Path) -> Answer:
        probability = np.full((6, 8), 0.1, np.float32)
        probability[:, :4] = 0.5
        probability[0, 0] = 0.9
        return Answer(probability, 0.7)

    def test_scores(self, cases: list[Entry]) -> None:
        forged, clean = evaluate(cases, self.answer)
        assert (forged.set, forged.image, forged.tampered) == ("set", "a.png", True)
        assert forged.share == clean.share == 0.5
        assert forged.score == clean.score == 0.7
        assert forged.f1 == pytest.approx(2 * 11 / (24 + 23))
        assert forged.iou == pytest.approx(11 / 36)
        wins = 11 * 12 + 0.5 * (11 * 12 + 12 * 12) - 0.0
        assert forged.auc == pytest.approx(wins / (23 * 25))
        assert forged.best_f1 == pytest.approx(2 * 23 / (48 + 23))
        assert not clean.tampered
        assert all(math.isnan(x) for x in (clean.f1, clean.iou, clean.auc, clean.best_f1))
        assert forged.precision == pytest.approx(11 / 24)
        assert forged.recall == pytest.approx(11 / 23)
        assert math.isnan(forged.f1_copy)  # no source is known

    def test_threshold_is_included(self, cases: list[Entry]) -> None:
        shares = [next(evaluate(cases, self.answer, threshold=t)).share for t in (0.5, 0.51, 0.05)]
        assert shares == [0.5, 1 / 48, 1.0]

    def test_mask_of_another_size(self, cases: list[Entry], tmp_path: Path) -> None:
        wrong = replace(cases[0], mask=save(tmp_path / "wrong.png", (6, 8)))
        with pytest.raises(ConfigError, match=r"wrong.png: is \(8, 6\), its picture \(6, 8\)"):
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
        def broken(path: Path) -> Answer:
            answer = self.answer(path)
            answer.probability[2, 2] = value
            return answer

        with pytest.raises(NumericalError, match=r"a.png: its map holds NaN or infinity"):
            next(evaluate(cases, broken))


@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("score", [0.1, 0.5, 0.95])
def test_masks_and_verdicts_are_those_of_the_product(score: float, threshold: float | None) -> None:
    rng, rule = np.random.default_rng(1), Rule(0.9, 0.4)
    for _ in range(20):
        probability = rng.choice(np.float32([0.1, 0.5, 0.6, 0.7, 0.85, 0.9]), (8, 8))
        decision = decide(probability, score, rule, threshold=threshold)
        case, answer = Entry(Path("a.png"), None, "s"), Answer(probability, score)
        found = score_picture(case, answer, rule, None, threshold=threshold)
        assert found.verdict is decision.verdict
        assert (found.share, found.threshold) == (decision.share, decision.threshold)


class TestCopyMove:
    COPY, SOURCE = np.zeros((2, 10), bool), np.zeros((2, 10), bool)
    COPY[:, :3] = True
    SOURCE[:, 5:8] = True

    def test_a_mask_of_the_copy(self) -> None:
        copy, both = copy_move_masks(self.COPY, self.SOURCE)
        assert np.array_equal(copy, self.COPY)
        assert np.array_equal(both, self.COPY | self.SOURCE)

    def test_a_mask_of_both(self) -> None:
        copy, both = copy_move_masks(self.COPY | self.SOURCE, self.SOURCE)
        assert np.array_equal(copy, self.COPY)
        assert np.array_equal(both, self.COPY | self.SOURCE)

    def test_both_conventions_are_scored(self, tmp_path: Path) -> None:
        for name, mask in (("copy", self.COPY), ("source", self.SOURCE)):
            Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"{name}.png")
        case = Entry(tmp_path / "a.png", tmp_path / "copy.png", "s", source=tmp_path / "source.png")
        (score,) = evaluate([case], lambda _: Answer(self.COPY.astype(np.float32), 1.0))
        assert (score.f1, score.f1_copy) == (1, 1)
        assert score.f1_both == pytest.approx(2 * 6 / (6 + 12))

    def test_a_source_of_another_size(self, tmp_path: Path) -> None:
        source = save(tmp_path / "s.png", (3, 3))
        case = Entry(tmp_path / "a.png", tmp_path / "m.png", "s", source=source)
        Image.fromarray(self.COPY.astype(np.uint8)).save(tmp_path / "m.png")
        assert case.source is not None
        assert read_mask(case.source).shape == (3, 3)
        with pytest.raises(ConfigError, match=r"s.png: is \(3, 3\)"):
            next(evaluate([case], lambda _: Answer(self.COPY.astype(np.float32), 1.0)))
