from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as oracle

from imlctl.evaluate.score import (
    PIXEL_METRICS,
    PictureAccuracy,
    by_size,
    reliability,
    summarize_sets,
)
from imlctl.mask.decide import Verdict
from imlctl.mask.rates import counted_share

NAN = float("nan")
FOUND, MAYBE, NOTHING = Verdict


def score(name: str, tampered: bool, **values: Any) -> PictureAccuracy:
    pixels = dict.fromkeys(PIXEL_METRICS, 0.0 if tampered else NAN)
    edited = 0.05 if tampered else 0.0
    rest = {"verdict": NOTHING, "score": 0.0, "marked": 0.0, "edited": edited}
    return PictureAccuracy(set=name, image="x.png", tampered=tampered, **(pixels | rest | values))


class TestSummarize:
    def test_means_within_sets_then_over_sets(self) -> None:
        b, a, mean, every = summarize_sets(
            [
                score("b", True, f1=0.2, iou=0.1, auc=0.6, best_f1=0.3),
                score("b", True, f1=0.4, iou=0.3, auc=0.8, best_f1=0.5),
                score("b", False),
                score("a", True, f1=0.9, iou=0.8, auc=1.0, best_f1=1.0),
            ]
        )
        assert [row.name for row in (b, a, mean, every)] == [
            "b",
            "a",
            "mean over sets",
            "all pictures",
        ]
        assert (b.tampered, b.authentic) == (2, 1)
        assert (b.f1, b.iou, b.auc, b.best_f1) == pytest.approx((0.3, 0.2, 0.7, 0.4))
        assert (a.tampered, a.authentic) == (1, 0)
        assert (mean.tampered, mean.authentic) == (every.tampered, every.authentic) == (3, 1)
        assert (mean.f1, mean.auc) == pytest.approx((0.6, 0.85))  # not the mean over pictures
        assert (every.f1, every.auc) == pytest.approx((0.5, 0.8))

    def test_verdicts_are_counted_with_exact_intervals(self) -> None:
        forged = [score("s", True, verdict=v) for v in (FOUND, FOUND, MAYBE, NOTHING)]
        (row,) = summarize_sets([*forged, *[score("s", False)] * 18])
        assert row.rates is not None
        manipulated = row.rates[FOUND]
        assert manipulated["forgeries"] == counted_share(2, 4)
        assert manipulated["authentic"] == counted_share(0, 18)
        assert manipulated["authentic"]["interval"] == pytest.approx((0, 0.1853), abs=1e-4)
        assert row.rates[MAYBE]["forgeries"] == counted_share(1, 4)
        document = json.loads(json.dumps(asdict(row)))
        assert document["rates"]["nothing found"]["authentic"]["count"] == 18
        two = summarize_sets([*forged, score("other", False)])
        assert [row.rates is None for row in two] == [False, False, True, False]

    def test_sets_and_pictures_without_a_value_do_not_count(self) -> None:
        mean = summarize_sets([score("forged", True, f1=0.5, auc=0.8), score("clean", False)])[-2]
        assert (mean.f1, mean.auc) == (0.5, 0.8)
        # A mask that covers the whole picture has no AUC.
        (row,) = summarize_sets([score("s", True, auc=NAN), score("s", True, auc=0.6)])
        assert row.auc == 0.6

    def test_one_set_needs_no_mean_and_none_has_none(self) -> None:
        assert [row.name for row in summarize_sets([score("s", True)])] == ["s"]
        assert summarize_sets([]) == []

    def test_pictures_are_ranked(self) -> None:
        levels = ((True, 0.9), (True, 0.4), (False, 0.5), (False, 0.1))
        scores = [score("s", tampered, score=level) for tampered, level in levels]
        (row,) = summarize_sets(scores)
        expected = oracle.roc_auc_score([1, 1, 0, 0], [0.9, 0.4, 0.5, 0.1])
        assert row.image_auc == pytest.approx(expected)
        (forged,) = summarize_sets(scores[:2])
        assert math.isnan(forged.image_auc)


