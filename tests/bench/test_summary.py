from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as oracle

from imlctl.bench.summary import PIXEL_METRICS, PictureScore, pool, summarize
from imlctl.mask.decide import Verdict

NAN = float("nan")
MANIPULATED = Verdict.MANIPULATED


class TestSummarize:
    @staticmethod
    def score(name: str, tampered: bool, **values: Any) -> PictureScore:
        zero = dict.fromkeys(PIXEL_METRICS, 0.0 if tampered else NAN)
        rest: dict[str, Any] = dict.fromkeys(("share", "critical", "score"), 0.0)
        rest |= {"threshold": 0.5, "verdict": Verdict.NOTHING_FOUND}
        return PictureScore(set=name, image="x.png", tampered=tampered, **(zero | rest | values))

    def test_means_within_sets_then_over_sets(self) -> None:
        rows = summarize(
            [
                self.score("b", True, f1=0.2, iou=0.1, auc=0.6, best_f1=0.3, verdict=MANIPULATED),
                self.score("b", True, f1=0.4, iou=0.3, auc=0.8, best_f1=0.5),
                self.score("b", False, verdict=MANIPULATED),
                self.score("a", True, f1=0.9, iou=0.8, auc=1.0, best_f1=1.0, verdict=MANIPULATED),
            ]
        )
        assert [row.name for row in rows] == ["b", "a", "mean over sets"]
        b, a, mean = rows
        assert (b.tampered, b.authentic) == (2, 1)
        assert (b.f1, b.iou, b.auc, b.best_f1) == pytest.approx((0.3, 0.2, 0.7, 0.4))
        assert (b.found, b.false_alarms) == (0.5, 1.0)
        assert (a.tampered, a.authentic, a.found) == (1, 0, 1.0)
        assert math.isnan(a.false_alarms)
        assert (mean.tampered, mean.authentic) == (3, 1)
        assert (mean.f1, mean.auc) == pytest.approx((0.6, 0.85))  # not the mean over pictures
        assert mean.found == pytest.approx(0.75)

    def test_sets_without_a_value_do_not_count(self) -> None:
        rows = summarize(
            [
                self.score("forged", True, f1=0.5, auc=0.8),
                self.score("authentic", False, verdict=MANIPULATED),
                self.score("calm", False),
            ]
        )
        mean = rows[-1]
        assert (mean.f1, mean.auc, mean.false_alarms) == (0.5, 0.8, 0.5)

    def test_pictures_without_a_value_do_not_count(self) -> None:
        """A mask that covers the whole picture has no AUC."""
        (row,) = summarize([self.score("s", True, auc=NAN), self.score("s", True, auc=0.6)])
        assert row.auc == 0.6

    def test_one_set_needs_no_mean_and_none_has_none(self) -> None:
        assert [row.name for row in summarize([self.score("s", True)])] == ["s"]
        assert summarize([]) == []

    def test_pictures_are_ranked_and_judged(self) -> None:
        scores = [
            self.score("s", True, score=0.9, verdict=MANIPULATED),
            self.score("s", True, score=0.4, verdict=Verdict.INCONCLUSIVE),
            self.score("s", False, score=0.5, verdict=MANIPULATED),
            self.score("s", False, score=0.1),
        ]
        (row,) = summarize(scores)
        truth, called = [1, 1, 0, 0], [1, 0, 1, 0]
        assert row.image_auc == pytest.approx(oracle.roc_auc_score(truth, [0.9, 0.4, 0.5, 0.1]))
        assert row.image_f1 == pytest.approx(oracle.f1_score(truth, called))
        assert (row.found, row.false_alarms) == (0.5, 0.5)
        assert (row.suspected, row.false_suspicions) == (1.0, 0.5)
        (forged,) = summarize(scores[:2])
        assert math.isnan(forged.image_auc)
        assert math.isnan(forged.image_f1)

    def test_all_pictures_as_one_set(self) -> None:
        scores = [self.score("a", True, f1=0.0)] * 3 + [self.score("b", True, f1=1.0)]
        assert summarize(scores)[-1].f1 == 0.5
        row = pool(scores)
        assert (row.name, row.tampered, row.f1) == ("all pictures", 4, 0.25)


class TestIntervals:
    @staticmethod
    def scores(count: int, seed: int = 0) -> list[PictureScore]:
        rng = np.random.default_rng(seed)
        made = TestSummarize.score
        return [
            made(name, bool(i % 2), f1=float(rng.random()) if i % 2 else NAN, score=0.1)
            for name in ("a", "b")
            for i in range(count)
        ]

    def test_they_hold_the_value_and_narrow_with_more_pictures(self) -> None:
        widths = []
        for count in (20, 400):
            *_, mean = summarize(self.scores(count), resamples=200)
            low, high = mean.intervals["f1"]
            assert low < mean.f1 < high
            widths.append(high - low)
        assert widths[1] < widths[0] / 3

    def test_they_are_about_those_of_the_normal_law(self) -> None:
        values = [s.f1 for s in self.scores(800) if s.set == "a" and s.tampered]
        row = summarize(self.scores(800), resamples=1000)[0]
        half = 1.96 * float(np.std(values)) / math.sqrt(len(values))
        assert row.intervals["f1"] == pytest.approx((row.f1 - half, row.f1 + half), abs=half / 5)

    def test_a_seed_fixes_them_whatever_the_other_sets(self) -> None:
        scores = self.scores(30)
        first, again = (summarize(scores, resamples=50, seed=3)[0] for _ in range(2))
        alone = summarize([s for s in scores if s.set == "a"], resamples=50, seed=3)[0]
        other = summarize(scores, resamples=50, seed=4)[0]
        assert first.intervals == again.intervals == alone.intervals
        assert other.intervals != first.intervals

    def test_what_has_no_value_has_no_interval(self) -> None:
        (row,) = summarize([TestSummarize.score("s", True, f1=0.5)], resamples=20)
        assert row.intervals["f1"] == (0.5, 0.5)
        assert "false_alarms" not in row.intervals
        assert summarize([TestSummarize.score("s", True)])[0].intervals == {}
