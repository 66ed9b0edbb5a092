from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from imlctl.core.efficient_iml import EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.forge.synthesizer import Sample, Synthesizer
from imlctl.train import samples as module
from imlctl.train.config import DataConfig, OptimConfig, TrainConfig
from imlctl.train.material import load_split
from imlctl.train.samples import (
    contact_sheet,
    loader_rate,
    model_rate,
    sample_cost,
    usual_workers,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from imlctl.forge.photos import PhotoPool

PIXELS = np.zeros((64, 64, 3), np.uint8)
MASK = np.zeros((64, 64), bool)


class Clock:
    """Time that passes only where a function says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = Clock()


def waits(seconds: float) -> None:
    CLOCK.now += seconds


def slow(index: int) -> Sample:
    waits((0.01, 0.03)[index % 2])
    return Sample(PIXELS, MASK, ("splice", "retouch")[index % 2])


def test_the_cost_of_a_sample_is_told_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", CLOCK)
    seconds, kinds = sample_cost(slow, 6)
    assert seconds == pytest.approx(0.02)
    assert list(kinds) == ["retouch", "splice"]
    assert kinds == pytest.approx({"retouch": 0.03, "splice": 0.01})


def test_every_worker_s_samples_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is samples over seconds; 24 of each worker, in whole batches of 8."""
    monkeypatch.setattr(module, "time", CLOCK)
    asked = []

    def takes_two_seconds(_: Any, **how: Any) -> list[Any]:
        asked.append((how["start"], how["stop"], how["workers"]))
        waits(2.0)
        return []

    monkeypatch.setattr(module, "batches", takes_two_seconds)
    assert [loader_rate(slow, workers, 20) for workers in (1, 3)] == [12, 36]
    assert asked == [(0, 24, 1), (0, 72, 3)]


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
    real, parts = module.take_step, []

    def noted(*arguments: Any) -> Any:
        parts.append([tuple(part.image.shape) for part in arguments[3]])
        waits(0.05)
        return real(*arguments)

    monkeypatch.setattr(module, "take_step", noted)
    monkeypatch.setattr(module, "time", CLOCK)
    rate = model_rate(config, Synthesizer(pool, size=64), torch.device("cpu"), 2)
    assert parts == [[(2, 3, 64, 64)] * 2] * 3
    assert rate == pytest.approx(4 / 0.05)


TILE = 140  # small samples have room for their captions


@pytest.fixture
def config(save_photos: Callable[..., Path]) -> TrainConfig:
    data = DataConfig((save_photos(4),), validation_share=0.0)
    return TrainConfig(data, optim=OptimConfig(size=64, seed=3))


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (8, 1), (9, 2)])
def test_size(count: int, rows: int, config: TrainConfig) -> None:
    png, rate = contact_sheet(config, start=0, count=count)
    with Image.open(io.BytesIO(png)) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width == 8 * TILE
        assert sheet.height % rows == 0
        assert 64 < sheet.height / rows < 64 + 40  # a caption below each sample
    assert rate > 0


def test_shows_the_samples_that_training_would_see(config: TrainConfig) -> None:
    png, _ = contact_sheet(config, start=5, count=3)
    with Image.open(io.BytesIO(png)) as image:
        sheet = np.asarray(image)
    make = Synthesizer(load_split(config, validation=False), size=64, seed=3, originals=0.3)
    for place, sample in enumerate(make(index) for index in (5, 6, 7)):
        height, width = sample.mask.shape
        tile = sheet[:height, TILE * place : TILE * place + width]
        framed = np.pad(sample.mask, 3).astype(np.uint8)  # an outline follows the frame too
        near, inside = (f(framed, np.ones((7, 7))) for f in (cv2.dilate, cv2.erode))
        outline = (near != inside)[3:-3, 3:-3]
        assert np.array_equal(tile[~outline], sample.pixels[~outline])
        if sample.kind != "authentic":
            assert not np.array_equal(tile, sample.pixels)  # the mask is outlined
        caption = sheet[64:, TILE * place : TILE * place + TILE]
        assert caption.min() < 100 < caption.max()
        assert (caption[:, -4:] == 255).all()  # it is there to its end


def test_leaves_the_number_of_threads_as_it_was(config: TrainConfig) -> None:
    before = cv2.getNumThreads()
    contact_sheet(config, start=0, count=1)
    assert cv2.getNumThreads() == before
