"""Two processes on one CPU, started as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from imlctl.core.sampler import ScheduleConfig, alpha_bars
from imlctl.errors import ConfigError
from imlctl.train import distributed
from imlctl.train.config import OptimConfig, load_config
from imlctl.train.distributed import (
    GlobalBatchNorm2d,
    Process,
    fair,
    micro_batch,
    processes,
    share_batch_norm,
    this_round_of,
)
from imlctl.train.loop import train
from imlctl.train.objective import Latents

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Dies, if asked, as a kill would, at a validation, before that step's checkpoint is written; or, in
# torchrun's first round, is killed in its second process, at any moment after the first checkpoint.
# Keeps the checkpoint of the first step.
PROGRAM = """
import os, shutil, signal, sys, threading, time
from pathlib import Path
import torch
from imlctl.train.config import load_config
from imlctl.train.loop import train

def report(event):
    if event["event"] == "validation" and event["step"] == int(sys.argv[3]):
        os._exit(9)
    if event["event"] == "validation" and event["step"] == 2:
        shutil.copy(Path(sys.argv[2], "last.safetensors"), sys.argv[2] + "-1.safetensors")

def killer():
    while not Path(sys.argv[2], "last.safetensors").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0" and os.environ["RANK"] == "1":
    threading.Thread(target=killer, daemon=True).start()

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
[optim]
steps = 4
batch = 4
size = 64
warmup = 1
precision = "float32"
[heads]
pictures = 0
[validation]
every = 1
synthetic = 4
"""


@pytest.fixture
def preset(tmp_path: Path, save_photos: Callable[..., Path]) -> Path:
    path = tmp_path / "preset.toml"
    path.write_text(PRESET.format(photos=save_photos(8)))
    return path


def alone(preset: Path, out: Path) -> None:
    """Train in this process, on one thread as the others do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(load_config(preset), out, device=torch.device("cpu"))
    torch.set_num_threads(threads)


def run(preset: Path, out: Path, stop: int = -1) -> list[int]:
    """Train in two processes; return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    started = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        command = [sys.executable, "-c", PROGRAM, str(preset), str(out), str(stop)]
        started.append(subprocess.Popen(command, env=common | place, stderr=subprocess.PIPE))
    codes = []
    for rank, process in enumerate(started):
        if stop > 0 and rank > 0:
            process.kill()  # torchrun ends the others when one has died
        error = process.communicate()[1].decode()
        codes.append(process.returncode)
        assert stop > 0 or (process.returncode == 0 and "Warning" not in error), error
    return codes


def elastic(preset: Path, out: Path, folder: Path) -> str:
    """Train in two processes of torchrun, of which one is killed once; return what it said."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    workers = ("--nproc-per-node", "2", "--max-restarts", "1", "--monitor-interval", "0.1")
    ran = subprocess.run(
        [*torchrun, *workers, str(program), str(preset), str(out), "-1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


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
    step = tmp_path / "step.toml"  # later, Adam makes whole steps of the rounding errors
    step.write_text(preset.read_text().replace("steps = 4", "steps = 1"))
    alone(step, one)
    run(preset, two)
    first, second = load_file(tmp_path / "two-1.safetensors"), state(two)
    # The gradients, as Adam keeps them, and the statistics of batch norm.
    for part in (".exp_avg", "running_"):
        assert apart(state(one), first, part) < 1e-4
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    assert 9 in run(preset, broken, stop=4)
    run(preset, broken)
    restarted = tmp_path / "restarted"
    assert "exitcode: -9" in elastic(preset, restarted, tmp_path)
    for out in (broken, restarted):
        again = state(out)
        assert all(torch.equal(value, again[key]) for key, value in second.items()), out
    assert (restarted / "log.jsonl").read_text().count('"resumed"') == 1


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cuda", ("nccl", torch.device("cuda", 1))),
        ("cuda:0", ("nccl", torch.device("cuda", 1))),
        ("cpu", ("gloo", torch.device("cpu"))),
    ],
)
def test_processes_talk_by_what_suits_the_device(
    device: str, expected: tuple[str, torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Second process of its machine, fourth of all: the second GPU is its own."""
    told: list[Any] = []
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    met = sys.modules["torch.distributed.rendezvous"]  # a function of torch's hides its module
    monkeypatch.setattr(met, "rendezvous", lambda *_, **__: iter([("store", 3, 4)]))
    monkeypatch.setattr(distributed, "this_round_of", lambda store, place: (store, place))
    monkeypatch.setattr(dist, "init_process_group", lambda *a, **how: told.append((*a, how)))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: told.append("left"))
    with processes(torch.device(device)) as (place, where):
        assert (place, where) == (Process(3, 4, 1), expected[1])
    *chosen, (backend, how), left = told
    assert (backend, left) == (expected[0], "left")
    assert how["store"] == ("store", place)
    assert (how["rank"], how["world_size"]) == (3, 4)
    assert chosen == ([where] if where.type == "cuda" else [])
    assert how["device_id"] == (where if where.type == "cuda" else None)


def test_a_round_is_not_taken_for_the_one_before() -> None:
    """torchrun's store outlives the processes; those of the next round start before its first."""
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=60))
    seen = []
    for start in range(3):
        with ThreadPoolExecutor(3) as pool:
            others = [pool.submit(this_round_of, store, Process(rank, 3)) for rank in (2, 1)]
            time.sleep(0.2)
            assert not any(other.done() for other in others)
            first = this_round_of(store, Process(0, 3))
            first.set("word", f"of round {start}")
            assert {other.result().get("word") for other in others} == {b"of round %d" % start}
        seen.append(first)
    assert [one.get("word") for one in seen] == [b"of round 0", b"of round 1", b"of round 2"]


def test_without_torchrun_there_is_nobody_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with processes(torch.device("cuda", 2)) as found:
        assert found == (Process(), torch.device("cuda", 2))
        assert not dist.is_initialized()


@pytest.mark.timeout(1800)
def test_half_of_a_batch_is_something_else(preset: Path, tmp_path: Path) -> None:
    """What the bound above is worth."""
    alone(preset, tmp_path / "whole")
    preset.write_text(preset.read_text().replace("batch = 4", "batch = 2"))
    alone(preset, tmp_path / "half")
    assert apart(state(tmp_path / "whole"), state(tmp_path / "half"), ".exp_avg") > 0.1


def test_parts_of_a_batch() -> None:
    assert micro_batch(OptimConfig(batch=16, accumulate=2), Process(1, 4)) == 2
    with pytest.raises(ConfigError, match="16 cannot be divided among 3 processes"):
        micro_batch(OptimConfig(batch=16), Process(0, 3))


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
    noisy, t = this.noisy(model, clean, 5, 0, 4)
    assert len(set(t.tolist())) > 4
    for first in (0, 2):
        mine = slice(2 * first, 2 * first + 4)
        part, steps = this.noisy(model, clean[mine], 5, first, 4)
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
