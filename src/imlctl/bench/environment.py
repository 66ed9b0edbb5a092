"""What a measurement depends on besides the code: the machine, and what else it was doing."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from imlctl.device import describe

if TYPE_CHECKING:
    from collections.abc import Iterator

# With this share of the cores busy before the first pass, times are not to be trusted.
BUSY_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and under which conditions something was measured.

    Attributes:
        device: What computed, with its own name if it has one.
        cpu: Model of the processor.
        cores: Logical cores that this process may use.
        threads: Threads that torch uses on them.
        load: Mean number of running processes over the last minute, taken before measuring; None
            where the system does not say.
        clock: Mean clock of the cores in MHz, taken at the same time; None likewise.
        torch: Version.
        python: Version.
        system: Operating system and architecture.
    """

    device: str
    cpu: str
    cores: int
    threads: int
    load: float | None
    clock: float | None
    torch: str
    python: str
    system: str

    @property
    def busy(self) -> bool:
        """Whether other work was using the machine."""
        return self.load is not None and self.load > BUSY_SHARE * self.cores


def observe(device: torch.device) -> Environment:
    """Describe this machine as it is now. Call it before measuring: a benchmark is load itself."""
    return Environment(
        device=describe(device),
        cpu=processor(),
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        clock=clock(),
        torch=torch.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def processor(listing: Path = Path("/proc/cpuinfo")) -> str:
    """Model name of the processor; its architecture where the system gives no name."""
    names = _values(listing, "model name")
    return next(names, "") or platform.processor() or platform.machine() or "unknown"


def clock(listing: Path = Path("/proc/cpuinfo")) -> float | None:
    """Mean clock of the cores in MHz, if the system says."""
    try:
        each = [float(value) for value in _values(listing, "cpu MHz")]
    except ValueError:
        return None
    return round(sum(each) / len(each), 1) if each else None


def resident_peak() -> int | None:
    """Most bytes that this process held in memory so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _values(listing: Path, key: str) -> Iterator[str]:
    try:
        lines = listing.read_text("utf-8", "replace").splitlines()
    except OSError:
        return iter(())
    return (line.partition(":")[2].strip() for line in lines if line.startswith(key))
