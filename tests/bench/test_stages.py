from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from imlctl.bench.passes import Draw
from imlctl.bench.roofline import Ceilings, measure_ceilings
from imlctl.bench.stages import Watch, photograph, stage_times, to_disk
from imlctl.core.denoiser import DenoiserConfig
from imlctl.core.diff_iml import DiffIML, DiffIMLConfig
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
TINY = EfficientIMLConfig(EfficientRWKVConfig(dims=(16, 16, 16), depths=(1, 1, 1)), width=16)
SAMPLING = DiffIMLConfig("efficient-rwkv-tiny", DenoiserConfig(channels=32, condition=32))
AROUND = ("decode", "prepare"), ("decide", "render", "write")


def test_stages_of_both_models() -> None:
    (before, after) = AROUND
    straight = stage_times(EfficientIML(TINY).fuse(), Draw(None, None, False), 64, CPU, runs=1)
    assert tuple(straight) == (*before, "encoder", "decoder", *after)
    sampled = stage_times(DiffIML(SAMPLING).fuse(), Draw(2, 3, False), 64, CPU, runs=2)
    assert tuple(sampled) == (*before, "encoder", "noise", "denoiser", "LightVAE", *after)
    assert all(seconds > 0 for times in (straight, sampled) for seconds in times.values())


def test_time_is_booked_to_the_stage_that_ends() -> None:
    ticks = iter([0.0, 1.0, 3.0, 7.0])
    watch = Watch(lambda: None, lambda: next(ticks))
    for stage in ("a", "b", "a"):
        watch.lap(stage)
    assert watch.seconds == {"a": 5.0, "b": 2.0}


def test_the_photograph_is_the_same_every_time_and_compresses() -> None:
    data = photograph(128)
    assert data == photograph(128)
    picture = Image.open(io.BytesIO(data))
    assert (picture.size, picture.format) == ((128, 128), "JPEG")
    assert np.asarray(picture).std() > 20
    assert len(data) < 0.5 * 128 * 128 * 3


def test_a_mask_ends_on_the_disk(tmp_path: Path) -> None:
    class Result:
        def mask_png(self) -> bytes:
            return b"mask"

    class Localizer:
        def localize(self, source: bytes, *, name: str) -> Result:
            assert (source, name) == (photograph(64), "bench")
            return Result()

    run = to_disk(Localizer(), 64, tmp_path)
    run()
    run()
    assert (tmp_path / "mask.png").read_bytes() == b"mask"


class TestRoofline:
    def test_ceilings_from_the_best_run(self) -> None:
        # Each run starts and ends a tick; the second run of each seven is the fastest.
        lengths = [2.0, 0.5, 2.0, 2.0, 2.0, 2.0, 2.0] * 2
        ticks = iter([t for length in lengths for t in (0.0, length)])
        found = measure_ceilings(CPU, side=10, size=4000, clock=lambda: next(ticks))
        assert found == Ceilings(1000 / 0.5, 2 * 4000 / 0.5)

    def test_the_floor_is_the_slower_of_the_two(self) -> None:
        ceilings = Ceilings(100.0, 10.0)
        assert ceilings.floor(1000, 1) == 10
        assert ceilings.floor(1, 1000) == 100

    def test_measured_here(self) -> None:
        found = measure_ceilings(CPU, side=64, size=2**16)
        assert found.macs > 1e6
        assert found.bandwidth > 1e6

    def test_a_ceiling_is_positive(self) -> None:
        with pytest.raises(ValueError, match="positive"):
            Ceilings(0.0, 1.0)
