from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imlctl.errors import NumericalError, UsageError
from imlctl.mask.decide import Rule, Verdict, decide, evidence, expected_f1, peak_odds

RULE = Rule(manipulated=0.8, inconclusive=0.4)


def of(probability, score=0.0, **options):
    return decide(np.asarray(probability, np.float32), score, RULE, **options)


def test_a_pixel_at_the_threshold_is_marked():
    decision = of([[0.49, 0.5, 0.51]], threshold=0.5)
    assert decision.mask.tolist() == [[False, True, True]]
    assert decision.share == pytest.approx(2 / 3)


def test_a_threshold_that_float32_cannot_hold_marks_its_nearest_float32():
    assert of(np.full((1, 1), 0.1), threshold=0.1).mask.all()


@given(
    arrays(np.float32, (4, 5), elements=st.floats(0, 1, width=32)),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
)
def test_a_higher_threshold_never_marks_more(probability, one, other):
    low, high = sorted((one, other))
    strict, lenient = of(probability, threshold=high), of(probability, threshold=low)
    assert not (strict.mask & ~lenient.mask).any()
    assert strict.share <= lenient.share


@pytest.mark.parametrize(
    ("score", "verdict"),
    [
        (1.0, Verdict.MANIPULATED),
        (0.8, Verdict.MANIPULATED),
        (np.nextafter(0.8, 0), Verdict.INCONCLUSIVE),
        (0.4, Verdict.INCONCLUSIVE),
        (np.nextafter(0.4, 0), Verdict.NOTHING_FOUND),
        (0.0, Verdict.NOTHING_FOUND),
    ],
)
def test_the_verdict_follows_from_the_score_alone(score, verdict):
    for probability in (np.zeros((4, 4)), np.ones((4, 4))):
        for threshold in (None, 0.1, 0.9):
            assert of(probability, score, threshold=threshold).verdict is verdict


def test_no_verdict_claims_that_a_picture_is_authentic():
    assert [str(verdict) for verdict in Verdict] == ["manipulated", "inconclusive", "nothing found"]


@pytest.mark.parametrize(
    ("peak", "expected"), [(1.0, 0.5), (0.5, 0.333), (0.25, 0.2), (0.03, 0.05), (0.0, 0.05)]
)
def test_where_something_is_found_the_threshold_is_half_of_the_expected_f1(peak, expected):
    probability = np.zeros((20, 50), np.float32)
    probability.ravel()[:6] = peak  # 2 * 6 peak / (6 + 6 peak) is the F1 of marking these
    for score in (0.5, 0.9):
        assert of(probability, score).threshold == expected
    assert of(probability, 0.1).threshold == 0.5
    assert of(probability, 0.9, threshold=0.7).threshold == 0.7


def test_the_mask_has_the_highest_expected_f1():
    """By trying every threshold, and with the sum of the map for what is manipulated."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        probability = np.round(rng.beta(0.3, 1.2, (30, 40)) * 1000).clip(0, 1000) / 1000
        total = probability.sum()
        tried = [
            2 * probability[probability >= t].sum() / ((probability >= t).sum() + total)
            for t in np.unique(probability)
        ]
        assert expected_f1(probability) == pytest.approx(max(tried), abs=2e-3)
        marked = probability >= expected_f1(probability) / 2
        mine = 2 * probability[marked].sum() / (marked.sum() + total)
        assert mine == pytest.approx(max(tried), abs=2e-3)


def test_a_large_map_is_counted_in_strips():
    probability = np.zeros((1100, 2000), np.float32)
    probability[-40:, -50:] = 0.8
    assert expected_f1(probability) == pytest.approx(1.6 / 1.8)


def test_the_threshold_is_never_higher_than_where_nothing_is_found():
    rule = Rule(0.8, 0.4, threshold=0.3)
    assert decide(np.ones((9, 9), np.float32), 0.9, rule).threshold == 0.3


def test_the_evidence_is_the_map_s_peak_and_what_was_said_of_the_whole_picture():
    probability = np.zeros((20, 50), np.float32)
    probability.ravel()[:6] = 0.8
    assert evidence(probability) == pytest.approx(0.8)
    assert peak_odds(probability) == pytest.approx(np.log(4) / 5)
    assert evidence(probability, 0.5) == pytest.approx(1 / (1 + (1 / 4) ** 0.2))
    assert evidence(probability, 0.9) == pytest.approx(1 / (1 + (1 / 4) ** 0.2 / 9))
    for level in (0.0, 1.0):  # certainty is no infinity
        assert evidence(np.full((2, 2), level, np.float32), level) == pytest.approx(level, abs=1e-6)


def test_a_faint_map_stays_faint():
    faint = np.linspace(0, 0.2, 100, dtype=np.float32).reshape(10, 10)
    assert not of(faint).mask.any()


def test_a_constant_map_is_decided():
    assert of(np.full((3, 3), 0.2)).share == 0
    assert of(np.full((3, 3), 0.9)).share == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5, -0.1])
def test_one_bad_value_is_an_error_and_never_a_mask(value):
    probability = np.zeros((8, 8), np.float32)
    probability[3, 4] = value
    with pytest.raises(NumericalError, match=r"No mask is made"):
        of(probability)
    with pytest.raises(NumericalError, match=r"No verdict is made"):
        of(np.zeros((8, 8)), value)


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 2, float("nan")])
def test_a_threshold_outside_the_open_interval_is_refused(threshold):
    with pytest.raises(UsageError, match="between 0 and 1"):
        of(np.zeros((2, 2)), threshold=threshold)


@pytest.mark.parametrize(
    "change",
    [
        {"manipulated": 0.3},
        {"manipulated": 1.1},
        {"inconclusive": -0.1},
        {"inconclusive": float("nan")},
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"threshold": float("nan")},
        {"lowest": 0.0},
        {"lowest": 0.6},
    ],
    ids=str,
)
def test_an_impossible_rule_is_refused(change):
    with pytest.raises(ValueError, match="a rule needs"):
        Rule(**asdict(RULE) | change)


@pytest.mark.parametrize(
    "array", [np.zeros((1, 2, 2), np.float32), np.zeros((0, 4), np.float32), np.zeros((2, 2), int)]
)
def test_what_is_no_map_is_refused(array):
    with pytest.raises(ValueError, match="probability map"):
        decide(array, 0.0, RULE)


def test_the_mask_cannot_be_changed_afterwards():
    decision = of(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="read-only"):
        decision.mask[0, 0] = True
