"""`--f1`, `--robustness` and `--calibrate`: accuracy on pictures whose truth is known."""

from __future__ import annotations

import io
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from imlctl.data.masks import read_mask
from imlctl.evaluate.robustness import NOTES, degraded, grid
from imlctl.evaluate.score import evaluate
from imlctl.evaluate.summary import RESAMPLES, by_size, reliability, summarize
from imlctl.evaluate.thresholds import drawn_with, keep, thresholds_for
from imlctl.image.facts import eight_bit
from imlctl.mask.decide import EVIDENCE, critical
from imlctl.mask.rates import Rates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from imlctl.data.manifest import Entry
    from imlctl.evaluate.score import PictureScore
    from imlctl.pipeline import Localizer

    # Passes so many items on and shows the progress.
    Track = Callable[[Iterable[Any], int], Iterable[Any]]

_CASES = 6  # of the worst, and of the best, on a contact sheet
_SIDE, _GAP, _CAPTION = 200, 8, 20  # of that


def accuracy(localizers: Iterable[Localizer], entries: Sequence[Entry], track: Track) -> list[Any]:
    """Score each model, or each setting of one, on the same pictures; one at a time in memory."""
    found = []
    for localizer in localizers:
        start = time.perf_counter()
        pictures: list[PictureScore] = list(
            track(evaluate(entries, localizer.localize), len(entries))
        )
        found.append(
            {
                **provenance_of(localizer),
                "seconds": (time.perf_counter() - start) / len(entries),
                "rule": asdict(localizer.card.rule),
                "sets": [row.to_json() for row in summarize(pictures, resamples=RESAMPLES)],
                "sizes": by_size(pictures),
                "reliability": reliability(pictures),
                "pictures": [asdict(row) for row in pictures],
            }
        )
    return found


def provenance_of(localizer: Localizer) -> dict[str, Any]:
    """Name what was measured: the model, its weights, the device, and the settings."""
    keys = ("model", "weights_sha256", "device", "settings", "seed")
    return {key: localizer.provenance[key] for key in keys}


def cases_png(
    localizer: Localizer, entries: Sequence[Entry], pictures: Sequence[dict[str, Any]]
) -> bytes | None:
    """Draw the forgeries with the lowest and highest F1; None where no picture is tampered."""
    ranked = sorted((p["f1"], n) for n, p in enumerate(pictures) if p["tampered"])
    chosen = ranked if len(ranked) <= 2 * _CASES else ranked[:_CASES] + ranked[-_CASES:]
    cases = []
    for f1, number in chosen:
        entry = entries[number]
        result = localizer.localize(entry.image)
        truth = read_mask(cast("Path", entry.mask))
        caption = f"F1 {f1:.3f}  {entry.set}/{entry.image.name}"
        cases.append((caption, (result.pixels, truth, result.probability)))
    return contact_sheet(cases) if cases else None


def contact_sheet(cases: Sequence[tuple[str, Sequence[NDArray[Any]]]]) -> bytes:
    """Draw cases below each other as a PNG, each a caption over its views.

    A view is (H, W) or (H, W, 3); bool, uint8, uint16, or 0 to 1.
    """
    width = max(len(views) for _, views in cases) * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, len(cases) * (_SIDE + _CAPTION + _GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (caption, views) in enumerate(cases):
        top = row * (_SIDE + _CAPTION + _GAP)
        printed = "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in caption)
        font = ImageFont.load_default(13)
        draw.text((_GAP, top + 3), printed[: width // 8], fill="black", font=font)
        for column, view in enumerate(views):
            whole = view.dtype.kind == "u"
            eight = eight_bit(view) if whole else np.rint(view * 255.0).astype(np.uint8)
            small = Image.fromarray(eight).convert("RGB")
            small = ImageOps.contain(small, (_SIDE, _SIDE), Image.Resampling.BOX)
            sheet.paste(small, (_GAP + column * (_SIDE + _GAP), top + _CAPTION))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def robustness(localizer: Localizer, entries: Sequence[Entry], track: Track) -> dict[str, Any]:
    """Score a model after each degradation of the grid."""
    scores: dict[tuple[str, str], list[PictureScore]] = {(d.kind, d.level): [] for d in grid()}
    for entry in track(entries, len(entries)):
        for each, score in degraded(localizer, entry):
            scores[each.kind, each.level].append(score)
    rows: list[dict[str, Any]] = []
    for (kind, level), pictures in scores.items():
        *sets, every = summarize(pictures, resamples=RESAMPLES)
        overall = sets[-1] if sets else every  # the mean over sets; of a single set its own scores
        clean = rows[0]["f1"] if rows else overall.f1
        kept = overall.f1 / clean if clean else None
        rates = every.rates and every.rates.to_dict()
        rows.append(
            {"kind": kind, "level": level, "kept": kept, **overall.to_json(), "rates": rates}
        )
    return {
        **provenance_of(localizer),
        "rule": asdict(localizer.card.rule),
        "pictures": len(entries),
        "notes": list(NOTES),
        "rows": rows,
    }


def calibrate(localizer: Localizer, entries: Sequence[Entry], track: Track) -> dict[str, Any]:
    """Find the thresholds that mark few authentic pictures, and keep them for these weights."""
    levels, verdicts = [], []
    for entry in track(entries, len(entries)):
        result = localizer.localize(entry.image)
        levels.append(critical(result.probability, EVIDENCE))
        verdicts.append(result.decision.verdict)
    start = provenance_of(localizer)
    kept = keep(start["weights_sha256"], drawn_with(start["settings"]), levels)
    rates = Rates.measured("these pictures", [], verdicts)
    return {
        **start,
        "pictures": len(entries),
        "rule": asdict(localizer.card.rule),
        "verdicts": {str(v): r.authentic.to_dict() for v, r in rates.verdicts.items()},
        "thresholds": thresholds_for(levels),
        "kept_in": str(kept),
    }
