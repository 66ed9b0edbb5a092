import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imlctl.errors import NumericalError, UsageError
from imlctl.mask.decide import Decision, decide


def test_a_pixel_at_the_threshold_is_marked():
    probability = np.array([[0.49, 0.5, 0.51]], np.float32)
    decision = decide(probability, threshold=0.5)
    assert decision.mask.tolist() == [[False, True, True]]
    assert decision.share == pytest.approx(2 / 3)


def test_a_threshold_that_float32_cannot_hold_marks_its_nearest_float32():
    assert decide(np.full((1, 1), 0.1, np.float32), threshold=0.1).mask.all()


@given(
    arrays(np.float32, (4, 5), elements=st.floats(0, 1, width=32)),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
)
def test_a_higher_threshold_never_marks_more(probability, one, other):
    low, high = sorted((one, other))
    strict, lenient = decide(probability, threshold=high), decide(probability, threshold=low)
    assert not (strict.mask & ~lenient.mask).any()
    assert strict.share <= lenient.share


def test_flagged_means_more_than_the_least_share():
    probability = np.zeros((10, 20), np.float32)
    probability[0, 0] = 1
    assert not decide(probability, min_share=0.005).flagged  # 1 of 200 is exactly half a percent
    probability[0, 1] = 1
    assert decide(probability, min_share=0.005).flagged


def test_a_faint_map_stays_faint():
    faint = np.linspace(0, 0.2, 100, dtype=np.float32).reshape(10, 10)
    assert not decide(faint).mask.any()


def test_a_constant_map_is_decided():
    assert decide(np.full((3, 3), 0.2, np.float32)).share == 0
    assert decide(np.full((3, 3), 0.9, np.float32)).share == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5, -0.1])
def test_one_bad_value_is_an_error_and_never_a_mask(value):
    probability = np.zeros((8, 8), np.float32)
    probability[3, 4] = value
    with pytest.raises(NumericalError, match=r"No mask is made"):
        decide(probability)


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 2, float("nan")])
def test_a_threshold_outside_the_open_interval_is_refused(threshold):
    with pytest.raises(UsageError, match="between 0 and 1"):
        decide(np.zeros((2, 2), np.float32), threshold=threshold)


@pytest.mark.parametrize("share", [-0.1, 1, float("nan")])
def test_a_least_share_out_of_range_is_refused(share):
    with pytest.raises(UsageError, match="share"):
        decide(np.zeros((2, 2), np.float32), min_share=share)


@pytest.mark.parametrize(
    "array", [np.zeros((1, 2, 2), np.float32), np.zeros((0, 4), np.float32), np.zeros((2, 2), int)]
)
def test_what_is_no_map_is_refused(array):
    with pytest.raises(ValueError, match="probability map"):
        decide(array)


def test_the_mask_cannot_be_changed_afterwards():
    decision = decide(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="read-only"):
        decision.mask[0, 0] = True


def test_a_decision_needs_a_mask_of_bool():
    with pytest.raises(ValueError, match="bool"):
        Decision(np.zeros((2, 2), np.uint8), 0.0, False, 0.5, 0.005, 0.5)


def test_a_verdict_may_ask_for_more_than_the_mask() -> None:
    probability = np.full((10, 10), 0.1, np.float32)
    probability[0] = 0.6
    doubtful = decide(probability, verdict_threshold=0.9)
    assert (doubtful.share, doubtful.flagged, doubtful.verdict_threshold) == (0.1, False, 0.9)
    probability[0, 0] = 0.95
    assert decide(probability, verdict_threshold=0.9).flagged
    # A mask that is stricter than the verdict is the rule for both.
    assert decide(probability, threshold=0.94, verdict_threshold=0.9).verdict_threshold == 0.94
