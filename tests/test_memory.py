from __future__ import annotations

import os
import subprocess
import sys

import pytest

from imlctl import memory

glibc = pytest.mark.skipif(not memory._glibc(), reason="glibc's malloc only")

FAULTS = """
import resource
from imlctl import memory
memory.keep_freed_blocks()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(64 << 20)
before = faults()
for _ in range(8):
    bytearray(b"x") * (32 << 20)
print(faults() - before)
"""


def clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_"))}


def faults(**more: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=clean() | more,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@glibc
def test_large_blocks_are_reused() -> None:
    """Eight blocks of 32 MiB: mapped afresh they cost 8192 page faults each."""
    assert faults() < 2 * 8192
    assert faults(MALLOC_MMAP_THRESHOLD_="131072") > 7 * 8192  # the user's choice is kept


def test_changes_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise ValueError(f"unrecognized configuration name: {name}")

    monkeypatch.setattr(os, "confstr", unknown)
    assert not memory.keep_freed_blocks()


def test_leaves_a_chosen_allocator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so")
    assert not memory.keep_freed_blocks()
