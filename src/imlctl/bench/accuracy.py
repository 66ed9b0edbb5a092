"""How well masks agree with the truth: the metrics of the field, without its flattering variants.

A pixel metric is computed per tampered picture and then averaged, first within each set, then over
sets (as IMDL-BenCo averages over pictures). There is no permuted or inverted F1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imlctl.errors import ConfigError, NumericalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Probability = NDArray[np.float32]
Mask = NDArray[np.bool_]

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})


@dataclass(frozen=True, slots=True)
class Case:
    """One picture of an evaluation set; `mask` is None for an authentic one."""

    set: str
    image: Path
    mask: Path | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a detector said of a picture.

    Attributes:
        probability: Of each pixel of the upright picture, (H, W) in [0, 1].
        score: Of the whole picture, in [0, 1].
    """

    probability: Probability
    score: float


@dataclass(frozen=True, slots=True)
class PictureScore:
    """Agreement on one picture. Pixel metrics are NaN for an authentic picture.

    Attributes:
        share: Share of all pixels at or over the threshold.
        score: The detector's own score of the whole picture.
    """

    set: str
    image: str
    tampered: bool
    f1: float
    iou: float
    auc: float
    best_f1: float
    share: float
    score: float


@dataclass(frozen=True, slots=True)
class SetScore:
    """Means over one set, or over sets.

    Attributes:
        tampered: Number of tampered pictures.
        authentic: Number of authentic pictures.
        f1: Pixel F1 at the threshold.
        iou: Pixel intersection over union at the threshold.
        auc: Pixel area under the ROC curve.
        best_f1: Pixel F1 at each picture's best threshold: optimistic, no threshold is that good.
        flagged: Share of authentic pictures of which more than `min_share` is over the threshold.
        found: The same share of tampered pictures.
    """

    name: str
    tampered: int
    authentic: int
    f1: float
    iou: float
    auc: float
    best_f1: float
    flagged: float
    found: float


def pixel_f1(predicted: Mask, truth: Mask) -> float:
    """F1 of two masks of one shape; 1 when both are empty."""
    hits = int(np.count_nonzero(predicted & truth))
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(truth))
    return 2 * hits / total if total else 1.0


def pixel_iou(predicted: Mask, truth: Mask) -> float:
    """Intersection over union of two masks of one shape; 1 when both are empty."""
    union = int(np.count_nonzero(predicted | truth))
    return int(np.count_nonzero(predicted & truth)) / union if union else 1.0


