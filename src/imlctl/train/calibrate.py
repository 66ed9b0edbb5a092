"""The verdict threshold of weights: how often may an authentic photograph be flagged?

A picture is flagged when more than a share `min_share` of its pixels reach the threshold. So each
authentic photograph has one critical threshold, the (1 - min_share) quantile of its own map: below
it the picture is flagged, above it not. The threshold for a given false-positive rate is a quantile
of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imlctl.image.prepare import pad
from imlctl.inference import predict
from imlctl.train.augment import random_finish

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from imlctl.inference import Model
    from imlctl.train.photos import PhotoPool

RATE = 0.05
_SEED = 5
# A threshold outside would mark nearly everything, or nothing a model could reach.
_LOWEST, _HIGHEST = 0.5, 0.99


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds measured on authentic photographs.

    Attributes:
        threshold: For the false-positive rate `rate`, within 0.5 to 0.99.
        rate: Share of the photographs that it flags, at most.
        photos: How many photographs it was measured on, each as it is and once reprocessed.
        thresholds: For the rates 1, 5, 10 and 20 %, as measured.
    """

    threshold: float
    rate: float
    photos: int
    thresholds: dict[str, float]


def calibrate(
    model: Model, pool: PhotoPool, *, min_share: float, device: torch.device
) -> Calibration:
    """Measure thresholds on photographs that the model was not trained on.

    Args:
        model: In evaluation mode, on `device`.
        pool: Authentic photographs.
        min_share: Share of pixels beyond which a picture is flagged.
        device: Where to compute.
    """
    rng = np.random.default_rng(_SEED)
    critical = [
        _critical_threshold(model, pixels, min_share, device)
        for photo in pool.photos
        for pixels in (photo, random_finish(photo, rng))
    ]
    thresholds = {f"{rate:g}": critical_quantile(critical, rate) for rate in (0.01, 0.05, 0.1, 0.2)}
    threshold = float(np.clip(critical_quantile(critical, RATE), _LOWEST, _HIGHEST))
    return Calibration(round(threshold, 4), RATE, len(pool), thresholds)


def critical_quantile(critical: list[float], rate: float) -> float:
    """Return the least threshold that flags at most a share `rate` of the pictures.

    Args:
        critical: Critical threshold of each picture; it is flagged at any threshold up to it.
        rate: In [0, 1).
    """
    ordered = sorted(critical, reverse=True)
    return float(np.nextafter(ordered[int(rate * len(ordered))], 1.0))


def _critical_threshold(
    model: Model, pixels: NDArray[np.uint8], min_share: float, device: torch.device
) -> float:
    height, width = pixels.shape[:2]
    image = pad(pixels, multiple=model.config.multiple)
    probability, _ = predict(model, image, device=device)
    values = np.sort(probability[:height, :width].numpy(), axis=None)[::-1]
    return float(values[int(min_share * len(values))])
