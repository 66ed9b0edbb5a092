"""From scores of pictures to those of sets, with bootstrap confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from imlctl.evaluate.metrics import auc_of, columns_mean, curve
from imlctl.mask.decide import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CONFIDENCE = 0.95

# Means over the tampered pictures.
PIXEL_METRICS = (
    "f1",
    "iou",
    "auc",
    "ap",
    "best_f1",
    "precision",
    "recall",
    "f1_copy",
    "f1_both",
)
VERDICT_METRICS = ("found", "suspected", "false_alarms", "false_suspicions")
IMAGE_METRICS = (*VERDICT_METRICS, "image_auc", "image_f1")
METRICS = (*PIXEL_METRICS, *IMAGE_METRICS)

_NAN = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureScore:
    """Agreement on one picture. Pixel metrics are NaN for an authentic picture.

    Attributes:
        set: Name of its set.
        image: Name of its file.
        tampered: Whether it has a mask.
        share: Share of all pixels at or over the threshold.
        threshold: Of the mask.
        verdict: On the picture.
        critical: Highest threshold at which half a percent of its pixels are marked.
        score: The detector's own score of the whole picture.
        f1: Pixel F1 of the mask.
        iou: Pixel intersection over union of the mask.
        auc: Pixel area under the ROC curve.
        ap: Pixel average precision.
        best_f1: Pixel F1 at the picture's best threshold: optimistic.
        precision: Of the mask's pixels.
        recall: Of the mask's pixels.
        f1_copy: Of a copy-move with known source: F1 where only the copy counts as manipulated.
        f1_both: The same where copy and source count.
    """

    set: str
    image: str
    tampered: bool
    share: float
    threshold: float
    verdict: Verdict
    critical: float
    score: float
    f1: float = _NAN
    iou: float = _NAN
    auc: float = _NAN
    ap: float = _NAN
    best_f1: float = _NAN
    precision: float = _NAN
    recall: float = _NAN
    f1_copy: float = _NAN
    f1_both: float = _NAN


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScore:
    """Means over one set, or over sets. NaN where there is nothing to measure on.

    Attributes:
        name: Of the set.
        tampered: Number of tampered pictures.
        authentic: Number of authentic pictures.
        f1: As the other pixel metrics, the mean over the tampered pictures; see `PictureScore`.
        found: Share of the tampered pictures that are called manipulated.
        suspected: Share of them that are called manipulated or inconclusive.
        false_alarms: Share of the authentic pictures that are called manipulated.
        false_suspicions: Share of them that are called manipulated or inconclusive.
        image_auc: Area under the ROC curve of the picture scores.
        image_f1: F1 of the verdict "manipulated".
        intervals: Of each metric that has a value, its confidence interval.
    """

    name: str
    tampered: int
    authentic: int
    f1: float
    iou: float
    auc: float
    ap: float
    best_f1: float
    precision: float
    recall: float
    f1_copy: float
    f1_both: float
    found: float
    suspected: float
    false_alarms: float
    false_suspicions: float
    image_auc: float
    image_f1: float
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


def summarize(
    scores: Sequence[PictureScore], *, resamples: int = 0, seed: int = 0
) -> list[SetScore]:
    """Means per set, in order of appearance, then their mean over the sets that have a value.

    Args:
        scores: Of all pictures.
        resamples: Bootstrap resamples for the intervals; 0 for none. Tampered and authentic
            pictures of each set are drawn anew, with replacement.
        seed: Of those draws, which depend on it and on the set's name alone.
    """
    groups = [_Group.of(name, scores) for name in dict.fromkeys(s.set for s in scores)]
    drawn = [group.resampled(resamples, seed) for group in groups]
    rows = [
        _row(group.name, group.tampered, group.authentic, group.values(), values)
        for group, values in zip(groups, drawn, strict=True)
    ]
    if len(groups) > 1:
        rows.append(
            _row(
                "mean over sets",
                sum(group.tampered for group in groups),
                sum(group.authentic for group in groups),
                columns_mean(np.stack([group.values() for group in groups])),
                columns_mean(np.stack(drawn, axis=-2)),
            )
        )
    return rows


def pool(scores: Sequence[PictureScore], *, resamples: int = 0, seed: int = 0) -> SetScore:
    """The same over all pictures as if they were one set."""
    group = _Group.of("all pictures", scores, every=True)
    drawn = group.resampled(resamples, seed)
    return _row(group.name, group.tampered, group.authentic, group.values(), drawn)


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Pictures of one set as arrays.

    Attributes:
        name: Of the set.
        pixels: Pixel metrics of the tampered pictures, (N, K).
        verdicts: Of the tampered ones whether they are called manipulated, whether at least
            inconclusive, as numbers, and their scores, (N, 3).
        authentic_verdicts: The same of the authentic ones.
    """

    name: str
    pixels: NDArray[np.float64]
    verdicts: NDArray[np.float64]
    authentic_verdicts: NDArray[np.float64]

    @classmethod
    def of(cls, name: str, scores: Sequence[PictureScore], *, every: bool = False) -> _Group:
        mine = [s for s in scores if every or s.set == name]
        forged = [s for s in mine if s.tampered]
        return cls(
            name,
            np.array([[getattr(s, key) for key in PIXEL_METRICS] for s in forged], float).reshape(
                -1, len(PIXEL_METRICS)
            ),
            _verdicts(forged),
            _verdicts([s for s in mine if not s.tampered]),
        )

    @property
    def tampered(self) -> int:
        return len(self.verdicts)

    @property
    def authentic(self) -> int:
        return len(self.authentic_verdicts)

    def values(self) -> NDArray[np.float64]:
        """All metrics, (K,)."""
        return _values(self.pixels, self.verdicts, self.authentic_verdicts)

    def resampled(self, count: int, seed: int) -> NDArray[np.float64]:
        """All metrics of `count` resamples, (count, K)."""
        rng = np.random.default_rng([seed % 2**63, *self.name.encode("utf-8", "surrogateescape")])
        rows = np.empty((count, len(METRICS)))
        for row in rows:
            forged, authentic = (
                rng.integers(size, size=size) if size else np.empty(0, np.int64)
                for size in (self.tampered, self.authentic)
            )
            row[:] = _values(
                self.pixels[forged], self.verdicts[forged], self.authentic_verdicts[authentic]
            )
        return rows


