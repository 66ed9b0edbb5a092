"""How this process holds memory."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, glibc's malloc.h
_KEPT = 1 << 30  # bytes


def keep_freed_blocks() -> bool:
    """Let glibc's malloc reuse large blocks instead of handing each back to the kernel.

    A network allocates and frees the same large tensors over and over. By default each goes back to
    the kernel at once, and its pages are zeroed and mapped again the next time: a fifth of the time
    of a picture of 2048x2048, and near half of a training step on the CPU, for the same peak.
    For the command line, which has the process to itself; a library must not decide this.

    Returns:
        Whether anything was changed: not without glibc, nor where the environment already says
        how malloc shall work.
    """
    if not _glibc() or any(
        name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ
    ):
        return False
    tune = ctypes.CDLL(None).mallopt
    return bool(tune(_MMAP_THRESHOLD, _KEPT)) and bool(tune(_TRIM_THRESHOLD, _KEPT))


def _glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):  # Windows, and other C libraries
        return False
