"""Scores of pictures, and from them those of sets, each with how sure it is.

Nothing is permuted, inverted, or fitted to the truth, but for `best_f1`. Pixel metrics are averaged
over the tampered pictures of a set, then over sets, with intervals by bootstrap over pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imlctl.data.masks import read_mask
from imlctl.errors import ConfigError, NumericalError
from imlctl.evaluate import metrics
from imlctl.mask.rates import SIZES, measured, size_of

if TYPE_CHECKING:
    from imlctl.data.manifest import Entry
    from imlctl.evaluate.metrics import Mask, Probability
    from imlctl.mask.decide import Decision, Verdict
    from imlctl.pipeline import Result

HALF = 0.5  # the fixed threshold that the field reports pixel metrics at
RESAMPLES = 1000
OVER_SETS, EVERY = "mean over sets", "all pictures"
_BINS = 10  # of the reliability diagram
_NAN = float("nan")


class MapAnswer(NamedTuple):
    """The answer of a detector that is no `Localizer`; see `pipeline.Result`."""

    probability: Probability
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelScores:
    """Agreement of pixels with the truth, or means of it; NaN where there is none to measure."""

    f1: float = _NAN  # at 0.5, as iou, precision and recall
    f1_verdict: float = _NAN  # F1 of the mask that goes with the verdict
    iou: float = _NAN
    precision: float = _NAN
    recall: float = _NAN
    auc: float = _NAN
    ap: float = _NAN
    best_f1: float = _NAN  # at the picture's best threshold: optimistic


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureAccuracy(PixelScores):
    """Agreement on one picture. Pixel metrics are NaN for an authentic picture."""

    set: str
    image: str
    tampered: bool
    edited: float  # share of its pixels that are manipulated, 0 to 1
    verdict: Verdict
    score: float  # of the whole picture, 0 to 1
    marked: float  # share of its pixels in the mask that goes with the verdict


def evaluate(
    entries: Iterable[Entry], localize: Callable[[Path], Result | MapAnswer]
) -> Iterator[PictureAccuracy]:
    """Score a detector, such as `Localizer.localize`, on each picture, in order.

    Raises:
        InputError: A picture or a mask cannot be read, or a map holds NaN or infinity.
        ConfigError: The size of a mask differs from its picture's, or it marks nothing.
    """
    for entry in entries:
        truth = None if entry.mask is None else read_mask(entry.mask)
        yield score_picture(entry, localize(entry.image), truth)


def score_picture(entry: Entry, answer: Result | MapAnswer, truth: Mask | None) -> PictureAccuracy:
    """Score what a detector said of one picture; raises as `evaluate` does.

    `truth` is what is manipulated, of the map's size; None for an authentic picture.
    """
    probability, decision = answer.probability, answer.decision
    if not np.isfinite(probability).all():
        raise NumericalError("its map contains NaN or infinity", source=str(entry.image))
    values: dict[str, float] = {}
    if truth is not None:
        if truth.shape != probability.shape:
            own, other = ("x".join(map(str, a.shape[::-1])) for a in (truth, probability))
            raise ConfigError(f"is {own}, its picture {other}", source=str(entry.mask))
        if not truth.any():  # two empty masks agree: the picture would score 1 for being missed
            what, remedy = "marks nothing", "List the picture as authentic, or correct its mask."
            raise ConfigError(what, source=str(entry.mask), remedy=remedy)
        predicted = probability >= HALF
        values = metrics.mask_scores(predicted, truth) | metrics.map_scores(probability, truth)
        values["f1_verdict"] = metrics.pixel_f1(decision.mask, truth)
    return PictureAccuracy(
        set=entry.set,
        image=entry.image.name,
        tampered=truth is not None,
        edited=0.0 if truth is None else float(truth.mean()),
        verdict=decision.verdict,
        score=decision.score,
        marked=decision.share,
        **values,
    )


PIXEL_METRICS = tuple(each.name for each in fields(PixelScores))


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScore(PixelScores):
    """Scores of one set, or over sets. NaN where there is nothing to measure on.

    Pixel metrics are means over the tampered pictures. `rates` say how often each verdict is given;
    None for a mean over sets. Intervals are of 95 %.
    """

    name: str
    tampered: int
    authentic: int
    image_auc: float
    rates: dict[str, Any] | None  # of `measured`
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


def summarize_sets(scores: Sequence[PictureAccuracy], *, resamples: int = 0) -> list[SetScore]:
    """Score each set, in order of appearance; of several also their mean, and all pictures pooled.

    The tampered pictures of each set are drawn anew `resamples` times for intervals of pixel
    metrics; the draws depend on the set's name alone.
    """
    names = dict.fromkeys(s.set for s in scores)
    scored = [_set_score(n, [s for s in scores if s.set == n], resamples) for n in names]
    rows = [row for row, _ in scored]
    if len(rows) > 1:
        keys = (*PIXEL_METRICS, "image_auc")
        own = np.array([[getattr(row, key) for key in keys] for row in rows])
        *means, image_auc = metrics.columns_mean(own).tolist()
        drawn = metrics.columns_mean(np.stack([each for _, each in scored], axis=-2))
        mean = SetScore(
            name=OVER_SETS,
            tampered=sum(row.tampered for row in rows),
            authentic=sum(row.authentic for row in rows),
            **dict(zip(PIXEL_METRICS, means, strict=True)),
            image_auc=image_auc,
            rates=None,
            intervals=_intervals(means, drawn),
        )
        rows += [mean, _set_score(EVERY, scores, resamples)[0]]
    return rows


def by_size(scores: Sequence[PictureAccuracy]) -> list[dict[str, Any]]:
    """Pixel F1 of tampered pictures by the share of the picture that was edited."""
    rows = []
    for place, name in enumerate(SIZES):
        mine = [s for s in scores if s.tampered and size_of(s.edited) == place]
        pairs = np.array([(s.f1, s.f1_verdict) for s in mine], float).reshape(-1, 2)
        f1, f1_verdict = metrics.columns_mean(pairs).tolist()
        rows.append({"size": name, "pictures": len(mine), "f1": f1, "f1_verdict": f1_verdict})
    return rows


def reliability(scores: Sequence[PictureAccuracy]) -> list[dict[str, Any]]:
    """Compare scores with how often pictures are tampered: the numbers of a reliability diagram.

    A score is a probability if one picture in two is tampered. So both kinds weigh the same here;
    without one of them there is nothing to compare.
    """
    counts = [sum(not s.tampered for s in scores), sum(s.tampered for s in scores)]
    rows = []
    for number in range(_BINS if all(counts) else 0):
        mine = [s for s in scores if min(int(s.score * _BINS), _BINS - 1) == number]
        if not mine:
            continue
        weights, forged = [1 / counts[s.tampered] for s in mine], [s.tampered for s in mine]
        row = {"low": number / _BINS, "high": (number + 1) / _BINS}
        row |= {"tampered": forged.count(True), "authentic": forged.count(False)}
        row["score"] = float(np.average([s.score for s in mine], weights=weights))
        row["observed"] = float(np.average(forged, weights=weights))
        rows.append(row)
    return rows


def _set_score(
    name: str, scores: Sequence[PictureAccuracy], resamples: int
) -> tuple[SetScore, NDArray[np.float64]]:
    """Score one set; also return the mean pixel metrics of its resamples, (resamples, K)."""
    forged, authentic = ([s for s in scores if s.tampered is kind] for kind in (True, False))
    values = [[getattr(s, key) for key in PIXEL_METRICS] for s in forged]
    pixels = np.array(values, float).reshape(-1, len(PIXEL_METRICS))  # (N, K)
    rng = np.random.default_rng([0, *name.encode("utf-8", "surrogateescape")])
    drawn = np.full((resamples, len(PIXEL_METRICS)), np.nan)
    for row in drawn if len(forged) > 1 else ():  # one picture tells nothing of the spread
        row[:] = metrics.columns_mean(pixels[rng.integers(len(forged), size=len(forged))])
    means = metrics.columns_mean(pixels).tolist()
    ranked = np.array([s.score for s in (*forged, *authentic)])
    image_auc = metrics.pixel_auc(ranked, np.arange(len(ranked)) < len(forged))
    limits = metrics.auc_interval(image_auc, len(forged), len(authentic))
    edits = [(s.verdict, s.edited) for s in forged]
    scored = SetScore(
        name=name,
        tampered=len(forged),
        authentic=len(authentic),
        **dict(zip(PIXEL_METRICS, means, strict=True)),
        image_auc=image_auc,
        rates=measured(name, edits, [s.verdict for s in authentic]),
        intervals=_intervals(means, drawn) | ({} if limits is None else {"image_auc": limits}),
    )
    return scored, drawn


def _intervals(
    known: Sequence[float], drawn: NDArray[np.float64]
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the metrics that have a value."""
    tail = (1 - metrics.CONFIDENCE) / 2
    intervals = {}
    for key, value, column in zip(PIXEL_METRICS, known, drawn.T, strict=True):
        there = column[~np.isnan(column)]
        if value == value and len(there):
            low, high = np.quantile(there, [tail, 1 - tail])
            intervals[key] = (float(low), float(high))
    return intervals
