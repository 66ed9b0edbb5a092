"""One number for the whole picture: how probable it is that any of it is manipulated.

It is read from a fixed place of the map, the probability that half a percent of the pixels reach: a
small forgery is seen too, and a few stray pixels decide nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Scale = tuple[float, float]  # slope and offset, between log odds

EVIDENCE = 0.005  # share of the pixels whose probability the score is read from

_LEAST = 1e-6  # further from certainty than float32 maps can say
_ROUNDS = 50  # of Newton's method, which needs about eight


def critical(probability: NDArray[np.floating[Any]], share: float) -> float:
    """Return the highest threshold that more than a share of the pixels reach, 0 <= share < 1."""
    place = int(share * probability.size)
    return float(np.partition(probability, -1 - place, axis=None)[-1 - place])


def picture_score(level: float, scale: Scale) -> float:
    """Probability that a picture is manipulated, if one in two of such pictures is.

    Args:
        level: Its critical threshold for the share `EVIDENCE`, 0 to 1.
        scale: As `fit_scale` returns it.
    """
    slope, offset = scale
    x = slope * log_odds(level) + offset
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def fit_scale(authentic: Sequence[float], forged: Sequence[float]) -> Scale | None:
    """Fit a logistic curve to the critical thresholds of pictures whose truth is known.

    Platt scaling (Platt 1999) with his smoothed targets; both kinds weigh the same, however many
    there are.

    Returns:
        Slope and offset; None where forged pictures do not have the higher levels, so that no
        rising curve fits.
    """
    levels = [*authentic, *forged]
    kinds = np.repeat([0, 1], [len(authentic), len(forged)])
    counts = np.array([len(authentic), len(forged)])
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
