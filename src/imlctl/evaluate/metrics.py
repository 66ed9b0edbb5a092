"""Agreement of a map or a mask with the truth, and how sure a rate is: plain functions over arrays.

They equal scikit-learn's and SciPy's. There is no permuted or inverted F1: a map that marks the
opposite of the truth is wrong.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Probability = NDArray[np.float32]
Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]

CONFIDENCE = 0.95

_NAN = float("nan")
_Z = 1.959963984540054  # of the normal law, for `CONFIDENCE`
_LOWEST = 1e-6  # float32 maps hold exact zeros, which a threshold must not reach


def pixel_f1(predicted: Mask, truth: Mask) -> float:
    """F1 of two masks of one shape; 1 when both are empty."""
    hits = int(np.count_nonzero(predicted & truth))
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(truth))
    return 2 * hits / total if total else 1.0


def pixel_iou(predicted: Mask, truth: Mask) -> float:
    """Intersection over union of two masks of one shape; 1 when both are empty."""
    union = int(np.count_nonzero(predicted | truth))
    return int(np.count_nonzero(predicted & truth)) / union if union else 1.0


def pixel_precision(predicted: Mask, truth: Mask) -> float:
    """Share of the marked pixels that are manipulated; 0 when none is marked."""
    marked = int(np.count_nonzero(predicted))
    return int(np.count_nonzero(predicted & truth)) / marked if marked else 0.0


def pixel_recall(predicted: Mask, truth: Mask) -> float:
    """Share of the manipulated pixels that are marked; NaN when none is manipulated."""
    forged = int(np.count_nonzero(truth))
    return int(np.count_nonzero(predicted & truth)) / forged if forged else _NAN


def curve(probability: NDArray[np.floating], truth: Mask) -> tuple[Counts, Counts]:
    """True and false positives at every distinct threshold, from the highest down; (0, 0) first."""
    order = np.argsort(probability, axis=None)[::-1]
    values, hits = probability.ravel()[order], truth.ravel()[order]
    last = np.append(np.nonzero(np.diff(values))[0], len(values) - 1)  # ties move together
    true = np.cumsum(hits)[last]
    false = last + 1 - true
    return np.insert(true, 0, 0), np.insert(false, 0, 0)


def pixel_auc(probability: NDArray[np.floating], truth: Mask) -> float:
    """Area under the ROC curve, ties counted half; NaN unless both kinds of pixel exist."""
    return auc_of(*curve(probability, truth))


def auc_of(true: Counts, false: Counts) -> float:
    """Area under a ROC curve given as counts."""
    if not true[-1] or not false[-1]:
        return _NAN
    return float(np.trapezoid(true / true[-1], false / false[-1]))


def ap_of(true: Counts, false: Counts) -> float:
    """Average precision along a curve of counts, without interpolation; NaN without positives."""
    if not true[-1]:
        return _NAN
    precision = true[1:] / (true[1:] + false[1:])
    return float(np.sum(np.diff(true) * precision) / true[-1])


def best_f1_of(true: Counts, false: Counts) -> float:
    """Highest F1 along a curve of counts; NaN without manipulated pixels."""
    if not true[-1]:
        return _NAN
    return float(np.max(2 * true / (true + false + true[-1])))


def threshold_at(critical: Sequence[float], rate: float) -> float:
    """Return the least threshold that at most a share `rate` in [0, 1) of float32 values reach."""
    ordered = np.sort(np.asarray(critical, np.float32))[::-1]
    place = int(rate * len(ordered) + 1e-9)  # 0.29 * 100 is a little less than 29
    # The next float32: a map is compared in float32, where the next float64 is the same number.
    above = float(np.nextafter(ordered[place], np.float32(2)))
    return max(above, _LOWEST)


def columns_mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each column, (..., N, K) to (..., K), of the values that exist; NaN without any."""
    known = ~np.isnan(rows)
    count = known.sum(-2)
    total = np.where(known, rows, 0.0).sum(-2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def auc_interval(auc: float, positives: int, negatives: int) -> tuple[float, float] | None:
    """Interval of an area under a ROC curve, 95 % (Newcombe 2006, part 2, method 5).

    It inverts the score test with the variance of Hanley and McNeil (1982), so that it stays inside
    0 to 1 and has a width where the area is 1, unlike a bootstrap. None for fewer than two values
    of either kind, of which no spread is known.
    """
    if min(positives, negatives) < 2 or math.isnan(auc):
        return None

    def distance(area: float) -> float:
        more = (positives + negatives) / 2 - 1
        spread = 1 + more * (1 - area) / (2 - area) + more * area / (1 + area)
        return abs(auc - area) - _Z * math.sqrt(area * (1 - area) * spread / positives / negatives)

    low = _root(lambda area: -distance(area), 0.0, auc) if auc > 0 else 0.0
    return low, _root(lambda area: -distance(area), 1.0, auc) if auc < 1 else 1.0


def _root(value: Callable[[float], float], start: float, end: float) -> float:
    """Find by bisection where `value` changes its sign."""
    sign = value(start) > 0
    for _ in range(60):
        middle = (start + end) / 2
        if (value(middle) > 0) == sign:
            start = middle
        else:
            end = middle
    return (start + end) / 2
