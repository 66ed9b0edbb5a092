"""A picture's score, its verdict, and the mask that goes with it; nothing else decides.

The score is the probability that half a percent of the pixels reach: a small forgery is seen too,
and a few stray pixels decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imlctl.errors import NumericalError, UsageError

Scale = tuple[float, float]  # slope and offset, between log odds

EVIDENCE = 0.005  # share of the pixels whose probability the score is read from
_PEAK = 0.2  # of its log odds, that a score is trained to add to
DEFAULT_THRESHOLD = 0.5
_LEAST = 1e-6  # further from certainty than float32 maps can say
_LEVELS = 1001  # of probability, that thresholds are tried at
_STRIP = 1 << 20  # pixels counted at a time; bounds the float64 copies
_ROUNDS = 50  # of Newton's method, which needs about eight


class Verdict(StrEnum):
    """The three answers for a picture; none of them says that a picture is authentic."""

    MANIPULATED = "manipulated"
    INCONCLUSIVE = "inconclusive"
    NOTHING_FOUND = "nothing found"


@dataclass(frozen=True, slots=True)
class Rule:
    """The scores that a verdict takes, and the threshold of the mask that goes with it.

    It travels in the card of the weights; the defaults are for weights that were never calibrated.
    ValueError where a number is out of its range, or the two scores are in the wrong order.
    """

    manipulated: float = 0.9  # least score of a picture that is called so, 0 to 1
    inconclusive: float = 0.5  # likewise, at most `manipulated`
    threshold: float = DEFAULT_THRESHOLD  # where nothing was found, and the highest of any mask
    lowest: float = 0.05  # threshold of any mask

    def __post_init__(self) -> None:
        if not 0 <= self.inconclusive <= self.manipulated <= 1:
            raise ValueError("a rule needs 0 <= inconclusive <= manipulated <= 1")
        if not 0 < self.lowest <= self.threshold < 1:
            raise ValueError("a rule needs 0 < lowest <= threshold < 1")

    def verdict(self, score: float) -> Verdict:
        """Return what a picture with this score is called; NumericalError outside 0 to 1."""
        if not 0 <= score <= 1:
            remedy = "No verdict is made of it; check the weights, or compute on the CPU."
            raise NumericalError(f"the model's score is {score}, not within 0 to 1", remedy=remedy)
        if score >= self.manipulated:
            return Verdict.MANIPULATED
        return Verdict.INCONCLUSIVE if score >= self.inconclusive else Verdict.NOTHING_FOUND

    def threshold_for(self, probability: NDArray[np.floating[Any]], verdict: Verdict) -> float:
        """Return the threshold of the mask: lower for a faint map that found something.

        The mask of the highest expected F1 holds the pixels whose probability is at least half of
        that F1 (Lipton et al. 2014). Three decimals: what is printed is what was used.
        """
        if verdict is Verdict.NOTHING_FOUND:
            return self.threshold
        wanted = math.floor(1000 * expected_f1(probability) / 2) / 1000
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


def decide(
    probability: NDArray[np.floating[Any]],
    score: float,
    rule: Rule,
    *,
    threshold: float | None = None,
) -> Decision:
    """Give a picture its verdict, and mark the pixels that it rests on: those with p >= threshold.

    The map, (H, W) in [0, 1], is taken as it is: a faint one stays faint. The verdict depends on
    the score alone, 0 to 1; the threshold is the rule's own if None. NumericalError where map or
    score are NaN, infinite or outside, UsageError for a threshold not inside (0, 1).
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
        what = f"the threshold is {threshold}, not between 0 and 1"
        raise UsageError(what, source="--threshold", remedy="Give a probability such as 0.5.")


