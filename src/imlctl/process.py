"""Settings of this process: how its threads wait, how it holds memory, what reaches its terminal.

For the command line and its workers, which have a process to themselves; a library must not decide
these. Imports nothing heavy, since the first of them must be set before torch is loaded.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Turns that a waiting thread spins before it sleeps, on idle cores and on busy ones. GNU's OpenMP
# spins for 300,000 by itself, some milliseconds, longer than most loops of the network last.
_SPINS = ("3000", "0")
_BLOCK_TIMES = ("1", "0")  # milliseconds; the same for Intel's and LLVM's
# Variables that say how idle threads wait.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

_LOOKS, _BETWEEN_LOOKS = 4, 0.004  # seconds

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt, glibc's malloc.h
_KEPT = 1 << 30  # bytes


def spin_moderately() -> None:
    """Let waiting threads spin for a moment and then sleep, unless the environment says otherwise.

    Asleep at once, each wait between two loops costs as much as a loop: a picture of 512x512 takes
    twice as long on idle cores. On busy ones, spinning takes the time that others need to finish.
    To be called before torch is imported.
    """
    if any(name in os.environ for name in WAITING):
        return
    for look in range(_LOOKS):  # again while it is busy: the shell may just have started this
        time.sleep(_BETWEEN_LOOKS if look else 0)
        busy = (others_running() or 0) * 2 >= (os.cpu_count() or 1)
        if not busy:
            break
    os.environ["GOMP_SPINCOUNT"], os.environ["KMP_BLOCKTIME"] = _SPINS[busy], _BLOCK_TIMES[busy]


def others_running() -> int | None:
    """Count the other threads that run or wait for a core; None where the system does not say."""
    try:
        listing = Path("/proc/stat").read_bytes()
    except OSError:
        return None
    found = re.search(rb"^procs_running (\d+)$", listing, re.MULTILINE)
    return max(0, int(found[1]) - 1) if found else None


def sleep_at_once() -> None:
    """Let waiting threads sleep at once instead, unless the environment says otherwise.

    For training on a CPU, where processes that make samples want the cores that a spinning thread
    would hold. To be called after `spin_moderately` and before torch is imported.
    """
    if os.environ.get("GOMP_SPINCOUNT") == _SPINS[0] and "OMP_WAIT_POLICY" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = os.environ["KMP_BLOCKTIME"] = "0"


def cores() -> int:
    """Return how many cores this process may use at once."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        if quota != "max":
            return max(1, min(usable or 1, int(quota) // int(period)))
    return usable or 1


def free_memory() -> int | None:
    """Return how many bytes of memory are free, or None where the system does not say."""
    sizes = []
    with suppress(OSError):
        listing = Path("/proc/meminfo").read_text("ascii")
        if free := re.search(r"MemAvailable:\s*(\d+) kB", listing):
            sizes.append(int(free[1]) * 1024)
    with suppress(OSError, ValueError):  # no limit is "max"
        folder = Path("/sys/fs/cgroup")
        limit = int((folder / "memory.max").read_text("ascii"))
        sizes.append(limit - int((folder / "memory.current").read_text("ascii")))
    return max(0, min(sizes)) if sizes else None


def keep_freed_blocks() -> bool:
    """Let glibc's malloc reuse large blocks instead of handing each back to the kernel.

    Pages that are zeroed and mapped again for each large tensor take a fifth of the time of a
    picture of 2048x2048, and near half of a training step on the CPU. Returns whether anything was
    changed: not without glibc, nor where the environment already says how malloc shall work.
    """
    said = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if not _glibc() or any(name.startswith(said) for name in os.environ):
        return False
    tune = ctypes.CDLL(None).mallopt
    tune(_ARENA_MAX, 1)  # that of another thread cannot hold a block of more than 64 MiB
    return bool(tune(_MMAP_THRESHOLD, _KEPT)) and bool(tune(_TRIM_THRESHOLD, _KEPT))


def _glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):  # Windows, and other C libraries
        return False


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Drop what is written to the standard error of this process, past Python too.

    For libraries that write there whatever they are told; what goes wrong must be raised.
    """
    sys.stderr.flush()
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