def _verdicts(scores: Sequence[PictureScore]) -> NDArray[np.float64]:
    rows = [
        [s.verdict == Verdict.MANIPULATED, s.verdict != Verdict.NOTHING_FOUND, s.score]
        for s in scores
    ]
    return np.array(rows, float).reshape(-1, 3)


def _values(
    pixels: NDArray[np.float64], forged: NDArray[np.float64], authentic: NDArray[np.float64]
) -> NDArray[np.float64]:
    shares = [
        float(group[:, step].mean()) if len(group) else _NAN
        for group in (forged, authentic)
        for step in (0, 1)
    ]
    image_auc = image_f1 = _NAN
    if len(forged) and len(authentic):
        ranked = np.concatenate((forged[:, 2], authentic[:, 2]))
        truth = np.arange(len(ranked)) < len(forged)
        image_auc = auc_of(*curve(ranked, truth))
        hits, alarms = forged[:, 0].sum(), authentic[:, 0].sum()
        image_f1 = float(2 * hits / (len(forged) + hits + alarms))
    return np.array([*columns_mean(pixels), *shares, image_auc, image_f1])


def _row(
    name: str,
    tampered: int,
    authentic: int,
    values: NDArray[np.float64],
    drawn: NDArray[np.float64],
) -> SetScore:
    known = dict(zip(METRICS, map(float, values), strict=True))
    return SetScore(
        name=name,
        tampered=tampered,
        authentic=authentic,
        **known,
        intervals=_intervals(known, drawn) if len(drawn) else {},
    )


def _intervals(
    known: dict[str, float], drawn: NDArray[np.float64]
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the metrics that have a value."""
    tail = (1 - CONFIDENCE) / 2
    intervals = {}
    for (key, value), column in zip(known.items(), drawn.T, strict=True):
        there = column[~np.isnan(column)]
        if value == value and len(there):
            low, high = np.quantile(there, [tail, 1 - tail])
            intervals[key] = (float(low), float(high))
    return intervals
