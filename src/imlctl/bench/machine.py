"""The machine that measures: what it is, what else it is doing, and the memory that work takes."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import tempfile
import time
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile

from imlctl.bench.timing import waits_for
from imlctl.device import describe
from imlctl.process import cores, silent_stderr

if TYPE_CHECKING:
    from collections.abc import Callable

BUSY_SHARE = 0.1  # of our cores in use by others: times are too long from about there on
_LOOK = 0.5  # seconds that other programs are watched before measuring
_CPU = 0  # torch's number of the device type


def observe(device: torch.device) -> dict[str, Any]:
    """Describe this machine as it is now. Takes half a second, to watch other programs.

    `others` is the share of the cores that they used, None where that is unknown.
    """
    others = OtherPrograms()
    time.sleep(_LOOK)
    return {
        "device": describe(device),
        "cpu": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "others": others.share(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _our_cores() -> list[int]:
    """Numbers of the logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class OtherPrograms:
    """Watches how much of our cores other programs use, from its making on."""

    def __init__(self, listing: Path = Path("/proc/stat")) -> None:
        self._listing = listing
        self._start = self._look()

    def share(self) -> float | None:
        """Return the share of the cores' time that went to others so far; None if unknown."""
        now = self._look()
        if self._start is None or now is None:
            return None
        all_ticks, busy, own = (b - a for a, b in zip(self._start, now, strict=True))
        return round(min(1.0, max(0.0, busy - own) / all_ticks), 3) if all_ticks else None

    def _look(self) -> tuple[float, float, float] | None:
        """Ticks of our cores since the start of the system: all, busy ones, and this process's."""
        try:
            lines = [line.split() for line in self._listing.read_text("ascii").splitlines()]
            names = {f"cpu{core}" for core in _our_cores()}
            ticks = [[int(n) for n in line[1:9]] for line in lines if line[0] in names]
            own = sum(os.times()[:4]) * os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError, AttributeError):
            return None
        total, idle = sum(map(sum, ticks)), sum(each[3] + each[4] for each in ticks)
        return (total, total - idle, own) if ticks else None


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
