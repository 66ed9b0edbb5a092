from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from imlctl.core.efficient_iml import EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.data.manifest import Entry
from imlctl.forge.synthesizer import Sample, Synthesizer
from imlctl.train import speed
from imlctl.train.config import DataConfig, OptimConfig, TrainConfig
from imlctl.train.reals import Reals
from imlctl.train.speed import STAGES, loader_rate, model_rate, sample_cost, usual_workers

if TYPE_CHECKING:
    from imlctl.forge.photos import PhotoPool

PIXELS = np.zeros((64, 64, 3), np.uint8)
MASK = np.zeros((64, 64), bool)


def waits(seconds: float) -> None:
    time.sleep(seconds)


def inner() -> None:
    waits(0.02)


def outer() -> None:
    waits(0.005)
    inner()


def slow(index: int) -> Sample:
    waits(0.01)
    outer()
    return Sample(PIXELS, MASK, ("splice", "retouch")[index % 2])


def test_time_belongs_to_the_innermost_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 35 ms, 20 in a stage that another stage calls, 5 in that one, 10 in none."""
    stages = {outer.__code__: "forgery", inner.__code__: "history"}
    monkeypatch.setattr(speed, "_entrances", lambda: stages)
    cost = sample_cost(slow, 6)
    assert sum(cost.stages.values()) == pytest.approx(cost.whole)
    shares = {name: spent / cost.whole for name, spent in cost.stages.items()}
    expected = {"cut": 10 / 35, "forgery": 5 / 35, "history": 20 / 35, "decode": 0, "finish": 0}
    assert shares == pytest.approx(expected, abs=0.12)
    assert list(cost.kinds) == ["retouch", "splice"]
    assert cost.whole >= 0.035


def test_every_stage_of_a_synthetic_sample_is_seen(pool: PhotoPool) -> None:
    cost = sample_cost(Synthesizer(pool, size=64), 30)
    assert tuple(cost.stages) == STAGES
    assert {name for name, spent in cost.stages.items() if spent > 0} == {
        *("cut", "history", "forgery", "finish")
    }
    assert len(cost.kinds) > 3


def test_real_forgeries_are_decoded(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    sets = [(1.0, (Entry(tmp_path / "a.png", None, "s", "train"),))]
    assert sample_cost(Reals(sets, size=64), 2).stages["decode"] > 0


def test_looking_changes_no_sample_and_ends(pool: PhotoPool) -> None:
    make = Synthesizer(pool, size=64)
    before = [make(index).pixels.tobytes() for index in range(5)]
    sample_cost(make, 5)
    assert [make(index).pixels.tobytes() for index in range(5)] == before
    assert sys.getprofile() is None


# Python 3.12 warns of any fork beside threads, and torch has threads.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_workers_share_the_work() -> None:
    """Of a maker that only waits, so that one core is enough: 10 ms a sample."""

    def idle(_: int) -> Sample:
        waits(0.01)
        return Sample(PIXELS, MASK, "authentic")

    one, three = (loader_rate(idle, workers, 24) for workers in (1, 3))
    assert one < 100
    assert three > 1.3 * one


def test_usual_numbers_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (16, (1, 2, 4, 8, 16))):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        assert usual_workers() == expected


def test_the_model_s_rate_is_that_of_whole_steps(
    pool: PhotoPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = EfficientRWKVConfig(dims=(16, 16, 32), depths=(1, 1, 1))
    config = TrainConfig(
        DataConfig((Path("photos"),)),
        model=EfficientIMLConfig(backbone, width=16),
        optim=OptimConfig(batch=4, accumulate=2, size=64, precision="float32"),
    )
    real, parts = speed.take_step, []

    def noted(*arguments: Any) -> Any:
        parts.append([tuple(part.image.shape) for part in arguments[3]])
        waits(0.05)
        return real(*arguments)

    monkeypatch.setattr(speed, "take_step", noted)
    begun = time.perf_counter()
    rate = model_rate(config, Synthesizer(pool, size=64), torch.device("cpu"), 2)
    assert parts == [[(2, 3, 64, 64)] * 2] * 3
    assert 2 * 4 / (time.perf_counter() - begun) < rate < 4 / 0.05
