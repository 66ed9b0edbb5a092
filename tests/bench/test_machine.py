from __future__ import annotations

import itertools
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

from imlctl.bench.machine import (
    observe,
    others_busy,
    peak_memory,
    processor,
    resident_peak,
)
from imlctl.process import cores

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
MB = 1_000_000


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imlctl.bench.machine._BETWEEN_LOOKS", 0)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "3000")
    here = observe(CPU)
    assert (here["device"], here["torch"]) == ("cpu", torch.__version__)
    assert here["cores"] == cores() >= 1
    assert here["threads"] == torch.get_num_threads()
    assert here["waiting"] == "GOMP_SPINCOUNT=3000"
    assert here["cpu"]
    json.dumps(here, allow_nan=False)


def test_other_programs_are_told_by_what_runs_while_this_one_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("imlctl.bench.machine._BETWEEN_LOOKS", 0)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    looks = itertools.cycle([0, 0, 0, 0, 5])
    monkeypatch.setattr("imlctl.bench.machine.others_running", lambda: next(looks))
    assert others_busy() == 0.25
    monkeypatch.setattr("imlctl.bench.machine.others_running", lambda: 100)
    assert others_busy() == 1.0
    monkeypatch.setattr("imlctl.bench.machine.others_running", lambda: None)
    assert others_busy() is None


def test_the_processor_is_named(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nmodel name\t: Maker X: 9000\nmodel name\t: Maker X: 9000\n")
    assert processor(listing) == "Maker X: 9000"
    listing.write_text("processor\t: 0\n")  # as on ARM
    assert processor(listing) == processor(tmp_path / "missing")
    assert processor(listing)


def test_the_process_has_held_some_memory() -> None:
    peak = resident_peak()
    assert peak is None or peak > 10**7


def hold(*sizes: int) -> list[torch.Tensor]:
    return [torch.empty(size, dtype=torch.uint8) for size in sizes]


def test_the_peak_is_what_was_held_at_once() -> None:
    def call() -> None:
        kept = hold(3 * MB, 4 * MB)
        kept.pop()
        kept += hold(2 * MB, 1 * MB)

    before = hold(50 * MB)  # not the call's
    assert peak_memory(call, CPU) == 7 * MB
    assert len(before) == 1


def test_temporaries_within_operators_count() -> None:
    x = torch.rand(256, 256)
    once = x.numel() * 4
    assert peak_memory(lambda: torch.relu(x * x + x), CPU) in range(2 * once, 4 * once)
    assert peak_memory(lambda: None, CPU) == 0


def test_standard_error_stays_clean_and_open(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise KeyError("ours")

    peak_memory(lambda: hold(MB), CPU)
    with pytest.raises(KeyError, match="ours"):
        peak_memory(fail, CPU)
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_a_device_that_counts_nothing_gives_nothing() -> None:
    assert peak_memory(lambda: pytest.fail("ran"), torch.device("meta")) is None


def test_a_gpu_counts_from_what_it_already_held(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, log = torch.device("cuda:0"), list[str]()

    def fake(name: str, value: Any) -> None:
        def called(device: torch.device) -> Any:
            assert device == gpu
            log.append(name)
            return value

        monkeypatch.setattr(torch.cuda, name, called)

    fake("synchronize", None)
    fake("reset_peak_memory_stats", None)
    fake("memory_allocated", 100)
    fake("max_memory_allocated", 350)
    assert peak_memory(lambda: log.append("call"), gpu) == 250
    assert log == [
        "synchronize",
        "reset_peak_memory_stats",
        "memory_allocated",
        "call",
        "synchronize",
        "max_memory_allocated",
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu_counts() -> None:
    gpu = torch.device("cuda")
    assert peak_memory(lambda: torch.empty(MB, device=gpu), gpu) in range(4 * MB, 5 * MB)