class TestIntervals:
    @staticmethod
    def scores(count: int, seed: int = 0) -> list[PictureAccuracy]:
        rng = np.random.default_rng(seed)
        return [
            score(name, bool(i % 2), f1=float(rng.random()) if i % 2 else NAN, score=0.1)
            for name in ("a", "b")
            for i in range(count)
        ]

    def test_they_hold_the_value_and_narrow_with_more_pictures(self) -> None:
        widths = []
        for count in (20, 400):
            *_, mean, _ = summarize_sets(self.scores(count), resamples=200)
            low, high = mean.intervals["f1"]
            assert low < mean.f1 < high
            widths.append(high - low)
        assert widths[1] < widths[0] / 3

    def test_they_are_about_those_of_the_normal_law(self) -> None:
        values = [s.f1 for s in self.scores(800) if s.set == "a" and s.tampered]
        row = summarize_sets(self.scores(800), resamples=1000)[0]
        half = 1.96 * float(np.std(values)) / math.sqrt(len(values))
        assert row.intervals["f1"] == pytest.approx((row.f1 - half, row.f1 + half), abs=half / 5)

    def test_they_repeat_whatever_the_other_sets(self) -> None:
        scores = self.scores(30)
        first, again = (summarize_sets(scores, resamples=50)[0] for _ in range(2))
        alone = summarize_sets([s for s in scores if s.set == "a"], resamples=50)[0]
        assert first.intervals == again.intervals == alone.intervals

    def test_one_picture_has_none(self) -> None:
        one = [score("s", True, f1=0.5, score=0.9)]
        clean = [score("s", False, score=0.1)] * 3
        (row,) = summarize_sets([*one, *clean], resamples=20)
        assert row.image_auc == 1
        assert row.intervals == {}

    def test_a_perfect_ranking_has_a_width(self) -> None:
        scores = [score("s", True, score=0.9)] * 9 + [score("s", False, score=0.1)] * 9
        (row,) = summarize_sets(scores)
        low, high = row.intervals["image_auc"]
        assert low < 0.9 < high == 1


def test_forgeries_by_the_size_of_the_edit() -> None:
    sizes = (0.001, 0.05, 0.1, 0.3)
    scores = [score("s", True, edited=s, f1=s, f1_verdict=2 * s) for s in sizes]
    small, middle, large = by_size([*scores, score("s", False)])
    assert [row["pictures"] for row in (small, middle, large)] == [1, 2, 1]
    assert (middle["f1"], middle["f1_verdict"]) == pytest.approx((0.075, 0.15))
    assert (small["size"], large["f1"]) == ("under 1 %", 0.3)
    assert math.isnan(by_size([])[0]["f1"])


class TestReliability:
    def test_both_kinds_weigh_the_same(self) -> None:
        scores = [score("s", True, score=s) for s in (0.15, 1.0)]
        scores += [score("s", False, score=s) for s in (0.1, 0.1, 0.1, 0.95)]
        low, high = reliability(scores)
        assert (low["low"], low["high"], low["tampered"], low["authentic"]) == (0.1, 0.2, 1, 3)
        assert low["observed"] == pytest.approx((1 / 2) / (1 / 2 + 3 / 4))
        assert high["observed"] == pytest.approx((1 / 2) / (1 / 2 + 1 / 4))
        assert high["score"] == pytest.approx((1.0 / 2 + 0.95 / 4) / (3 / 4))
        assert (high["low"], high["high"]) == (0.9, 1.0)

    def test_a_calibrated_score_is_observed(self) -> None:
        rng = np.random.default_rng(0)
        levels = rng.random(4000)
        scores = [score("s", bool(rng.random() < p), score=float(p)) for p in levels]
        for row in reliability(scores):
            assert row["observed"] == pytest.approx(row["score"], abs=0.06)

    def test_without_both_kinds_there_is_nothing_to_compare(self) -> None:
        assert reliability([score("s", True)]) == []
