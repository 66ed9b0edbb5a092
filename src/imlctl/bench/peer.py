"""`--peer`: another detector on the same pictures, in turns with ours.

Both run as a process of their own for each picture, so that starting up is in both times.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from imlctl.bench.accuracy import provenance_of
from imlctl.data.masks import read_mask
from imlctl.errors import InputError, UsageError
from imlctl.evaluate.score import MapAnswer, score_picture
from imlctl.evaluate.summary import RESAMPLES, summarize
from imlctl.image.decode import read
from imlctl.image.prepare import upright
from imlctl.mask.decide import EVIDENCE, Rule, critical, decide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imlctl.bench.accuracy import Track
    from imlctl.data.manifest import Entry
    from imlctl.evaluate.metrics import Probability
    from imlctl.evaluate.score import PictureScore
    from imlctl.pipeline import Localizer

_OURS = "from imlctl.cli import main; main()"
_LAST_WORDS = 300  # characters of a peer's complaint
# Of maps without a calibrated score: a picture with half a percent at one half is manipulated.
_MAPS = Rule(0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Command:
    """A command line with places for the picture and the map; fails after so many seconds."""

    words: tuple[str, ...]
    seconds: float = 600.0

    @classmethod
    def parse(cls, text: str) -> Command:
        """Read a command as a shell would, but never run one; UsageError if it lacks a place."""
        try:
            words, why = tuple(shlex.split(text)), ""
        except ValueError as error:  # quotes that do not close
            words, why = (), f"cannot be read ({error})"
        places = ("{image}", "{out}")
        lacking = [place for place in places if not any(place in word for word in words)]
        if lacking:
            raise UsageError(
                why or f"has no place for {lacking[0]}",
                source="--peer",
                remedy="Write it as 'python detect.py {image} {out}'.",
            )
        return cls(words)

    def run(self, image: Path, out: Path) -> None:
        """Run it on one picture.

        Raises:
            InputError: It failed, took too long, or wrote nothing.
        """
        words = [w.replace("{image}", str(image)).replace("{out}", str(out)) for w in self.words]
        try:
            # The words are the user's own, and no shell reads them.
            done = subprocess.run(  # noqa: S603
                words, capture_output=True, timeout=self.seconds, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"the peer failed: {error}", source=str(image)) from error
        if done.returncode or not out.is_file():
            said = done.stderr.decode("utf-8", "replace").strip()[-_LAST_WORDS:]
            found = f"status {done.returncode} and {'a' if out.is_file() else 'no'} map"
            raise InputError(f"the peer ended with {found}: {said}", source=str(image))


def read_map(path: Path, shape: tuple[int, ...]) -> Probability:
    """Read a grey picture of any depth as probabilities (H, W): 0 for black, 1 for white.

    Raises:
        InputError: It cannot be read, or has another size.
    """
    try:
        with Image.open(path) as image:
            deep = image.mode.startswith(("I", "F"))
            values = np.asarray(image if deep else image.convert("L"))
    except (OSError, SyntaxError) as error:
        raise InputError(f"the peer's map cannot be read ({error})", source=str(path)) from error
    if values.shape != shape:
        raise InputError(f"the peer's map is {values.shape}, not {shape}", source=str(path))
    scale = 1.0 if values.dtype.kind == "f" else 65535.0 if deep else 255.0
    scaled: Probability = np.clip(values.astype(np.float32) / np.float32(scale), 0, 1)
    return scaled


def compare_with_peer(
    localizer: Localizer, entries: Sequence[Entry], command: str, track: Track
) -> dict[str, Any]:
    """Run ours, with its settings, and a peer on the same pictures, in turns, after a warm-up.

    Both are judged by their maps alone.

    Raises:
        UsageError: The command lacks a place.
        InputError: The peer scored no picture; says why.
    """
    commands = own_command(localizer), Command.parse(command)
    pairs: list[tuple[tuple[float, PictureScore], ...]] = []  # seconds and score, ours first
    failed: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="imlctl-peer-") as folder:
        for number, entry in enumerate(track([entries[0], *entries], len(entries) + 1)):
            try:
                took = tuple(_one(each, entry, Path(folder)) for each in commands)
            except InputError as error:
                failed += [{"image": str(entry.image), "error": str(error)}] if number else []
            else:
                pairs += [took] if number else []
    if not pairs:
        raise InputError(failed[0]["error"])
    ratios = [ours / theirs for (ours, _), (theirs, _) in pairs]
    gains = [mine.f1 - other.f1 for (_, mine), (_, other) in pairs if mine.tampered]
    return {
        **provenance_of(localizer),
        "command": command,
        "rows": [
            summarize([score for _, score in side], resamples=RESAMPLES)[-1].to_json()
            | {"name": name, "seconds": mean(seconds for seconds, _ in side)}
            for name, side in zip(("imlctl", "peer"), zip(*pairs, strict=True), strict=True)
        ],
        "ratio": {
            "median": median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "pairs": len(ratios),
        },
        "f1_gain": mean(gains) if gains else None,
        "failed": failed,
    }


def _one(command: Command, entry: Entry, folder: Path) -> tuple[float, PictureScore]:
    out = folder / "map.png"
    out.unlink(missing_ok=True)
    start = time.perf_counter()
    command.run(entry.image, out)
    seconds = time.perf_counter() - start
    photo = read(entry.image)
    shape = upright(photo.pixels, photo.facts.orientation).shape[:2]
    masks = [None if m is None else read_mask(m) for m in (entry.mask, entry.source)]
    return seconds, score_picture(entry, answer_of(read_map(out, shape)), *masks)


def answer_of(probability: Probability) -> MapAnswer:
    """Give a map without a score the level that half a percent of its pixels reach."""
    level = critical(probability, EVIDENCE)
    return MapAnswer(probability, decide(probability, level, _MAPS, threshold=_MAPS.threshold))


def own_command(localizer: Localizer) -> Command:
    """Return our own command line for one picture, with the settings of `localizer`."""
    settings = localizer.settings
    how = settings.sampling
    words = [sys.executable, "-c", _OURS, "localize", "{image}", "--out", "{out}"]
    words += ["--soft", "--quiet", "--device", settings.device, "--tile", str(settings.tile)]
    words += ["--model", settings.model] if settings.model and not settings.weights else []
    words += ["--weights", str(settings.weights)] if settings.weights else []
    if localizer.model.samples:
        words += ["--steps", str(how.steps), "--ensemble", str(how.ensemble)]
        words += ["--seed", str(how.seed)]
    words += ["--tta", "--tta-fusion", how.fusion] if how.tta else []
    return Command(tuple(words))
