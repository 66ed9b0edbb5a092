"""How well masks agree with the truth: the metrics of the field, without its flattering variants.

A pixel metric is computed per tampered picture and then averaged, first within each set, then over
sets (as IMDL-BenCo averages over pictures). There is no permuted or inverted F1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imlctl.bench.summary import PictureScore, SetScore, summarize
from imlctl.data.masks import read_mask
from imlctl.errors import ConfigError, NumericalError
from imlctl.evaluate.metrics import (
    Mask,
    Probability,
    ap_of,
    auc_of,
    best_f1_of,
    curve,
    pixel_auc,
    pixel_f1,
    pixel_iou,
    pixel_precision,
    pixel_recall,
    threshold_at,
)
from imlctl.mask.decide import Rule, decide
from imlctl.mask.score import EVIDENCE, critical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from imlctl.data.manifest import Entry

__all__ = [
    "Answer",
    "PictureScore",
    "Rule",
    "SetScore",
    "auc_of",
    "best_f1_of",
    "curve",
    "evaluate",
    "pixel_auc",
    "pixel_f1",
    "pixel_iou",
    "score_picture",
    "summarize",
    "threshold_at",
]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a detector said of a picture.

    Attributes:
        probability: Of each pixel of the upright picture, (H, W) in [0, 1].
        score: Of the whole picture, in [0, 1].
    """

    probability: Probability
    score: float


def evaluate(
    cases: Iterable[Entry],
    localize: Callable[[Path], Answer],
    *,
    rule: Rule | None = None,
    threshold: float | None = None,
) -> Iterator[PictureScore]:
    """Score a detector on each case, in order.

    Args:
        cases: Pictures.
        localize: The detector; its map has the upright picture's size.
        rule: How its scores become verdicts; the default one if None.
        threshold: Of its masks; the one that goes with the verdict if None.

    Raises:
        InputError: A mask cannot be read.
        ConfigError: The size of a mask differs from its picture's, or it marks nothing.
        NumericalError: A map holds NaN or infinity.
    """
    rule = rule or Rule()
    for case in cases:
        masks = [None if m is None else read_mask(m) for m in (case.mask, case.source)]
        yield score_picture(case, localize(case.image), rule, *masks, threshold=threshold)


def score_picture(
    case: Entry,
    answer: Answer,
    rule: Rule,
    truth: Mask | None,
    source: Mask | None = None,
    *,
    threshold: float | None = None,
) -> PictureScore:
    """Score what a detector said of one picture.

    Args:
        case: Which picture.
        answer: Its map has the masks' size.
        rule: How its score becomes a verdict.
        truth: (H, W), what is manipulated; None for an authentic picture.
        source: (H, W), what a copy-move copied; None where that is not known.
        threshold: Of the mask; the one that goes with the verdict if None.

    Raises:
        ConfigError: The sizes differ.
        NumericalError: The map holds NaN or infinity.
    """
    probability = answer.probability
    if not np.isfinite(probability).all():
        raise NumericalError("its map holds NaN or infinity", source=str(case.image))
    decision = decide(probability, answer.score, rule, threshold=threshold)
    predicted = decision.mask
    values: dict[str, float] = {}
    for mask, path in ((truth, case.mask), (source, case.source)):
        if mask is not None and mask.shape != predicted.shape:
            raise ConfigError(f"is {mask.shape}, its picture {predicted.shape}", source=str(path))
    if truth is not None:
        if not truth.any():  # two empty masks agree: the picture would score 1 for being missed
            raise ConfigError(
                "marks nothing",
                source=str(case.mask),
                remedy="List the picture as authentic, or correct its mask.",
            )
        values = _agreement(probability, predicted, truth)
        if source is not None:
            copy, both = copy_move_masks(truth, source)
            values |= {"f1_copy": pixel_f1(predicted, copy), "f1_both": pixel_f1(predicted, both)}
    return PictureScore(
        set=case.set,
        image=case.image.name,
        tampered=truth is not None,
        share=decision.share,
        threshold=decision.threshold,
        verdict=decision.verdict,
        critical=critical(probability, EVIDENCE),
        score=answer.score,
        **values,
    )


def _agreement(probability: Probability, predicted: Mask, truth: Mask) -> dict[str, float]:
    counts = curve(probability, truth)
    return {
        "f1": pixel_f1(predicted, truth),
        "iou": pixel_iou(predicted, truth),
        "auc": auc_of(*counts),
        "ap": ap_of(*counts),
        "best_f1": best_f1_of(*counts),
        "precision": pixel_precision(predicted, truth),
        "recall": pixel_recall(predicted, truth),
    }


def copy_move_masks(truth: Mask, source: Mask) -> tuple[Mask, Mask]:
    """Return both conventions of a copy-move's mask: the copy alone, and copy and source.

    Some sets mark both in their masks, some the copy. If more than half of the source is marked,
    the mask is taken to mark both.
    """
    marks_both = 2 * np.count_nonzero(truth & source) > np.count_nonzero(source)
    return (truth & ~source if marks_both else truth), truth | source
