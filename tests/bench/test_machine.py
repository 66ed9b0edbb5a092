from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

from imlctl.bench.machine import (
    OtherPrograms,
    observe,
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
    monkeypatch.setattr("imlctl.bench.machine._LOOK", 0.01)
    here = observe(CPU)
    assert (here["device"], here["torch"]) == ("cpu", torch.__version__)
    assert here["cores"] == cores() >= 1
    assert here["threads"] == torch.get_num_threads()
    assert here["cpu"]
    json.dumps(here, allow_nan=False)


class TestNeighbours:
    @staticmethod
    def stat(path: Path, *cores: tuple[int, int]) -> Path:
        """Each core by its busy and its idle ticks."""
        lines = ["cpu  9 9 9 9 9 9 9 9 9 9"]
        lines += [
            f"cpu{n} {busy} 0 0 {idle} 0 0 0 0 {busy} 0" for n, (busy, idle) in enumerate(cores)
        ]
        path.write_text("\n".join([*lines, "intr 1 2 3", ""]))
        return path

    @pytest.fixture(autouse=True)
    def two_cores(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """This process may use two cores; the list holds the seconds it has computed."""
        seconds = [0.0]
        monkeypatch.setattr("imlctl.bench.machine._our_cores", lambda: [0, 1])
        monkeypatch.setattr("os.times", lambda: (seconds[0], 0.0, 0.0, 0.0, 0.0))
        return seconds

    def test_what_we_did_ourselves_is_not_theirs(
        self, tmp_path: Path, two_cores: list[float]
    ) -> None:
        path = self.stat(tmp_path / "stat", (0, 0), (0, 0), (0, 0))
        others = OtherPrograms(path)
        self.stat(path, (80, 20), (40, 60), (100, 0))  # the third core is not ours
        assert others.share() == 0.6
        two_cores[0] = 60 / os.sysconf("SC_CLK_TCK")
        assert others.share() == 0.3
        two_cores[0] = 200 / os.sysconf("SC_CLK_TCK")
        assert others.share() == 0.0

    def test_systems_that_say_nothing(self, tmp_path: Path) -> None:
        assert OtherPrograms(tmp_path / "missing").share() is None
        (tmp_path / "odd").write_text("cpu0 x\n\n")
        assert OtherPrograms(tmp_path / "odd").share() is None
        path = self.stat(tmp_path / "stat", (1, 1), (1, 1))
        assert OtherPrograms(path).share() is None  # no time has passed


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
