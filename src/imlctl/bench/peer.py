"""Another detector on the same pictures, in turns with ours.

Both run as a process of their own for each picture, so that starting up, which costs more than the
picture does, is in both times or in neither.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from imlctl.bench.accuracy import Answer
from imlctl.errors import InputError, UsageError
from imlctl.mask.decide import Rule
from imlctl.mask.score import EVIDENCE, critical

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from imlctl.evaluate.metrics import Probability

_LAST_WORDS = 300  # characters of a peer's complaint


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time of ours over the peer's.

    Attributes:
        median: Of the pairs.
        low: Least of them.
        high: Greatest of them.
        pairs: How many.
    """

    median: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True, slots=True)
class Command:
    """A command line with places for the picture and for the map.

    Attributes:
        words: Of the command.
        seconds: After which it has failed.
    """

    words: tuple[str, ...]
    seconds: float = 600.0

    @classmethod
    def parse(cls, text: str) -> Command:
        """Read a command as a shell would, but never run one.

        Raises:
            UsageError: It lacks a place, or its quotes do not close.
        """
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise UsageError(f"cannot be read ({error})", source="--peer") from error
        for place in ("{image}", "{out}"):
            if not any(place in word for word in words):
                raise UsageError(
                    f"has no place for {place}",
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
            raise InputError(
                f"the peer ended with status {done.returncode} and"
                f" {'a' if out.is_file() else 'no'} map: {said}",
                source=str(image),
            )


def read_map(path: Path, shape: tuple[int, ...]) -> Probability:
    """Read a grey picture as probabilities: 0 for black, 1 for white, of any depth.

    Args:
        path: The picture.
        shape: (H, W) that it must have.

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


def as_answer(probability: Probability) -> Answer:
    """What a map says, of a detector that gives no score: what its strongest half percent reach."""
    return Answer(probability, critical(probability, EVIDENCE))


def rule_of_maps(threshold: float | None) -> Rule:
    """Call a picture manipulated when more than half a percent of its pixels are marked."""
    chosen = threshold or Rule().threshold
    return Rule(chosen, chosen, chosen, lowest=min(chosen, Rule().lowest))


def timed(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a call takes."""
    start = clock()
    run()
    return clock() - start


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Ratios pair by pair; at least one pair."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Ratio(median(each), min(each), max(each), len(each))
