"""Agreement of a map or a mask with the truth, and how sure a rate is: plain functions over arrays.

They equal scikit-learn's and SciPy's. There is no permuted or inverted F1: a map that marks the
opposite of the truth is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imlctl.mask.rates import turning_point

Probability = NDArray[np.float32]
Mask = NDArray[np.bool_]

CONFIDENCE = 0.95

_NAN = float("nan")
_Z = 1.959963984540054  # of the normal law, for `CONFIDENCE`
_LOWEST = 1e-6  # float32 maps hold exact zeros, which a threshold must not reach


def mask_scores(predicted: Mask, truth: Mask) -> dict[str, float]:
    """Return f1, iou, precision and recall of two masks of one shape.

    F1 and IoU of two empty masks are 1, precision without a marked pixel is 0, recall without a
    manipulated one NaN.
    """
    hits, marked, forged = (int(np.count_nonzero(m)) for m in (predicted & truth, predicted, truth))
    either = marked + forged - hits
    return {
        "f1": 2 * hits / (marked + forged) if either else 1.0,
        "iou": hits / either if either else 1.0,
        "precision": hits / marked if marked else 0.0,
        "recall": hits / forged if forged else _NAN,
    }


def pixel_f1(predicted: Mask, truth: Mask) -> float:
    """F1 of two masks of one shape; 1 when both are empty."""
    return mask_scores(predicted, truth)["f1"]


def map_scores(probability: NDArray[np.floating], truth: Mask) -> dict[str, float]:
    """Return what a map is worth over all thresholds: auc, ap and best_f1.

    Area under the ROC curve as of `pixel_auc`; average precision without interpolation; highest F1.
    The last two are NaN without manipulated pixels.
    """
    true, false = curve(probability, truth)
    forged, clean = true[-1], false[-1]
    if not forged:
        return {"auc": _NAN, "ap": _NAN, "best_f1": _NAN}
    precision = true[1:] / (true[1:] + false[1:])
    return {
        "auc": float(np.trapezoid(true / forged, false / clean)) if clean else _NAN,
        "ap": float(np.sum(np.diff(true) * precision) / forged),
        "best_f1": float(np.max(2 * true / (true + false + forged))),
    }


def pixel_auc(probability: NDArray[np.floating], truth: Mask) -> float:
    """Area under the ROC curve, ties counted half; NaN unless both kinds of pixel exist."""
    return map_scores(probability, truth)["auc"]


def curve(
    probability: NDArray[np.floating], truth: Mask
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True and false positives at every distinct threshold, from the highest down; (0, 0) first."""
    order = np.argsort(probability, axis=None)[::-1]
    values, hits = probability.ravel()[order], truth.ravel()[order]
    last = np.append(np.nonzero(np.diff(values))[0], len(values) - 1)  # ties move together
    true = np.cumsum(hits)[last]
    false = last + 1 - true
    return np.insert(true, 0, 0), np.insert(false, 0, 0)


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

    def possible(area: float) -> bool:
        more = (positives + negatives) / 2 - 1
        spread = 1 + more * (1 - area) / (2 - area) + more * area / (1 + area)
        return abs(auc - area) <= _Z * math.sqrt(area * (1 - area) * spread / positives / negatives)

    low = turning_point(lambda area: area < auc and not possible(area))
    return low, turning_point(lambda area: area <= auc or possible(area))
