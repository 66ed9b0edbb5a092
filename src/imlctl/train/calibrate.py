"""What weights may claim: how much of an authentic photograph is marked, how often is it flagged?

Pixels first. Training shows far more forgery than the world holds, so the map's odds are too high
(Saerens et al. 2002); `excess` says by how much, as seen on authentic photographs, and the model
gives that up.

Then the verdict. A picture is flagged when more than a share `min_share` of its pixels reach the
threshold. So each authentic photograph has one critical threshold, the (1 - min_share) quantile of
its own map: below it the picture is flagged, above it not. The threshold for a given false-positive
rate is a quantile of those. Few photographs decide a small rate, so it is read from the tail's
shape, not from the one photograph that happens to lie there. A model that is certain where it is
wrong has no such threshold below 1; more pixels are asked of it instead.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from imlctl.bench.accuracy import threshold_at
from imlctl.forge.history import random_copy, random_finish
from imlctl.forge.synthesizer import Mix, Synthesizer
from imlctl.inference import predict
from imlctl.mask.score import EVIDENCE, Scale, critical, fit_scale, log_odds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from imlctl.core.efficient_iml import EfficientIML
    from imlctl.core.model import Model
    from imlctl.forge.photos import PhotoPool
    from imlctl.weights.load import Card

RATE = 0.05
PIXELS = 0.02  # of an authentic photograph, on average, that may be marked
_SEED = 5
_SIDE = 384  # of a forgery, in pixels
# A threshold outside would mark nearly everything, or nothing a model could reach.
_LOWEST, _HIGHEST = 0.5, 0.9999
_VERSIONS = 2  # of each photograph and each sort of reprocessing
_TAIL = 0.1  # of the photographs: the shape of what is rarer is fitted to these
_FINE = 2.0**-8  # log odds; float16 loses nothing of a bias that is lowered by such steps
_MOST = 12 * 2**8  # steps; float32 tells probabilities from certainty about as far
_STEPS = (1 / (1 + np.exp(-_FINE * np.arange(_MOST + 1)))).astype(np.float32)  # from one half up


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds measured on authentic photographs.

    Attributes:
        threshold: For the false-positive rate `rate`, within 0.5 to 0.9999.
        min_share: Share of pixels beyond which a picture is flagged: as asked for, or larger where
            0.9999 is not enough for the rate.
        rate: Share of such photographs that it flags.
        photos: How many photographs it was measured on, each in five versions: as it is, twice
            reprocessed, and twice as a reduced copy.
        lowered: What was taken from the model's log odds before, for the share of pixels.
        marked: Share of their pixels that reach one half, on average over the photographs.
        thresholds: For the rates 1, 5, 10 and 20 %.
        score_scale: Of the picture's score: fitted to these maps and to those of as many forgeries
            made of the same photographs; None where forgeries do not stand out.
    """

    threshold: float
    min_share: float
    rate: float
    photos: int
    lowered: float
    marked: float
    thresholds: dict[str, float]
    score_scale: Scale | None


