"""Calibration of finished weights: how much of authentic photographs they mark, and their verdict.

Training shows far more forgery than the world holds, so the map's odds are too high (Saerens et al.
2002): they are lowered first. Then a logistic curve is fitted to the score of authentic photographs
and of forgeries made of them, and the rule's two scores are those that one authentic photograph in
ninety reaches, and one in fifteen, read from the tail's shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from imlctl.evaluate.metrics import threshold_at
from imlctl.forge.history import random_copy, random_finish
from imlctl.forge.synthesizer import Mix, Synthesizer
from imlctl.inference import predict
from imlctl.mask.decide import Rule, Scale, evidence, fit_scale, log_odds, picture_score
from imlctl.train.score import HeadConfig, fit_copies, fit_heads

if TYPE_CHECKING:
    from imlctl.core.efficient_iml import EfficientIML
    from imlctl.core.model import Model
    from imlctl.forge.photos import PhotoPool
    from imlctl.weights.load import Card

# Of authentic photographs, that reach each score. Pictures of other people reach the lower one
# twice as often as those of the sources at hand, one in seven, and the upper one no more often.
MANIPULATED, INCONCLUSIVE = 0.011, 0.065
PIXELS = 0.02  # of an authentic photograph, on average, that may be marked
_SEED = 5
_SIDE = 384  # of a forgery, in pixels
_TAIL = 0.1  # of the photographs: the shape of what is rarer is fitted to these
_FINE = 2.0**-8  # log odds; float16 loses nothing of a bias that is lowered by such steps
_MOST = 12 * 2**8  # steps; float32 tells probabilities from certainty about as far
_STEPS = (1 / (1 + np.exp(-_FINE * np.arange(_MOST + 1)))).astype(np.float32)  # from one half up


@dataclass(frozen=True, slots=True)
class Calibration:
    """Rule and score measured on authentic photographs."""

    rule: Rule  # scores of the verdict; the default ones where there is no scale
    photos: int  # number of photographs; each is seen as it is, reprocessed, and as a reduced copy
    lowered: float  # what was taken from the model's log odds
    marked: float  # share of their pixels that reach one half, on average
    # unscaled scores that one photograph in ninety reaches, and one in fifteen
    levels: tuple[float, float]
    score_scale: Scale | None  # of the picture's score; None where forgeries do not stand out
    # for each folder its number of pictures, and the shares that reach the two scores
    by_source: dict[str, tuple[int, float, float]]


def calibrate(
    model: Model,
    pool: PhotoPool,
    *,
    device: torch.device,
    share: float = PIXELS,
    teaching: PhotoPool | None = None,
    heads: HeadConfig | None = None,
) -> Calibration:
    """Lower a model's log odds as far as it takes, train its score, then measure its rule.

    The model is in evaluation mode, on `device`; an EfficientIML is changed in place, and its heads
    are trained on the photographs `teaching`. `pool` holds photographs that it was not trained on;
    on average a `share` of their pixels may reach one half.
    """
    if teaching is not None and not model.samples:
        fit_copies(cast("EfficientIML", model), teaching, device=device, config=heads)
    seen = [_look(model, each, device) for each in _authentic(pool)]
    lowered = 0.0
    if not model.samples:
        ours, lowered = cast("EfficientIML", model), _excess(seen, share)
        if lowered:
            ours.lower(lowered)
        if teaching is not None:
            fit_heads(ours, teaching, device=device, config=heads)
        if lowered or teaching is not None:
            seen = [_look(model, each, device) for each in _authentic(pool)]
    authentic = [each.level for each in seen]
    scale = fit_scale(authentic, [_look(model, each, device).level for each in _forged(pool)])
    levels = threshold_for(authentic, MANIPULATED), threshold_for(authentic, INCONCLUSIVE)
    scores = () if scale is None else (round(picture_score(each, scale), 4) for each in levels)
    marked = round(float(np.mean([each.marked[0] for each in seen])), 5)
    by_source = _by_source(pool.names, authentic, levels)
    return Calibration(Rule(*scores), len(pool), lowered, marked, levels, scale, by_source)


def _by_source(
    names: Sequence[str], levels: Sequence[float], wanted: tuple[float, float]
) -> dict[str, tuple[int, float, float]]:
    """Count by the folder that a photograph lies in; each photograph has as many levels."""
    sources: dict[str, list[float]] = {}
    for name, reached in zip(names, np.reshape(levels, (len(names), -1)).tolist(), strict=True):
        sources.setdefault(name.rpartition("/")[0] or ".", []).extend(reached)
    found = {}
    for source, reached in sorted(sources.items()):
        high, low = (round(float(np.mean(np.array(reached) >= each)), 4) for each in wanted)
        found[source] = (len(reached), high, low)
    return found


class _Seen(NamedTuple):
    """The score of a picture before it is scaled, and its map's shares that reach `_STEPS`."""

    level: float
    marked: NDArray[np.float64]


def _look(model: Model, pixels: NDArray[np.uint8], device: torch.device) -> _Seen:
    image = torch.from_numpy(np.moveaxis(pixels, 2, 0).copy())  # (3, H, W)
    answer = predict(model, image, device=device)
    found = answer.probability.numpy()
    level = evidence(found, answer.score if model.scored else None)
    below = np.searchsorted(np.sort(found, axis=None), _STEPS)
    return _Seen(level, (found.size - below) / found.size)


def threshold_for(levels: Sequence[float], rate: float) -> float:
    """Return the level that a share `rate` (above 0) of such pictures reaches.

    Down to a tenth it is the quantile. Rarer ones are read from an exponential fitted to the log
    odds beyond that, the plainest of the tails that exceedances tend to (Pickands 1975).
    """
    start = threshold_at(levels, max(rate, _TAIL))
    if rate >= _TAIL:
        return start
    onset = log_odds(start)
    beyond = [log_odds(each) - onset for each in levels if each >= start]
    decay = float(np.mean(beyond)) if beyond else 0.0
    rare = onset + decay * math.log(_TAIL / rate)
    return max(start, 1 / (1 + math.exp(-rare)))  # beyond certainty there are no log odds


def _excess(seen: Sequence[_Seen], share: float) -> float:
    """Return the log odds, 0 to 12, to take from maps so that a share at most reaches one half."""
    marked = np.mean([each.marked for each in seen], axis=0)
    return int(np.argmax([*(marked[:-1] <= share), True])) * _FINE


def _authentic(pool: PhotoPool) -> Iterator[NDArray[np.uint8]]:
    """Each photograph as it is, reprocessed, and as it circulates; the same ones every time."""
    rng = np.random.default_rng(_SEED)
    for photo in pool.photos:
        yield photo
        yield random_finish(photo, rng)
        yield random_copy(photo, rng)


def _forged(pool: PhotoPool) -> Iterator[NDArray[np.uint8]]:
    """As many forgeries of every kind."""
    make = Synthesizer(pool, size=_SIDE, mix=Mix(authentic=0), seed=_SEED)
    samples = map(make, range(2 * len(pool)))
    return (sample.pixels for sample in samples if sample.mask.any())


def with_verdict(card: Card, found: Calibration) -> Card:
    """Put a calibration into a model's card; not what was lowered, which is in the weights."""
    kept = asdict(found)
    del kept["lowered"]
    return replace(
        card,
        rule=found.rule,
        rates=None,  # of another rule
        score_scale=found.score_scale,
        training=card.training | {"calibration": kept},
    )
