"""Passes timed in turns.

The speed of a shared machine drifts by more than what is to be told apart. So whatever is compared
runs in turns, A B A B; each round gives one ratio, and the median of the ratios is the answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

_WARM_PASSES, _WARM_SECONDS = 2, 0.2  # at least both

Timer = Callable[[Callable[[], object]], float]


@dataclass(frozen=True, slots=True)
class Subject:
    """A piece of work to time, `passes` times in each turn.

    Of several passes one more runs first: it pays for what the others left in the caches.
    """

    name: str
    run: Callable[[], object]
    passes: int = 1


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each pass, by round; at least one round, each of at least one pass."""

    rounds: tuple[tuple[float, ...], ...]

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
        """Median ratio of this time to that of `other`, timed in turns with it.

        Rounds that only one of them had are left out.
        """
        pairs = zip(self.rounds, other.rounds, strict=False)
        return median(median(mine) / median(theirs) for mine, theirs in pairs)


def wall_timer(
    synchronize: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Timer:
    """Return a timer by a clock of the host, which takes the work of the device in."""

    def timed(run: Callable[[], object]) -> float:
        synchronize()
        start = clock()
        run()
        synchronize()
        return clock() - start

    return timed


def timer_for(device: torch.device) -> Timer:
    """Return a timer that waits for a device."""
    return wall_timer(waits_for(device))


def take_turns(
    subjects: Sequence[Subject],
    rounds: int,
    *,
    timed: Timer | None = None,
    budget: float = math.inf,
    progress: Callable[[str], object] = lambda _: None,
) -> tuple[Timing, ...]:
    """Warm up all subjects, then time them in turns.

    Args:
        subjects: At least one.
        rounds: Turns of each, at least one.
        timed: Takes the time of a pass; by default a clock of the host.
        budget: Seconds for the timed passes of each. What is slower has fewer rounds, at least
            one; what takes longer for its first pass has that one only.
        progress: Told what runs next.
    """
    timed = timed or wall_timer()
    turns: list[list[tuple[float, ...]]] = []
    wanted: list[int] = []
    for subject in subjects:
        progress(f"warming up: {subject.name}")
        spent = [timed(subject.run)]
        slow = spent[0] > budget
        while not slow and (len(spent) < _WARM_PASSES or sum(spent) < _WARM_SECONDS):
            spent.append(timed(subject.run))
        turns.append([tuple(spent)] if slow else [])
        turn = min(spent) * (subject.passes + (subject.passes > 1))
        affordable = rounds if turn * rounds <= budget else max(1, int(budget / turn))
        wanted.append(0 if slow else affordable)
    for number in range(1, rounds + 1):
        for subject, taken, count in zip(subjects, turns, wanted, strict=True):
            if number > count:
                continue
            progress(f"round {number} of {count}: {subject.name}")
            if subject.passes > 1:
                subject.run()
            taken.append(tuple(timed(subject.run) for _ in range(subject.passes)))
    return tuple(Timing(tuple(taken)) for taken in turns)


def waits_for(device: torch.device) -> Callable[[], object]:
    """Return a function that waits until `device` has finished; a CPU has when a call returns."""
    if device.type == "cpu":
        return lambda: None
    backend: Any = getattr(torch, device.type)
    return backend.synchronize if device.type == "mps" else lambda: backend.synchronize(device)
