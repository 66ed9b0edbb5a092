"""The machine that measures, the memory that work takes, and passes timed in turns.

The speed of a shared machine drifts by more than what is to be told apart. So whatever is compared
runs in turns, A B A B; each round gives one ratio, and the median of the ratios is the answer.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from imlctl.device import describe
from imlctl.process import WAITING, cores, others_running, silent_stderr

_WARM_PASSES, _WARM_SECONDS = 2, 0.2  # at least both
_QUICK = 1.0  # seconds; what takes less suffers from what the others left in the caches
BUSY_SHARE = 0.1  # of the cores in use by others: times are too long from about there on
_LOOKS, _BETWEEN_LOOKS = 25, 0.02  # seconds
_CPU = 0  # torch's number of the device type

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
    """Warm up all subjects, each with its name, then time them in turns.

    A quick one runs once more before each timed pass. The budget is in seconds, for the timed
    passes of each: what is slower has fewer rounds, at least one; what takes longer for its first
    pass has that one only.
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
            if number <= count:
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


def observe(device: torch.device) -> dict[str, Any]:
    """Describe this machine as it is now. Takes half a second, to watch other programs."""
    return {
        "device": describe(device),
        "cpu": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "waiting": " ".join(f"{name}={os.environ[name]}" for name in WAITING if name in os.environ),
        "others": others_busy(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def others_busy() -> float | None:
    """Watch for half a second which share of the cores others want; None where nobody says."""
    found = []
    for _ in range(_LOOKS):
        time.sleep(_BETWEEN_LOOKS)
        running = others_running()
        if running is None:
            return None
        found.append(running)
    return round(min(1.0, mean(found) / (os.cpu_count() or 1)), 3)


def processor(listing: Path = Path("/proc/cpuinfo")) -> str:
    """Model name of the processor; its architecture where the system gives no name."""
    text = ""
    with suppress(OSError):
        text = listing.read_text("utf-8", "replace")
    named: list[str] = re.findall(r"^model name\s*: *(.+)", text, re.MULTILINE)
    return next(filter(None, [*named, platform.processor(), platform.machine(), "unknown"]))


def peak_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Return the most bytes that `call`, warmed up, held at once on a device beyond what was there.

    Counted by torch's own allocators; None for a device whose memory torch does not count.
    """
    if device.type != "cpu":
        backend: Any = getattr(torch, device.type, None)
        if not hasattr(backend, "max_memory_allocated"):
            return None
        wait = waits_for(device)
        wait()
        backend.reset_peak_memory_stats(device)
        before = backend.memory_allocated(device)
        call()
        wait()
        return int(backend.max_memory_allocated(device)) - int(before)
    # The profiler writes there at every start and stop; no setting prevents it (torch 2.13).
    with silent_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        run.export_chrome_trace(str(trace))
        events = json.loads(trace.read_bytes())["traceEvents"]
    moves = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    ours = (e["args"]["Bytes"] for e in moves if e["args"]["Device Type"] == _CPU)
    return int(max(accumulate(ours, initial=0)))


def resident_peak() -> int | None:
    """Most bytes that this process held in memory so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
