"""Decide a picture's verdict, and the mask that goes with it; nothing else computes either."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from imlctl.errors import NumericalError, UsageError
from imlctl.mask.score import EVIDENCE, critical

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_THRESHOLD = 0.5


class Verdict(StrEnum):
    """The three answers for a picture; none of them says that a picture is authentic."""

    MANIPULATED = "manipulated"
    INCONCLUSIVE = "inconclusive"
    NOTHING_FOUND = "nothing found"


@dataclass(frozen=True, slots=True)
class Rule:
    """The scores that a verdict takes, and the threshold of the mask that goes with it.

    It travels in the card of the weights. The defaults are for weights that were never calibrated.

    Raises:
        ValueError: A number is out of its range, or the two scores are in the wrong order.
    """

    manipulated: float = 0.9  # least score of a picture that is called so, 0 to 1
    inconclusive: float = 0.5  # likewise, at most `manipulated`
    threshold: float = DEFAULT_THRESHOLD  # where nothing was found, and the highest of any mask
    peak_share: float = 0.4  # elsewhere the threshold is this of the map's 99.5th percentile,
    lowest: float = 0.05  # but never below this

    def __post_init__(self) -> None:
        if not 0 <= self.inconclusive <= self.manipulated <= 1:
            raise ValueError("a rule needs 0 <= inconclusive <= manipulated <= 1")
        if not 0 < self.lowest <= self.threshold < 1 or not 0 < self.peak_share <= 1:
            raise ValueError("a rule needs 0 < lowest <= threshold < 1 and peak_share in (0, 1]")

    def verdict(self, score: float) -> Verdict:
        """Return what a picture with this score is called.

        Raises:
            NumericalError: The score is NaN, or outside 0 to 1.
        """
        if not 0 <= score <= 1:
            raise NumericalError(
                f"the model's score is {score}, not within 0 to 1",
                remedy="No verdict is made of it; check the weights, or compute on the CPU.",
            )
        if score >= self.manipulated:
            return Verdict.MANIPULATED
        return Verdict.INCONCLUSIVE if score >= self.inconclusive else Verdict.NOTHING_FOUND

    def threshold_for(self, probability: NDArray[np.floating[Any]], verdict: Verdict) -> float:
        """Return the threshold of the mask: lower for a faint map that found something.

        It has three decimals, so that what is printed is what was used.
        """
        if verdict is Verdict.NOTHING_FOUND:
            return self.threshold
        peak = critical(probability, EVIDENCE)
        wanted = math.floor(1000 * self.peak_share * peak) / 1000
        return min(max(wanted, self.lowest), self.threshold)


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """The verdict on a picture and the pixels that are marked."""

    mask: NDArray[np.bool_]  # (H, W), read-only; true from the threshold on
    share: float  # of the pixels that are marked, 0 to 1
    threshold: float  # of the mask, inside (0, 1)
    score: float  # of the whole picture, 0 to 1
    verdict: Verdict
    rule: Rule

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise ValueError(f"a mask is (H, W) bool, not {self.mask.shape} {self.mask.dtype}")


def decide(
    probability: NDArray[np.floating[Any]],
    score: float,
    rule: Rule,
    *,
    threshold: float | None = None,
) -> Decision:
    """Give a picture its verdict, and mark the pixels that it rests on.

    The map is taken as it is, never stretched: a faint map stays faint.

    Args:
        probability: (H, W) floating point, each value in [0, 1].
        score: Of the whole picture, 0 to 1.
        rule: Of the weights that made both.
        threshold: Pixels with `p >= threshold` are marked; the rule's own if None. The verdict
            does not depend on it.

    Raises:
        NumericalError: A probability or the score is NaN, infinite or outside [0, 1].
        UsageError: The threshold is not inside (0, 1).
    """
    if threshold is not None:
        check_threshold(threshold)
    check_probability(probability)
    verdict = rule.verdict(score)
    chosen = rule.threshold_for(probability, verdict) if threshold is None else threshold
    mask = probability >= chosen
    mask.flags.writeable = False
    share = float(np.count_nonzero(mask)) / mask.size
    return Decision(mask, share, chosen, score, verdict, rule)


def check_threshold(threshold: float) -> None:
    """Raise UsageError for a threshold outside (0, 1), which marks all or nothing anywhere."""
    if not 0 < threshold < 1:  # also catches NaN
        raise UsageError(
            f"the threshold is {threshold}, not between 0 and 1",
            source="--threshold",
            remedy="Give a probability such as 0.5.",
        )


def check_probability(probability: NDArray[np.floating[Any]]) -> None:
    """Refuse whatever is not a map of probabilities.

    Raises:
        NumericalError: A value is NaN, infinite or outside [0, 1].
        ValueError: The array is not (H, W) floating point with at least one pixel.
    """
    if probability.ndim != 2 or not probability.size or probability.dtype.kind != "f":
        raise ValueError(
            f"a probability map is (H, W) floating point, not {probability.shape}"
            f" {probability.dtype}"
        )
    low, high = float(probability.min()), float(probability.max())  # NaN passes through both
    if not (low >= 0 and high <= 1):
        raise NumericalError(
            f"the model's probabilities run from {low} to {high}, not within 0 to 1",
            remedy="No mask is made of it; check the weights, or compute on the CPU in float32.",
        )
