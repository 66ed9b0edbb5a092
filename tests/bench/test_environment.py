from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch

from imlctl.bench.environment import clock, observe, processor, resident_peak

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_machine_is_described() -> None:
    here = observe(torch.device("cpu"))
    assert (here.device, here.torch) == ("cpu", torch.__version__)
    assert here.cores >= 1
    assert here.threads == torch.get_num_threads()
    assert here.cpu
    json.dumps(asdict(here), allow_nan=False)


def test_a_loaded_machine_is_busy() -> None:
    here = replace(observe(torch.device("cpu")), cores=4)
    assert not replace(here, load=0.9).busy
    assert replace(here, load=1.1).busy
    assert not replace(here, load=None).busy  # unknown is not an accusation


def test_systems_that_tell_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.getloadavg", raising=False)
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    here = observe(torch.device("cpu"))
    assert here.load is None
    assert here.cores >= 1


def test_the_processor_is_named(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nmodel name\t: Maker X: 9000\nmodel name\t: Maker X: 9000\n")
    assert processor(listing) == "Maker X: 9000"
    listing.write_text("processor\t: 0\n")  # as on ARM
    assert processor(listing) == processor(tmp_path / "missing")
    assert processor(listing)


def test_the_clock_is_the_mean_of_the_cores(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text("cpu MHz\t\t: 2000.0\nflags: x\ncpu MHz\t\t: 3000.5\n")
    assert clock(listing) == 2500.2
    listing.write_text("cpu MHz\t\t: unknown\n")
    assert clock(listing) is None
    assert clock(tmp_path / "missing") is None


def test_the_process_has_held_some_memory() -> None:
    peak = resident_peak()
    assert peak is None or peak > 10**7
