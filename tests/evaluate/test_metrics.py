from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn import metrics as oracle

from imlctl.evaluate.metrics import (
    auc_interval,
    columns_mean,
    curve,
    map_scores,
    mask_scores,
    pixel_auc,
    pixel_f1,
    threshold_at,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPE = (6, 7)
MASKS = hnp.arrays(np.bool_, SHAPE)
# Few distinct values, so that there are many ties.
TIED = hnp.arrays(np.float32, SHAPE, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]))


def as_mask(*rows: str) -> NDArray[np.bool_]:
    return np.array([[c == "#" for c in row] for row in rows])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [4, 10**6])
class TestAgainstScikitLearn:
    """Random maps and masks of many pixels, with and without ties."""

    @staticmethod
    def draw(seed: int, levels: int) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        truth = rng.random((40, 50)) < rng.uniform(0.01, 0.9)
        noisy = 0.4 * truth + rng.random(truth.shape)
        return (np.floor(noisy / 1.4 * levels) / levels).astype(np.float32), truth

    def test_masks(self, seed: int, levels: int) -> None:
        probability, truth = self.draw(seed, levels)
        predicted, t = probability >= 0.5, truth.ravel()
        p = predicted.ravel()
        assert mask_scores(predicted, truth) == pytest.approx(
            {
                "f1": oracle.f1_score(t, p),
                "iou": oracle.jaccard_score(t, p),
                "precision": oracle.precision_score(t, p),
                "recall": oracle.recall_score(t, p),
            }
        )

    def test_curves(self, seed: int, levels: int) -> None:
        probability, truth = self.draw(seed, levels)
        t, p = truth.ravel(), probability.ravel()
        found = map_scores(probability, truth)
        assert found["auc"] == pytest.approx(oracle.roc_auc_score(t, p))
        assert found["ap"] == pytest.approx(oracle.average_precision_score(t, p))
        precision, recall, _ = oracle.precision_recall_curve(t, p)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        assert found["best_f1"] == pytest.approx(f1.max())


def test_what_cannot_be_measured_is_no_number() -> None:
    nothing, everything = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    flat = np.full((2, 2), 0.5, np.float32)
    assert all(math.isnan(value) for value in map_scores(flat, nothing).values())
    assert math.isnan(pixel_auc(flat, everything))
    assert math.isnan(mask_scores(nothing, nothing)["recall"])
    assert mask_scores(nothing, everything)["precision"] == 0


def test_means_leave_out_what_is_missing() -> None:
    nan = math.nan
    rows = np.array([[1.0, nan, nan], [3.0, 5.0, nan]])
    assert columns_mean(rows)[:2].tolist() == [2.0, 5.0]
    assert math.isnan(columns_mean(rows)[2])
    assert columns_mean(np.empty((0, 2))).shape == (2,)


class TestF1AndIoU:
    @settings(max_examples=60, deadline=None)
    @given(predicted=MASKS, truth=MASKS)
    def test_against_their_definitions(self, predicted: Any, truth: Any) -> None:
        pairs = list(zip(predicted.ravel(), truth.ravel(), strict=True))
        tp = sum(p and t for p, t in pairs)
        fp, fn = sum(p and not t for p, t in pairs), sum(t and not p for p, t in pairs)
        f1 = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0
        iou = tp / (tp + fp + fn) if tp + fp + fn else 1.0
        assert pixel_f1(predicted, truth) == pytest.approx(f1)
        assert mask_scores(predicted, truth)["iou"] == pytest.approx(iou)

    @pytest.mark.parametrize(
        ("predicted", "truth", "f1", "iou"),
        [
            (as_mask("##.."), as_mask("##.."), 1, 1),
            (as_mask("##.."), as_mask("..##"), 0, 0),
            (as_mask("###."), as_mask("##.."), 0.8, 2 / 3),
            (as_mask("...."), as_mask("...."), 1, 1),
            (as_mask("...."), as_mask("#..."), 0, 0),
            (as_mask("#..."), as_mask("...."), 0, 0),
        ],
    )
    def test_edge_cases(self, predicted: Any, truth: Any, f1: float, iou: float) -> None:
        assert pixel_f1(predicted, truth) == pytest.approx(f1)
        assert mask_scores(predicted, truth)["iou"] == pytest.approx(iou)

    def test_the_opposite_of_the_truth_is_no_success(self) -> None:
        truth = as_mask("##..", "##..")
        assert pixel_f1(~truth, truth) == 0


