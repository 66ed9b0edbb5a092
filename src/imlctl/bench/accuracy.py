"""Accuracy on pictures whose truth is known, of our models and of a peer, another detector."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from imlctl.data.masks import read_mask
from imlctl.errors import InputError, UsageError
from imlctl.evaluate.robustness import NOTES, degraded, grid
from imlctl.evaluate.score import (
    RESAMPLES,
    MapAnswer,
    PictureAccuracy,
    by_size,
    evaluate,
    reliability,
    score_picture,
    summarize_sets,
)
from imlctl.mask.decide import EVIDENCE, Rule, Verdict, critical, decide
from imlctl.mask.rates import measured

if TYPE_CHECKING:
    from imlctl.data.manifest import Entry
    from imlctl.evaluate.metrics import Probability
    from imlctl.pipeline import Localizer

# Passes so many items on and shows the progress.
Track = Callable[[Iterable[Any], int], Iterable[Any]]

_PATIENCE = 600.0  # seconds for a picture
_LAST_WORDS = 300  # characters of a peer's complaint
# Of maps without a calibrated score: a picture with half a percent at one half is manipulated.
_MAPS = Rule(0.5, 0.5, 0.5)


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


def summed_up(pictures: Sequence[PictureAccuracy]) -> dict[str, Any]:
    """Return the scores of sets, of edits by size, the reliability, and each picture's own."""
    return {
        "sets": [asdict(row) for row in summarize_sets(pictures, resamples=RESAMPLES)],
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
    scores: dict[tuple[str, str], list[PictureAccuracy]] = {(d.kind, d.level): [] for d in grid()}
    for entry in track(entries, len(entries)):
        for each, score in degraded(localizer, entry):
            scores[each.kind, each.level].append(score)
    rows: list[dict[str, Any]] = []
    for (kind, level), pictures in scores.items():
        *sets, every = summarize_sets(pictures, resamples=RESAMPLES)
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


def count_verdicts(localizer: Localizer, entries: Sequence[Entry], track: Track) -> dict[str, Any]:
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


def score_peer(
    entries: Sequence[Entry], command: str, track: Track
) -> tuple[dict[str, Any], list[Entry], list[dict[str, str]]]:
    """Score another detector by its maps alone; see `parse_peer` for the command.

    Returned are what `accuracy` returns of a model, the pictures that are in it, and those on which
    the peer failed, each with the error. InputError where it scored none; says why.
    """
    words = parse_peer(command)
    scores: list[PictureAccuracy] = []
    answered, failed, seconds = [], [], 0.0
    with tempfile.TemporaryDirectory(prefix="imlctl-peer-") as folder:
        for entry in track(entries, len(entries)):
            start = time.perf_counter()
            out = Path(folder, "map.png")
            out.unlink(missing_ok=True)
            try:
                run(words, entry.image, out)
                took = time.perf_counter() - start
                truth = None if entry.mask is None else read_mask(entry.mask)
                found = read_map(out, None if truth is None else truth.shape)
                scores.append(score_picture(entry, answer_of(found), truth))
            except InputError as error:
                failed.append({"image": str(entry.image), "error": str(error)})
            else:
                answered.append(entry)
                seconds += took
    if not scores:
        raise InputError(failed[0]["error"])
    named = {"model": "peer", "command": command, "settings": {"tta": "none"}}
    return {**named, "seconds": seconds / len(scores), **summed_up(scores)}, answered, failed


def parse_peer(command: str) -> tuple[str, ...]:
    """Split a command line into words, as a shell would; UsageError without {image} and {out}."""
    try:
        words, why = tuple(shlex.split(command)), ""
    except ValueError as error:  # quotes that do not close
        words, why = (), f"cannot be read ({error})"
    places = ("{image}", "{out}")
    lacking = [place for place in places if not any(place in word for word in words)]
    if lacking:
        what = why or f"has no place for {lacking[0]}"
        remedy = "Write it as 'python detect.py {image} {out}'."
        raise UsageError(what, source="--peer", remedy=remedy)
    return words


def run(words: Sequence[str], image: Path, out: Path, patience: float = _PATIENCE) -> None:
    """Run a peer on one picture; InputError where it fails, takes too long or writes nothing."""
    filled = [word.replace("{image}", str(image)).replace("{out}", str(out)) for word in words]
    try:  # the words are the user's own, and no shell reads them
        done = subprocess.run(filled, capture_output=True, timeout=patience, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"the peer failed: {error}", source=str(image)) from error
    if done.returncode or not out.is_file():
        said = done.stderr.decode("utf-8", "replace").strip()[-_LAST_WORDS:]
        found = f"status {done.returncode} and {'a' if out.is_file() else 'no'} map"
        raise InputError(f"the peer ended with {found}: {said}", source=str(image))


def read_map(path: Path, shape: tuple[int, ...] | None) -> Probability:
    """Read a grey picture of any depth as probabilities (H, W): 0 for black, 1 for white.

    InputError where it cannot be read, or has another size than it should.
    """
    try:
        with Image.open(path) as image:
            deep = image.mode.startswith(("I", "F"))
            values = np.asarray(image if deep else image.convert("L"))
    except (OSError, SyntaxError) as error:
        raise InputError(f"the peer's map cannot be read ({error})", source=str(path)) from error
    if shape not in (None, values.shape):
        raise InputError(f"the peer's map is {values.shape}, not {shape}", source=str(path))
    scale = 1.0 if values.dtype.kind == "f" else 65535.0 if deep else 255.0
    scaled: Probability = np.clip(values.astype(np.float32) / np.float32(scale), 0, 1)
    return scaled


def answer_of(probability: Probability) -> MapAnswer:
    """Give a map without a score the level that half a percent of its pixels reach."""
    level = critical(probability, EVIDENCE)
    return MapAnswer(probability, decide(probability, level, _MAPS, threshold=_MAPS.threshold))
