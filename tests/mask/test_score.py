"""The picture's score: closed forms, and agreement with scikit-learn's logistic regression."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from imlctl.mask.decide import critical, fit_scale, picture_score


def log_odds(levels: np.ndarray) -> np.ndarray:
    return np.log(levels) - np.log1p(-levels)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 0.9), (0.2, 0.9), (0.25, 0.7), (0.5, 0.3), (0.7, 0.3), (0.75, 0.1)],
)
def test_critical_is_the_highest_threshold_that_more_than_the_share_reach(
    share: float, expected: float
) -> None:
    probability = np.float32([[0.9, 0.1], [0.7, 0.3]])
    value = critical(probability, share)
    assert value == np.float32(expected)
    assert np.mean(probability >= value) > share
    assert not np.mean(probability >= np.nextafter(np.float32(value), np.float32(2))) > share


class TestPictureScore:
    def test_closed_form(self) -> None:
        assert picture_score(0.5, (2.0, 0.0)) == pytest.approx(0.5)
        assert picture_score(0.8, (1.0, 0.0)) == pytest.approx(0.8)
        assert picture_score(0.8, (2.0, -1.0)) == pytest.approx(
            1 / (1 + math.exp(-(2 * math.log(4) - 1)))
        )

    @pytest.mark.parametrize("scale", [(0.1, 0.0), (50.0, -3.0), (50.0, 3.0)])
    def test_rises_with_the_level_and_stays_a_probability(self, scale: tuple[float, float]) -> None:
        scores = [picture_score(level, scale) for level in (0.0, 0.2, 0.5, 0.9, 1.0)]
        assert scores == sorted(scores)
        assert all(0 <= score <= 1 for score in scores)


class TestFitScale:
    def test_equals_logistic_regression_on_many_pictures(self) -> None:
        rng = np.random.default_rng(2)
        authentic, forged = rng.beta(2, 4, 4000), rng.beta(4, 2, 1000)
        found = fit_scale(authentic.tolist(), forged.tolist())
        assert found is not None
        x = log_odds(np.concatenate([authentic, forged]))[:, None]
        truth = np.repeat([0, 1], [4000, 1000])
        theirs = LogisticRegression(C=np.inf, class_weight="balanced").fit(x, truth)
        assert found[0] == pytest.approx(theirs.coef_[0, 0], rel=0.02)
        assert found[1] == pytest.approx(theirs.intercept_[0], abs=0.05)

    def test_is_calibrated(self) -> None:
        """Of pictures with a score near 0.7, about 0.7 are forged, if half of all are."""
        rng = np.random.default_rng(3)
        authentic, forged = rng.beta(2, 3, 50_000), rng.beta(3, 2, 50_000)
        scale = fit_scale(authentic.tolist()[:2000], forged.tolist()[:2000])
        assert scale is not None
        near = [
            sum(abs(picture_score(level, scale) - 0.7) < 0.05 for level in levels[2000:12_000])
            for levels in (authentic, forged)
        ]
        assert near[1] / sum(near) == pytest.approx(0.7, abs=0.04)

    def test_kinds_told_apart_completely_still_have_a_finite_scale(self) -> None:
        found = fit_scale([0.0, 0.01, 0.02], [0.98, 0.99, 1.0])
        assert found is not None
        assert all(map(math.isfinite, found))
        assert picture_score(1.0, found) > 0.75 > 0.25 > picture_score(0.0, found)

    @pytest.mark.parametrize(
        ("authentic", "forged"),
        [([0.9, 0.8], [0.1, 0.2]), ([], [0.5]), ([0.5], []), ([0.5, 0.5], [0.5, 0.5])],
    )
    def test_what_no_rising_curve_fits_is_not_scaled(
        self, authentic: list[float], forged: list[float]
    ) -> None:
        assert fit_scale(authentic, forged) is None
