"""`--f1`, `--robustness` and `--calibrate`: accuracy on pictures whose truth is known."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from imlctl.evaluate.robustness import NOTES, degraded, grid
from imlctl.evaluate.score import evaluate
from imlctl.evaluate.summary import RESAMPLES, by_size, reliability, summarize
from imlctl.mask.decide import Verdict
from imlctl.mask.rates import measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from imlctl.data.manifest import Entry
    from imlctl.evaluate.score import PictureScore
    from imlctl.pipeline import Localizer

    # Passes so many items on and shows the progress.
    Track = Callable[[Iterable[Any], int], Iterable[Any]]


def accuracy(localizers: Iterable[Localizer], entries: Sequence[Entry], track: Track) -> list[Any]:
    """Score each model, or each setting of one, on the same pictures; one at a time in memory."""
    found = []
    for localizer in localizers:
        start = time.perf_counter()
        pictures = list(track(evaluate(entries, localizer.localize), len(entries)))
        seconds = (time.perf_counter() - start) / len(entries)
        rule = asdict(localizer.card.rule)
        scores = {"seconds": seconds, "rule": rule, **summed_up(pictures)}
        found.append(provenance_of(localizer) | scores)
    return found


def summed_up(pictures: Sequence[PictureScore]) -> dict[str, Any]:
    """Return the scores of sets, of edits by size, the reliability, and each picture's own."""
    return {
        "sets": [asdict(row) for row in summarize(pictures, resamples=RESAMPLES)],
        "sizes": by_size(pictures),
        "reliability": reliability(pictures),
        "pictures": [asdict(row) for row in pictures],
    }


def provenance_of(localizer: Localizer) -> dict[str, Any]:
    """Name what was measured: the model, its weights, the device, and the settings."""
    keys = ("model", "weights_sha256", "device", "settings", "seed")
    return {key: localizer.provenance[key] for key in keys}


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
        shown = asdict(overall) | {"rates": every.rates}
        rows.append({"kind": kind, "level": level, "kept": kept, **shown})
    return {
        **provenance_of(localizer),
        "rule": asdict(localizer.card.rule),
        "pictures": len(entries),
        "notes": list(NOTES),
        "rows": rows,
    }


def calibrate(localizer: Localizer, entries: Sequence[Entry], track: Track) -> dict[str, Any]:
    """Count the verdicts on authentic pictures."""
    answers = (localizer.localize(entry.image) for entry in entries)
    verdicts = [answer.decision.verdict for answer in track(answers, len(entries))]
    rates = measured("these pictures", [], verdicts)
    return {
        **provenance_of(localizer),
        "pictures": len(entries),
        "rule": asdict(localizer.card.rule),
        "verdicts": {v: rates[v]["authentic"] for v in Verdict},
    }
