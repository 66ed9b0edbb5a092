"""Settings of the process: each in one of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from imlctl import process
from imlctl.process import silent_stderr

glibc = pytest.mark.skipif(not process._glibc(), reason="glibc's malloc only")

STARTED = """
import sys
from typer.testing import CliRunner
from imlctl.cli import app
assert "torch" not in sys.modules
assert CliRunner().invoke(app, ["report", "--help"]).exit_code == 0
import torch
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks GNU's OpenMP, with which torch comes")
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "GOMP_SPINCOUNT = '[03]0*'"),
        ({"OMP_WAIT_POLICY": "active"}, "OMP_WAIT_POLICY = 'ACTIVE'"),
        ({"GOMP_SPINCOUNT": "77"}, "GOMP_SPINCOUNT = '77'"),
    ],
)
def test_threads_of_the_command_line_spin_moderately_unless_told_otherwise(
    given: dict[str, str], wanted: str
) -> None:
    waiting = ("OMP_", "GOMP_", "KMP_")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(waiting)}
    done = subprocess.run(
        [sys.executable, "-c", STARTED],
        env=clean | {"OMP_DISPLAY_ENV": "verbose"} | given,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(wanted, done.stderr)


@pytest.mark.parametrize(("others", "spins"), [(0, "3000"), (3, "3000"), (4, "0"), (40, "0")])
def test_threads_sleep_at_once_where_other_programs_hold_the_cores(
    others: int, spins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in process.WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(process, "others_running", lambda: others)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    process.spin_moderately()
    assert os.environ["GOMP_SPINCOUNT"] == spins
    for name in process.WAITING:
        monkeypatch.delenv(name, raising=False)


def test_running_programs_are_counted_where_the_system_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if Path("/proc/stat").is_file():
        assert process.others_running() >= 0
    monkeypatch.setattr(process, "Path", lambda _: Path("/no/such/file"))
    assert process.others_running() is None


def test_what_runs_for_a_moment_makes_no_machine_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in process.WAITING:
        monkeypatch.delenv(name, raising=False)
    looks = iter([3, 2, 0])
    monkeypatch.setattr(process, "others_running", lambda: next(looks))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    process.spin_moderately()
    assert os.environ["GOMP_SPINCOUNT"] == "3000"
    for name in process.WAITING:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "0"),
        ({"GOMP_SPINCOUNT": "77"}, "77"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_training_lets_threads_sleep_unless_told_otherwise(
    given: dict[str, str], wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in process.WAITING:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    process.spin_moderately()
    process.sleep_at_once()
    assert os.environ.get("GOMP_SPINCOUNT") == wanted
    for name in process.WAITING:
        os.environ.pop(name, None)


FAULTS = """
import resource
from imlctl import process
process.keep_freed_blocks()
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
    assert not process.keep_freed_blocks()


def test_leaves_a_chosen_allocator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so")
    assert not process.keep_freed_blocks()


def test_drops_what_is_written_past_python_and_gives_the_stream_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    @silent_stderr()
    def fail() -> None:
        os.write(2, b"within ")
        raise ValueError("raised")

    os.write(2, b"before ")
    with pytest.raises(ValueError, match="raised"):
        fail()
    os.write(2, b"after")
    assert capfd.readouterr().err == "before after"