class TestCurve:
    @settings(max_examples=60, deadline=None)
    @given(probability=TIED, truth=MASKS)
    def test_area_is_the_chance_to_rank_a_pair_rightly(self, probability: Any, truth: Any) -> None:
        forged, clean = probability[truth], probability[~truth]
        auc = pixel_auc(probability, truth)
        if not len(forged) or not len(clean):
            assert math.isnan(auc)
            return
        wins = (forged[:, None] > clean).sum() + 0.5 * (forged[:, None] == clean).sum()
        assert auc == pytest.approx(wins / (len(forged) * len(clean)))

    @settings(max_examples=60, deadline=None)
    @given(probability=TIED, truth=MASKS)
    def test_counts_are_those_of_every_threshold(self, probability: Any, truth: Any) -> None:
        true, false = curve(probability, truth)
        thresholds = [np.inf, *np.unique(probability)[::-1]]
        assert true.tolist() == [int((truth & (probability >= t)).sum()) for t in thresholds]
        assert false.tolist() == [int((~truth & (probability >= t)).sum()) for t in thresholds]

    @settings(max_examples=60, deadline=None)
    @given(probability=TIED, truth=MASKS)
    def test_best_f1_is_that_of_the_best_threshold(self, probability: Any, truth: Any) -> None:
        best = map_scores(probability, truth)["best_f1"]
        if not truth.any():
            assert math.isnan(best)
            return
        tried = [pixel_f1(probability >= t, truth) for t in np.unique(probability)]
        assert best == pytest.approx(max(tried))

    @pytest.mark.parametrize(("sign", "auc"), [(1, 1.0), (-1, 0.0)])
    def test_perfect_and_inverted(self, sign: int, auc: float) -> None:
        truth = as_mask("##..", "#...")
        assert pixel_auc((0.5 + sign * (truth - 0.5) / 2).astype(np.float32), truth) == auc

    def test_constant_map_knows_nothing(self) -> None:
        truth = as_mask("##..", "#...")
        assert pixel_auc(np.full(truth.shape, 0.3, np.float32), truth) == 0.5

    def test_is_precise_on_many_pixels(self) -> None:
        rng = np.random.default_rng(0)
        truth = rng.random((400, 400)) < 0.01
        probability = rng.random((400, 400)).astype(np.float32)
        assert pixel_auc(probability, truth) == pytest.approx(0.5, abs=0.02)
        assert pixel_auc(probability + truth, truth) == 1.0


class TestIntervals:
    def test_nothing_has_no_interval(self) -> None:
        assert auc_interval(1.0, 1, 40) is None
        assert auc_interval(1.0, 40, 1) is None
        assert auc_interval(math.nan, 0, 40) is None

    def test_a_perfect_ranking_of_few_pictures_is_not_certain(self) -> None:
        low, high = auc_interval(1.0, 10, 10) or (0, 0)
        assert 0.7 < low < 0.9
        assert high == 1
        assert auc_interval(0.0, 10, 10) == pytest.approx((1 - high, 1 - low), abs=1e-9)

    @pytest.mark.parametrize("counts", [(12, 12), (40, 15)])
    def test_intervals_of_an_area_hold_the_true_one(self, counts: tuple[int, int]) -> None:
        """Normal scores a unit apart, whose area is known: 95 % of the intervals hold it."""
        rng, true, held = np.random.default_rng(0), stats.norm.cdf(1 / math.sqrt(2)), 0
        for _ in range(400):
            scores = np.concatenate([rng.normal(1, 1, counts[0]), rng.normal(0, 1, counts[1])])
            auc = pixel_auc(scores, np.arange(sum(counts)) < counts[0])
            low, high = auc_interval(auc, *counts) or (1, 0)
            held += low <= true <= high
        assert 0.92 <= held / 400 <= 0.99


class TestThresholdAt:
    @pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.29, 0.5])
    def test_flags_no_more_than_the_rate_and_no_less_would(self, rate: float) -> None:
        values = np.random.default_rng(0).random(100, np.float32)
        threshold = threshold_at(values.tolist(), rate)
        # As `decide` compares: a float32 map with a Python number.
        assert np.count_nonzero(values >= threshold) == round(rate * 100)
        lower = float(np.nextafter(np.float32(threshold), np.float32(0)))
        assert np.count_nonzero(values >= lower) > round(rate * 100)

    def test_ties_are_on_the_safe_side(self) -> None:
        threshold = threshold_at([0.5] * 10 + [0.1] * 10, 0.25)
        assert threshold > 0.5

    def test_a_threshold_is_never_reached_by_nothing(self) -> None:
        assert threshold_at([0.0] * 5, 0.2) > 0
        assert not np.any(np.zeros(5, np.float32) >= threshold_at([0.0] * 5, 0.2))
