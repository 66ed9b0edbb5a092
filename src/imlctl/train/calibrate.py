"""What weights may claim: how much of an authentic photograph is marked, how often is it flagged?

Pixels first. Training shows far more forgery than the world holds, so the map's odds are too high
(Saerens et al. 2002); `excess` says by how much, as seen on authentic photographs, and the model
gives that up.

Then the verdict. A picture is flagged when more than a share `min_share` of its pixels reach the
threshold. So each authentic photograph has one critical threshold, the (1 - min_share) quantile of
its own map: below it the picture is flagged, above it not. The threshold for a given false-positive
rate is a quantile of those. A model that is certain where it is wrong has no such threshold below
1; more pixels are asked of it instead.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from imlctl.bench.accuracy import threshold_at
from imlctl.image.prepare import pad
from imlctl.inference import predict
from imlctl.mask.decide import DEFAULT_THRESHOLD
from imlctl.mask.score import EVIDENCE, Scale, critical, fit_scale
from imlctl.train.augment import random_finish
from imlctl.train.synthesis import Mix, Synthesizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from numpy.typing import NDArray

    from imlctl.inference import Model
    from imlctl.train.photos import PhotoPool
    from imlctl.weights.load import Card

RATE = 0.05
PIXELS = 0.02  # of an authentic photograph, on average, that may be marked
_SEED = 5
_SIDE = 384  # of a forgery, in pixels
# A threshold outside would mark nearly everything, or nothing a model could reach.
_LOWEST, _HIGHEST = 0.5, 0.999
_FINE = 2.0**-8  # log odds; float16 loses nothing of a bias that is lowered by such steps
_MOST = 12 * 2**8  # steps; float32 tells probabilities from certainty about as far


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds measured on authentic photographs.

    Attributes:
        threshold: For the false-positive rate `rate`, within 0.5 to 0.999.
        min_share: Share of pixels beyond which a picture is flagged: as asked for, or larger where
            0.999 is not enough for the rate.
        rate: Share of the photographs that it flags, at most.
        photos: How many photographs it was measured on, each as it is and once reprocessed.
        marked: Share of their pixels that reach one half, on average over the photographs.
        thresholds: For the rates 1, 5, 10 and 20 %, as measured.
        score_scale: Of the picture's score: fitted to these maps and to those of as many forgeries
            made of the same photographs; None where forgeries do not stand out.
    """

    threshold: float
    min_share: float
    rate: float
    photos: int
    marked: float
    thresholds: dict[str, float]
    score_scale: Scale | None


def excess(model: Model, pool: PhotoPool, *, device: torch.device, share: float = PIXELS) -> float:
    """Say what to take from a model's log odds so that it marks little of authentic photographs.

    Args:
        model: In evaluation mode, on `device`.
        pool: Authentic photographs that it was not trained on.
        device: Where to compute.
        share: Of a photograph's pixels, on average, that may reach one half.

    Returns:
        Log odds, 0 where the model keeps to that as it is; 12 at most.
    """
    maps = [_map(model, pixels, device) for pixels in _authentic(pool)]

    def marked(by: float) -> float:
        return float(np.mean([(each >= 1 / (1 + math.exp(-by))).mean() for each in maps]))

    if marked(0.0) <= share:
        return 0.0
    low, high = 0, _MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if marked(middle * _FINE) <= share else (middle, high)
    return high * _FINE


def calibrate(
    model: Model,
    pool: PhotoPool,
    *,
    min_share: float,
    device: torch.device,
    rate: float = RATE,
) -> Calibration:
    """Measure thresholds on photographs that the model was not trained on.

    Args:
        model: In evaluation mode, on `device`.
        pool: Authentic photographs.
        min_share: Share of pixels beyond which a picture is flagged.
        device: Where to compute.
        rate: Share of the photographs that may be flagged.
    """
    values, levels, shares, marked = [], [], [], []
    for pixels in _authentic(pool):
        found = _map(model, pixels, device)
        values.append(critical(found, min_share))
        levels.append(critical(found, EVIDENCE))
        shares.append(float((found >= _HIGHEST).mean()))
        marked.append(float((found >= DEFAULT_THRESHOLD).mean()))
    thresholds = {f"{each:g}": threshold_at(values, each) for each in (0.01, 0.05, 0.1, 0.2)}
    threshold = threshold_at(values, rate)
    if threshold > _HIGHEST:
        min_share = max(min_share, sorted(shares, reverse=True)[int(rate * len(shares))])
    limited = round(float(np.clip(threshold, _LOWEST, _HIGHEST)), 4)
    forged = [critical(_map(model, each, device), EVIDENCE) for each in _forged(pool)]
    scale = fit_scale(levels, forged)
    mean = round(float(np.mean(marked)), 5)
    return Calibration(limited, min_share, rate, len(pool), mean, thresholds, scale)


def _authentic(pool: PhotoPool) -> Iterator[NDArray[np.uint8]]:
    """Each photograph as it is, and once reprocessed; the same ones every time."""
    rng = np.random.default_rng(_SEED)
    for photo in pool.photos:
        yield photo
        yield random_finish(photo, rng)


def _forged(pool: PhotoPool) -> Iterator[NDArray[np.uint8]]:
    """As many forgeries of every kind."""
    make = Synthesizer(pool, size=_SIDE, mix=Mix(authentic=0), seed=_SEED)
    samples = map(make, range(2 * len(pool)))
    return (sample.pixels for sample in samples if sample.mask.any())


def with_verdict(card: Card, found: Calibration) -> Card:
    """Say in a model's card how its verdict was calibrated."""
    return replace(
        card,
        verdict_threshold=found.threshold,
        min_share=found.min_share,
        score_scale=found.score_scale,
        training=card.training | {"calibration": asdict(found)},
    )


def _map(model: Model, pixels: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    height, width = pixels.shape[:2]
    image = pad(pixels, multiple=model.config.multiple)
    probability, _ = predict(model, image, device=device)
    return np.asarray(probability[:height, :width].numpy())
