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
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile

from imlctl.bench.timing import waits_for
from imlctl.device import describe
from imlctl.process import WAITING, cores, others_running, silent_stderr

if TYPE_CHECKING:
    from collections.abc import Callable

BUSY_SHARE = 0.1  # of the cores in use by others: times are too long from about there on
_LOOKS, _BETWEEN_LOOKS = 25, 0.02  # seconds
_CPU = 0  # torch's number of the device type


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
    """Return the share of the cores that others want, from looks while this program sleeps.

    None where the system does not say.
    """
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