def curve(probability: Probability, truth: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True and false positives at every distinct threshold, from the highest down; (0, 0) first."""
    order = np.argsort(probability, axis=None)[::-1]
    values, hits = probability.ravel()[order], truth.ravel()[order]
    last = np.append(np.nonzero(np.diff(values))[0], len(values) - 1)  # ties move together
    true = np.cumsum(hits)[last]
    false = last + 1 - true
    return np.insert(true, 0, 0), np.insert(false, 0, 0)


def pixel_auc(probability: Probability, truth: Mask) -> float:
    """Area under the ROC curve, ties counted half; NaN unless both kinds of pixel exist."""
    return auc_of(*curve(probability, truth))


def auc_of(true: NDArray[np.int64], false: NDArray[np.int64]) -> float:
    """Area under a ROC curve given as counts."""
    if not true[-1] or not false[-1]:
        return float("nan")
    return float(np.trapezoid(true / true[-1], false / false[-1]))


def best_f1_of(true: NDArray[np.int64], false: NDArray[np.int64]) -> float:
    """Highest F1 along a curve of counts; NaN without manipulated pixels."""
    if not true[-1]:
        return float("nan")
    return float(np.max(2 * true / (true + false + true[-1])))


def find_cases(folder: Path) -> list[Case]:
    """List a tree of ``<set>/tampered``, ``<set>/masks``, ``<set>/authentic``, or one such set.

    A mask belongs to the picture with the same stem.

    Raises:
        ConfigError: The folder has no such layout, or a tampered picture has no mask.
    """
    sets = (
        [folder]
        if (folder / "tampered").is_dir() or (folder / "authentic").is_dir()
        else _subfolders(folder)
    )
    cases = [case for each in sets for case in _cases_of(each)]
    if not cases:
        raise ConfigError(
            "no evaluation pictures found",
            source=str(folder),
            remedy="Expected <set>/tampered, masks and authentic in it.",
        )
    return cases


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError("no such folder", source=str(folder))
    return sorted(p for p in folder.iterdir() if p.is_dir())


def _cases_of(folder: Path) -> Iterator[Case]:
    masks = {p.stem: p for p in _pictures(folder / "masks")}
    for image in _pictures(folder / "tampered"):
        mask = masks.get(image.stem)
        if mask is None:
            raise ConfigError("has no mask of the same stem", source=str(image))
        yield Case(folder.name, image, mask)
    for image in _pictures(folder / "authentic"):
        yield Case(folder.name, image, None)


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix.lower() in _SUFFIXES)


def evaluate(
    cases: list[Case], localize: Callable[[Path], Answer], *, threshold: float = 0.5
) -> Iterator[PictureScore]:
    """Score a detector on each case, in order.

    Args:
        cases: Pictures.
        localize: The detector; its map has the upright picture's size.
        threshold: A pixel counts as manipulated at this probability or above.

    Raises:
        ConfigError: A mask cannot be read, or its size differs from its picture's.
        NumericalError: A map holds NaN or infinity.
    """
    nan = float("nan")
    for case in cases:
        answer = localize(case.image)
        if not np.isfinite(answer.probability).all():
            raise NumericalError("its map holds NaN or infinity", source=str(case.image))
        predicted = answer.probability >= threshold
        f1 = iou = auc = best = nan
        if case.mask is not None:
            truth = _read_mask(case.mask)
            if truth.shape != predicted.shape:
                raise ConfigError(
                    f"is {truth.shape}, its picture {predicted.shape}", source=str(case.mask)
                )
            counts = curve(answer.probability, truth)
            f1, iou = pixel_f1(predicted, truth), pixel_iou(predicted, truth)
            auc, best = auc_of(*counts), best_f1_of(*counts)
        share = float(predicted.mean())
        yield PictureScore(
            case.set,
            case.image.name,
            case.mask is not None,
            f1,
            iou,
            auc,
            best,
            share,
            answer.score,
        )


def _read_mask(path: Path) -> Mask:
    try:
        with Image.open(path) as image:
            mask: Mask = np.asarray(image.convert("L")) > 127
    except (OSError, SyntaxError) as error:  # Pillow raises the latter for a broken PNG
        raise ConfigError(f"is not a readable mask ({error})", source=str(path)) from error
    return mask


def summarize(scores: list[PictureScore], *, min_share: float = 0.005) -> list[SetScore]:
    """Means per set, in order of appearance, then their mean over the sets that have a value."""
    names = list(dict.fromkeys(s.set for s in scores))
    rows = [_set_score(name, [s for s in scores if s.set == name], min_share) for name in names]
    if len(rows) > 1:
        means = {
            k: _mean([getattr(r, k) for r in rows])
            for k in ("f1", "iou", "auc", "best_f1", "flagged", "found")
        }
        rows.append(
            SetScore(
                "mean over sets",
                sum(r.tampered for r in rows),
                sum(r.authentic for r in rows),
                **means,
            )
        )
    return rows


def _set_score(name: str, scores: list[PictureScore], min_share: float) -> SetScore:
    forged = [s for s in scores if s.tampered]
    clean = [s for s in scores if not s.tampered]
    means = {k: _mean([getattr(s, k) for s in forged]) for k in ("f1", "iou", "auc", "best_f1")}
    flagged, found = (
        _mean([float(s.share > min_share) for s in group]) for group in (clean, forged)
    )
    return SetScore(name, len(forged), len(clean), **means, flagged=flagged, found=found)


def _mean(values: list[float]) -> float:
    """Mean of the values that exist; NaN when none does."""
    known = [v for v in values if v == v]
    return sum(known) / len(known) if known else float("nan")
