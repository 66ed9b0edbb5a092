"""Passes timed in turns.

The speed of a shared machine drifts by more than what is to be told apart. So whatever is compared
runs in turns, A B A B; each round gives one ratio, and the median of the ratios is the answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

_WARM_PASSES, _WARM_SECONDS = 2, 0.2  # at least both
_QUICK = 1.0  # seconds; what takes less suffers from what the others left in the caches

Work = Callable[[], object]
Timer = Callable[[Work], float]


class Timing(NamedTuple):
    """Seconds of one pass in each round, of which there is at least one."""

    passes: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median seconds of a pass."""
        return median(self.passes)

    @property
    def p95(self) -> float:
        """Seconds that at least 95 % of the passes stayed within; the slowest of fewer than 20."""
        return sorted(self.passes)[math.ceil(0.95 * len(self.passes)) - 1]

    def over(self, other: Timing) -> float:
        """Median ratio of this time to that of `other` in the rounds that both had."""
        pairs = zip(self.passes, other.passes, strict=False)
        return median(mine / theirs for mine, theirs in pairs)


def timer_for(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> Timer:
    """Return a timer by a clock of the host, which takes the work of the device in."""
    wait = waits_for(device)

    def timed(run: Work) -> float:
        wait()
        start = clock()
        run()
        wait()
        return clock() - start

    return timed


def take_turns(
    subjects: Sequence[tuple[str, Work]],
    rounds: int,
    *,
    timed: Timer,
    budget: float = math.inf,
    progress: Callable[[str], object] = lambda _: None,
) -> tuple[Timing, ...]:
    """Warm up all subjects, then time them in turns.

    A quick one runs once more before each timed pass.

    Args:
        subjects: At least one, each with its name.
        rounds: Turns of each, at least one.
        timed: Takes the time of a pass.
        budget: Seconds for the timed passes of each. What is slower has fewer rounds, at least
            one; what takes longer for its first pass has that one only.
        progress: Told what runs next.
    """
    taken: list[list[float]] = []
    wanted: list[int] = []
    quick: list[bool] = []
    for name, run in subjects:
        progress(f"warming up: {name}")
        spent = [timed(run)]
        slow = spent[0] > budget
        while not slow and (len(spent) < _WARM_PASSES or sum(spent) < _WARM_SECONDS):
            spent.append(timed(run))
        taken.append(spent if slow else [])
        quick.append(min(spent) < _QUICK)
        turn = min(spent) * (1 + quick[-1])
        affordable = rounds if turn * rounds <= budget else max(1, int(budget / turn))
        wanted.append(0 if slow else affordable)
    for number in range(1, rounds + 1):
        for (name, run), seconds, count, again in zip(subjects, taken, wanted, quick, strict=True):
            if number > count:
                continue
            progress(f"round {number} of {count}: {name}")
            if again:
                run()
            seconds.append(timed(run))
    return tuple(Timing(tuple(seconds)) for seconds in taken)


def waits_for(device: torch.device) -> Work:
    """Return a function that waits until `device` has finished; a CPU has when a call returns."""
    if device.type == "cpu":
        return lambda: None
    backend: Any = getattr(torch, device.type)
    return backend.synchronize if device.type == "mps" else lambda: backend.synchronize(device)
