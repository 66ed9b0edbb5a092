"""Peak memory of a call, as torch's own allocators see it.

The resident size of a process also holds what earlier calls left behind, and rounds small pictures
away; an allocator's count is the same on every run. On CPUs it was within a tenth of the growth of
the resident size in a fresh process.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile

from imlctl.bench.timing import waits_for
from imlctl.silence import silent_stderr

if TYPE_CHECKING:
    from collections.abc import Callable

_EVENT = "[memory]"
_CPU = 0  # torch's number of the device type


def peak_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Return the most bytes that `call` held at once, beyond what was there before it.

    Args:
        call: Warmed up: what it allocates once and keeps would count.
        device: Where it computes. Its own memory is meant: on a GPU, the GPU's.

    Returns:
        Bytes, or None for a device whose memory torch does not count.
    """
    if device.type == "cpu":
        return _on_cpu(call)
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


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a device has free, or None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((1024 * int(kilobytes) for kilobytes in found), None)


def _on_cpu(call: Callable[[], object]) -> int:
    # The profiler writes there at every start and stop; no setting prevents it (torch 2.13).
    with silent_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        run.export_chrome_trace(str(trace))
        events = json.loads(trace.read_bytes())["traceEvents"]
    held = peak = 0
    for event in sorted((e for e in events if e.get("name") == _EVENT), key=lambda e: e["ts"]):
        if event["args"]["Device Type"] == _CPU:
            held += event["args"]["Bytes"]
            peak = max(peak, held)
    return peak