def calibrate(
    model: Model,
    pool: PhotoPool,
    *,
    min_share: float,
    device: torch.device,
    rate: float = RATE,
    share: float = PIXELS,
) -> Calibration:
    """Lower a model's log odds as far as it takes, then measure thresholds.

    Args:
        model: In evaluation mode, on `device`; an EfficientIML is changed in place.
        pool: Authentic photographs that it was not trained on.
        min_share: Share of pixels beyond which a picture is flagged.
        device: Where to compute.
        rate: Share of the photographs that may be flagged.
        share: Of a photograph's pixels, on average, that may reach one half.
    """
    seen = [_look(each, min_share) for each in _maps(model, pool, device)]
    lowered = 0.0 if model.samples else excess(seen, share)
    if lowered:
        cast("EfficientIML", model).lower(lowered)
        seen = [_look(each, min_share) for each in _maps(model, pool, device)]
    values = [each.critical for each in seen]
    thresholds = {f"{each:g}": threshold_for(values, each) for each in (0.01, 0.05, 0.1, 0.2)}
    threshold = threshold_for(values, rate)
    if threshold > _HIGHEST:
        shares = sorted((each.certain for each in seen), reverse=True)
        min_share = max(min_share, shares[int(rate * len(shares))])
    limited = round(float(np.clip(threshold, _LOWEST, _HIGHEST)), 5)
    forged = [critical(_map(model, each, device), EVIDENCE) for each in _forged(pool)]
    marked = round(float(np.mean([each.marked[0] for each in seen])), 5)
    scale = fit_scale([each.level for each in seen], forged)
    return Calibration(limited, min_share, rate, len(pool), lowered, marked, thresholds, scale)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What is kept of a map, which may be one of many large ones.

    Attributes:
        critical: Its critical threshold.
        level: The same for the share `EVIDENCE`.
        certain: Share of its pixels that reach `_HIGHEST`.
        marked: Share that reaches each of `_STEPS`, (steps,).
    """

    critical: float
    level: float
    certain: float
    marked: NDArray[np.float64]


def _look(found: NDArray[np.float32], min_share: float) -> _Seen:
    below = np.searchsorted(np.sort(found, axis=None), _STEPS)
    return _Seen(
        critical(found, min_share),
        critical(found, EVIDENCE),
        float((found >= _HIGHEST).mean()),
        (found.size - below) / found.size,
    )


def threshold_for(critical: Sequence[float], rate: float) -> float:
    """Return the threshold that flags a share `rate` of such pictures.

    Down to a tenth it is the quantile. What is rarer is read from an exponential fitted to the log
    odds beyond that tenth, the plainest of the tails that exceedances tend to (Pickands 1975).

    Args:
        critical: Critical threshold of each picture.
        rate: Above 0.
    """
    start = threshold_at(critical, max(rate, _TAIL))
    if rate >= _TAIL:
        return start
    onset = log_odds(start)
    beyond = [log_odds(each) - onset for each in critical if each >= start]
    decay = float(np.mean(beyond)) if beyond else 0.0
    rare = onset + decay * math.log(_TAIL / rate)
    return max(start, 1 / (1 + math.exp(-rare)))  # beyond certainty there are no log odds


def excess(seen: Sequence[_Seen], share: float) -> float:
    """Say what to take from the log odds of maps so that little of them reaches one half.

    Args:
        seen: Maps of authentic photographs.
        share: Of a photograph's pixels, on average, that may reach one half.

    Returns:
        Log odds, 0 where the maps keep to that as they are; 12 at most.
    """
    marked = np.mean([each.marked for each in seen], axis=0)
    return int(np.argmax([*(marked[:-1] <= share), True])) * _FINE


def _maps(model: Model, pool: PhotoPool, device: torch.device) -> Iterator[NDArray[np.float32]]:
    return (_map(model, pixels, device) for pixels in _authentic(pool))


def _authentic(pool: PhotoPool) -> Iterator[NDArray[np.uint8]]:
    """Each photograph as it is, reprocessed, and as it circulates; the same ones every time."""
    rng = np.random.default_rng(_SEED)
    for photo in pool.photos:
        yield photo
        for _ in range(_VERSIONS):
            yield random_finish(photo, rng)
            yield random_copy(photo, rng)


def _forged(pool: PhotoPool) -> Iterator[NDArray[np.uint8]]:
    """As many forgeries of every kind."""
    make = Synthesizer(pool, size=_SIDE, mix=Mix(authentic=0), seed=_SEED)
    samples = map(make, range(2 * len(pool)))
    return (sample.pixels for sample in samples if sample.mask.any())


def with_verdict(card: Card, found: Calibration) -> Card:
    """Say in a model's card how its verdict was calibrated.

    Not by how much the log odds were lowered: that is in the weights, and nothing is left to lower
    when they are calibrated again.
    """
    kept = asdict(found)
    del kept["lowered"]
    return replace(
        card,
        verdict_threshold=found.threshold,
        min_share=found.min_share,
        score_scale=found.score_scale,
        training=card.training | {"calibration": kept},
    )


def _map(model: Model, pixels: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    image = torch.from_numpy(np.moveaxis(pixels, 2, 0).copy())  # (3, H, W)
    probability, _ = predict(model, image, device=device)
    return np.asarray(probability.numpy())
