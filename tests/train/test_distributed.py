"""Two processes on one CPU, started as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from imlctl.core.schedule import ScheduleConfig, alpha_bars
from imlctl.errors import ConfigError
from imlctl.train.config import OptimConfig
from imlctl.train.distributed import (
    GlobalBatchNorm2d,
    Place,
    fair,
    micro_batch,
    part_of_batch,
    share_batch_norm,
)
from imlctl.train.objective import Latents

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Dies, if asked, as a kill would, at a validation, before that step's checkpoint is written.
PROGRAM = """
import os, sys
from pathlib import Path
import torch
from imlctl.train.config import load_config
from imlctl.train.loop import train

def report(event):
    if event["event"] == "validation" and event["step"] == int(sys.argv[3]):
        os._exit(9)

torch.set_num_threads(1)
train(load_config(Path(sys.argv[1])), Path(sys.argv[2]), device=torch.device("cpu"), report=report)
"""
PRESET = """
[data]
photos = ["{photos}"]
validation_share = 0.5
workers = 0
[model]
width = 16
[model.backbone]
dims = [16, 16, 32]
depths = [1, 1, 1]
local = "depthwise"
stem_stride = 8
[optim]
steps = 4
batch = 4
size = 64
warmup = 1
precision = "float32"
[validation]
every = 2
synthetic = 4
"""


@pytest.fixture
def preset(tmp_path: Path, save_photos: Callable[..., Path]) -> Path:
    path = tmp_path / "preset.toml"
    path.write_text(PRESET.format(photos=save_photos(8)))
    return path


def run(preset: Path, out: Path, world: int, stop: int = -1) -> list[int]:
    """Train in `world` processes; return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    started = []
    for rank in range(world):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        command = [sys.executable, "-c", PROGRAM, str(preset), str(out), str(stop)]
        environment = common | (place if world > 1 else {})
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    codes = []
    for rank, process in enumerate(started):
        if stop > 0 and rank > 0:
            process.kill()  # torchrun ends the others when one has died
        error = process.communicate()[1].decode()
        codes.append(process.returncode)
        assert stop > 0 or process.returncode == 0, error
    return codes


def state(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "last.safetensors")


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], part: str) -> float:
    """Distance of all tensors whose names hold `part`, relative to their own size."""
    first, second = (
        torch.cat([v.double().flatten() for k, v in sorted(x.items()) if part in k]) for x in (a, b)
    )
    return float((first - second).norm() / first.norm())


@pytest.mark.timeout(1800)
def test_two_processes_train_what_one_does_and_go_on_bit_for_bit(
    preset: Path, tmp_path: Path
) -> None:
    one, two, broken = (tmp_path / name for name in ("one", "two", "broken"))
    run(preset, one, 1)
    run(preset, two, 2)
    first, second = state(one), state(two)
    # The gradients, averaged by Adam, and the statistics of batch norm. Weights are no measure:
    # Adam makes whole steps of the rounding errors where there is no gradient.
    assert apart(first, second, ".exp_avg") < 1e-2
    assert apart(first, second, "running_") < 1e-2
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    assert 9 in run(preset, broken, 2, stop=4)
    run(preset, broken, 2)
    again = state(broken)
    assert all(torch.equal(value, again[key]) for key, value in second.items())


@pytest.mark.timeout(1800)
def test_half_of_a_batch_is_something_else(preset: Path, tmp_path: Path) -> None:
    """What the bound above is worth."""
    run(preset, tmp_path / "whole", 1)
    preset.write_text(preset.read_text().replace("batch = 4", "batch = 2"))
    run(preset, tmp_path / "half", 1)
    assert apart(state(tmp_path / "whole"), state(tmp_path / "half"), ".exp_avg") > 0.1


def test_parts_of_a_batch() -> None:
    assert micro_batch(OptimConfig(batch=16, accumulate=2), Place(1, 4)) == 2
    with pytest.raises(ConfigError, match="16 cannot be divided among 3 processes"):
        micro_batch(OptimConfig(batch=16), Place(0, 3))


def test_alone_a_denominator_is_its_own() -> None:
    assert fair(torch.tensor(5.0)) == 5
    assert fair(torch.tensor(0.0)) == 1


def test_noise_is_a_part_of_the_whole_batch_s() -> None:
    """DiffIML's noise: two halves of a batch draw what the whole draws."""
    this: Any = Latents.__new__(Latents)
    this.config = SimpleNamespace(optim=SimpleNamespace(seed=3))
    this.diffusion = SimpleNamespace(draws=2, noise_bias=1.0, prior=0.1)
    schedule = ScheduleConfig()
    bars = alpha_bars(schedule).float()
    model: Any = SimpleNamespace(config=SimpleNamespace(schedule=schedule), bars=bars)
    clean = torch.randn(8, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    with part_of_batch(0, 4):
        noisy, t = this.noisy(model, clean, 5)
    assert len(set(t.tolist())) > 4
    for first in (0, 2):
        mine = slice(2 * first, 2 * first + 4)
        with part_of_batch(first, 4):
            part, steps = this.noisy(model, clean[mine], 5)
        assert torch.equal(part, noisy[mine])
        assert torch.equal(steps, t[mine])


def test_norms_are_exchanged_without_touching_what_they_hold() -> None:
    model: Any = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    image = torch.randn(2, 3, 8, 8)
    expected, before = model(image), {k: v.clone() for k, v in model.state_dict().items()}
    share_batch_norm(model)
    assert type(model[1]) is GlobalBatchNorm2d
    assert model.state_dict().keys() == before.keys()
    assert torch.equal(model(image), expected)
