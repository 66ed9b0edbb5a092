"""A run that is killed in the middle of an epoch, and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from imlctl.data.manifest import Entry, write_manifest
from imlctl.errors import Exit
from imlctl.train.config import load_config
from imlctl.train.material import load_material

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Two processes make samples ahead of the training, half of them of six real forgeries.
PRESET = """
[data]
photos = ["{photos}"]
validation_share = 0.5
workers = 2
[data.real]
share = 0.5
[[data.real.sources]]
manifest = "{manifest}"
[model]
width = 16
[model.backbone]
dims = [16, 16, 32]
depths = [1, 1, 1]
[optim]
steps = 12
batch = 2
size = 64
warmup = 1
precision = "float32"
[heads]
pictures = 0
[validation]
every = 4
synthetic = 2
"""


@pytest.fixture
def preset(tmp_path: Path, save_photos: Callable[..., Path]) -> Path:
    photos = save_photos(8)
    mask = np.zeros((144, 144), np.uint8)
    mask[30:90, 40:100] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    manifest = tmp_path / "real.csv"
    pictures = sorted(photos.iterdir())[:6]
    write_manifest(manifest, [Entry(p, tmp_path / "mask.png", "set", "train") for p in pictures])
    path = tmp_path / "preset.toml"
    path.write_text(PRESET.format(photos=photos, manifest=manifest))
    return path


def begin(preset: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    program = "from imlctl.cli import main; main()"
    command = [sys.executable, "-c", program, "train", str(preset), "-o", str(out), "-q", *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, start_new_session=True
    )


def finish(preset: Path, out: Path) -> dict[str, torch.Tensor]:
    process = begin(preset, out)
    error = process.communicate()[1].decode()
    assert process.returncode == 0, error
    return load_file(out / "last.safetensors")


@pytest.mark.timeout(1800)
def test_a_run_killed_in_the_middle_of_an_epoch_ends_as_an_undisturbed_one(
    preset: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = finish(preset, whole)
    process = begin(preset, broken)
    while not (broken / "last.safetensors").exists():
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    found = finish(preset, broken)
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    log = [json.loads(line) for line in (broken / "log.jsonl").read_text().splitlines()]
    (resumed,) = (e["step"] for e in log if e["event"] == "resumed")
    assert resumed in (4, 8)
    maker = load_material(load_config(preset), lambda _: None).training
    epoch = maker.real.epoch_length  # type: ignore[attr-defined]
    assert epoch == 6
    assert resumed % epoch != 0  # one real sample in each step


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_says_that_it_goes_on(
    number: signal.Signals, preset: Path, tmp_path: Path
) -> None:
    """As a terminal or a batch system interrupts it: with the processes that make samples."""
    out = tmp_path / "run"
    process = begin(preset, out, "--set", "optim.steps=100000")
    while not (out / "last.safetensors").exists():
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)
    os.killpg(process.pid, number)
    said = process.communicate()[1].decode()
    assert process.returncode == Exit.INTERRUPTED, said
    assert "saving after this step" in said
    assert "saved; the same command continues from here" in said
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "stopped"
    with safe_open(out / "last.safetensors", "pt") as file:
        assert json.loads(file.metadata()["state"])["step"] == last["step"]