def check_probability(probability: NDArray[np.floating[Any]]) -> None:
    """Raise NumericalError unless every value of a map, (H, W) floating point, is in [0, 1]."""
    if probability.ndim != 2 or not probability.size or probability.dtype.kind != "f":
        shape = f"{probability.shape} {probability.dtype}"
        raise ValueError(f"a probability map is (H, W) floating point, not {shape}")
    low, high = float(probability.min()), float(probability.max())  # NaN passes through both
    if not (low >= 0 and high <= 1):
        what = f"the model's probabilities run from {low} to {high}, not within 0 to 1"
        remedy = "No mask is made of it; check the weights, or compute on the CPU in float32."
        raise NumericalError(what, remedy=remedy)


def expected_f1(probability: NDArray[np.floating[Any]]) -> float:
    """Return the highest F1 that a threshold of a map can expect, its probabilities being right.

    With the sum of all probabilities for the number of manipulated pixels, and of those marked for
    the number of hits (Jansche 2007): 2 hits / (marked + manipulated).
    """
    marked, hits = np.zeros(_LEVELS), np.zeros(_LEVELS)
    for rows in np.array_split(probability, -(-probability.size // _STRIP)):
        values = rows.ravel()
        levels = (values * (_LEVELS - 1)).astype(np.intp)
        marked += np.bincount(levels, minlength=_LEVELS)
        hits += np.bincount(levels, values, minlength=_LEVELS)
    marked, hits = marked[::-1].cumsum(), hits[::-1].cumsum()  # from each level up
    return float((2 * hits / (marked + hits[-1]).clip(1)).max())


def evidence(probability: NDArray[np.floating[Any]], said: float | None = None) -> float:
    """Return what a picture's score is made of, 0 to 1.

    `said` is what a score trained on whole pictures gave it, to whose log odds part of those of the
    map's peak are added. None where the weights have no such score: then it is the peak alone.
    """
    if said is None:
        return critical(probability, EVIDENCE)
    return 1 / (1 + math.exp(-log_odds(said) - peak_odds(probability)))


def peak_odds(probability: NDArray[np.floating[Any]]) -> float:
    """Return the part of the log odds of a map's peak that a trained score adds to."""
    return _PEAK * log_odds(critical(probability, EVIDENCE))


def critical(probability: NDArray[np.floating[Any]], share: float) -> float:
    """Return the highest threshold that more than a share of the pixels reach, 0 <= share < 1."""
    place = int(share * probability.size)
    return float(np.partition(probability, -1 - place, axis=None)[-1 - place])


def picture_score(level: float, scale: Scale) -> float:
    """Probability that a picture of this `evidence` is manipulated, if every other one is."""
    slope, offset = scale
    x = slope * log_odds(level) + offset
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def fit_scale(authentic: Sequence[float], forged: Sequence[float]) -> Scale | None:
    """Fit a logistic curve to the evidence of pictures whose truth is known.

    Platt scaling (Platt 1999) with his smoothed targets; both kinds weigh the same, however many
    there are. None where forged pictures do not have the higher levels.
    """
    levels = [*authentic, *forged]
    counts = np.array([len(authentic), len(forged)])
    kinds = np.repeat([0, 1], counts)
    if counts.min() == 0 or np.ptp(levels) == 0:
        return None
    x = np.array([log_odds(level) for level in levels])
    centre, spread = float(x.mean()), float(x.std())
    target = np.where(kinds == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
    weight = (len(levels) / (2 * counts))[kinds]
    design = np.stack([(x - centre) / spread, np.ones_like(x)])  # (2, n)
    scale = np.zeros(2)
    for _ in range(_ROUNDS):
        p = 1 / (1 + np.exp(-np.clip(scale @ design, -30, 30)))
        slope = design @ (weight * (p - target))
        curvature = (design * (weight * p * (1 - p))) @ design.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        scale -= step * min(1.0, 4 / max(4.0, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-10:
            break
    rise = float(scale[0]) / spread
    if not math.isfinite(rise) or rise <= 0:
        return None
    return round(rise, 6), round(float(scale[1]) - rise * centre, 6)


def log_odds(level: float) -> float:
    """Log odds of a probability, kept as far from certainty as float32 maps can say."""
    kept = min(max(level, _LEAST), 1 - _LEAST)
    return math.log(kept) - math.log1p(-kept)
