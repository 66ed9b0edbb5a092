"""Turn a probability map into a mask and one answer for the whole picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imlctl.errors import NumericalError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_THRESHOLD = 0.5
DEFAULT_MIN_SHARE = 0.005


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What a probability map says at one threshold.

    Attributes:
        mask: (H, W) bool, read-only; true where the probability is at or over the threshold.
        share: Fraction of the pixels that are marked, 0 to 1.
        flagged: Whether more than `min_share` of the pixels reach `verdict_threshold`.
        threshold: The threshold, inside (0, 1).
        min_share: Largest share that still counts as nothing found, in [0, 1).
        verdict_threshold: The threshold that the verdict asks for, at least `threshold`.
    """

    mask: NDArray[np.bool_]
    share: float
    flagged: bool
    threshold: float
    min_share: float
    verdict_threshold: float

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise ValueError(f"a mask is (H, W) bool, not {self.mask.shape} {self.mask.dtype}")


def decide(
    probability: NDArray[np.floating[Any]],
    *,
    threshold: float = DEFAULT_THRESHOLD,
    min_share: float = DEFAULT_MIN_SHARE,
    verdict_threshold: float = 0.0,
) -> Decision:
    """Mark the pixels whose probability is at or over the threshold.

    The map is taken as it is, never stretched: a faint map stays faint (forensic rule 4).

    A mask shows where to look, a verdict accuses: it may ask for more than the mask does.

    Args:
        probability: (H, W) floating point, each value in [0, 1].
        threshold: Pixels with `p >= threshold` are marked; inside (0, 1).
        min_share: The picture is flagged when more than this share of its pixels reach
            `verdict_threshold`; in [0, 1).
        verdict_threshold: As calibrated on authentic photographs; `threshold` where that is more.

    Raises:
        NumericalError: A value is NaN, infinite or outside [0, 1] (forensic rule 5).
        UsageError: The threshold or the share is out of its range.
    """
    check_threshold(threshold)
    if not 0 <= min_share < 1:
        raise UsageError(
            f"the least share of marked pixels is {min_share}, outside 0 to 1",
            remedy="Give a fraction such as 0.005, which is half a percent.",
        )
    check_probability(probability)
    mask = probability >= threshold
    mask.flags.writeable = False
    share = float(np.count_nonzero(mask)) / mask.size
    strict = max(threshold, verdict_threshold)
    certain = float(np.count_nonzero(probability >= strict)) / mask.size
    return Decision(mask, share, certain > min_share, threshold, min_share, strict)


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that would mark everything or nothing whatever the picture.

    Raises:
        UsageError: The threshold is not inside (0, 1).
    """
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
