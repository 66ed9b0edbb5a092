"""Passes timed in turns.

The speed of a shared machine drifts by more than what is to be told apart. So whatever is compared
runs in turns, A B A B; each round gives one ratio, and the median of the ratios is the answer.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_WARM_PASSES, _WARM_SECONDS = 2, 0.2  # at least both


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to time.

    Attributes:
        name: For progress.
        run: One pass.
        passes: Timed passes of each turn. Of several, one more runs first and is not counted: it
            pays for what the others left in the caches.
    """

    name: str
    run: Callable[[], object]
    passes: int = 1

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError("a turn has at least one pass")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each pass, by round; at least one round, each of at least one pass."""

    rounds: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.rounds or not all(self.rounds):
            raise ValueError("a timing has at least one round, and each at least one pass")

    @property
    def passes(self) -> list[float]:
        """Seconds of every pass, fastest first."""
        return sorted(seconds for turn in self.rounds for seconds in turn)

    @property
    def median(self) -> float:
        """Median seconds of a pass."""
        return median(self.passes)

    @property
    def p95(self) -> float:
        """Seconds that at least 95 % of the passes stayed within; the slowest of fewer than 20."""
        return self.passes[math.ceil(0.95 * len(self.passes)) - 1]

    def over(self, other: Timing) -> float:
        """How many times longer than `other`, timed in turns with it: the median ratio."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return median(median(mine) / median(theirs) for mine, theirs in pairs)


def take_turns(
    subjects: Sequence[Subject],
    rounds: int,
    *,
    synchronize: Callable[[], object] = lambda: None,
    progress: Callable[[str], object] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Timing, ...]:
    """Warm up all subjects, then time them in turns.

    Args:
        subjects: At least one.
        rounds: Turns of each, at least one.
        synchronize: Waits until the device has done what it was told.
        progress: Told what runs next.
        clock: Seconds that only grow.

    Returns:
        One timing for each subject, in order.
    """

    def timed(run: Callable[[], object]) -> float:
        synchronize()
        start = clock()
        run()
        synchronize()
        return clock() - start

    for subject in subjects:
        progress(f"warming up: {subject.name}")
        spent = [timed(subject.run) for _ in range(_WARM_PASSES)]
        while sum(spent) < _WARM_SECONDS:
            spent.append(timed(subject.run))
    turns: list[list[tuple[float, ...]]] = [[] for _ in subjects]
    for number in range(1, rounds + 1):
        for subject, taken in zip(subjects, turns, strict=True):
            progress(f"round {number} of {rounds}: {subject.name}")
            if subject.passes > 1:
                subject.run()
            taken.append(tuple(timed(subject.run) for _ in range(subject.passes)))
    return tuple(Timing(tuple(taken)) for taken in turns)


def waits_for(device: torch.device) -> Callable[[], object]:
    """Return what waits until `device` has finished. A CPU has when a call returns."""
    if device.type == "cpu":
        return lambda: None
    backend: Any = getattr(torch, device.type)
    return backend.synchronize if device.type == "mps" else lambda: backend.synchronize(device)
