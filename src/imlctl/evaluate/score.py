"""Scoring single pictures: how well a map, its mask and its verdict agree with the truth.

Nothing is permuted, inverted, or fitted to the truth, but for `best_f1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imlctl.data.masks import read_mask
from imlctl.errors import ConfigError, NumericalError
from imlctl.evaluate.metrics import map_scores, mask_scores, pixel_f1

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from imlctl.data.manifest import Entry
    from imlctl.evaluate.metrics import Mask, Probability
    from imlctl.mask.decide import Decision, Verdict
    from imlctl.pipeline import Result

HALF = 0.5  # the fixed threshold that the field reports pixel metrics at
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
class PictureScore(PixelScores):
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
) -> Iterator[PictureScore]:
    """Score a detector, such as `Localizer.localize`, on each picture, in order.

    Raises:
        InputError: A picture or a mask cannot be read.
        ConfigError: The size of a mask differs from its picture's, or it marks nothing.
        NumericalError: A map holds NaN or infinity.
    """
    for entry in entries:
        truth = None if entry.mask is None else read_mask(entry.mask)
        yield score_picture(entry, localize(entry.image), truth)


def score_picture(entry: Entry, answer: Result | MapAnswer, truth: Mask | None) -> PictureScore:
    """Score what a detector said of one picture; raises as `evaluate` does.

    `truth` is what is manipulated, of the map's size; None for an authentic picture.
    """
    probability, decision = answer.probability, answer.decision
    if not np.isfinite(probability).all():
        raise NumericalError("its map contains NaN or infinity", source=str(entry.image))
    values: dict[str, float] = {}
    if truth is not None:
        if truth.shape != probability.shape:
            sizes = ["x".join(map(str, array.shape[::-1])) for array in (truth, probability)]
            raise ConfigError(f"is {sizes[0]}, its picture {sizes[1]}", source=str(entry.mask))
        if not truth.any():  # two empty masks agree: the picture would score 1 for being missed
            raise ConfigError(
                "marks nothing",
                source=str(entry.mask),
                remedy="List the picture as authentic, or correct its mask.",
            )
        predicted = probability >= HALF
        values = mask_scores(predicted, truth) | map_scores(probability, truth)
        values["f1_verdict"] = pixel_f1(decision.mask, truth)
    return PictureScore(
        set=entry.set,
        image=entry.image.name,
        tampered=truth is not None,
        edited=0.0 if truth is None else float(truth.mean()),
        verdict=decision.verdict,
        score=decision.score,
        marked=decision.share,
        **values,
    )
