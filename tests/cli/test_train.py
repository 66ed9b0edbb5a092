"""`imlctl train` and `imlctl data sheet` as a user meets them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from imlctl.errors import Exit


@pytest.fixture
def preset(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 14, 3), dtype=np.uint8))
        coarse.resize((220, 200), Image.Resampling.BICUBIC).save(
            folder / f"{number}.jpg", quality=90
        )
    path = tmp_path / "preset.toml"
    path.write_text(
        f"""
        [data]
        photos = ["{folder}"]
        validation_share = 0.3
        workers = 0
        [model]
        width = 16
        [model.backbone]
        dims = [16, 32, 48]
        depths = [1, 1, 1]
        [optim]
        steps = 3
        batch = 2
        size = 64
        precision = "float32"
        [heads]
        pictures = 2
        [validation]
        every = 2
        synthetic = 4
        """
    )
    return path


def test_training_ends_in_weights_that_localize(run, preset, photos, tmp_path):
    ran = run("train", preset, "-o", tmp_path / "run", "--device", "cpu")
    assert ran.code == Exit.OK
    best = tmp_path / "run" / "best.safetensors"
    assert ran.out.strip() == str(best)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in log if e["event"] == "validation"] == [2, 3]
    assert "step 2: synthetic auc" in ran.err
    assert "{" not in ran.err
    assert run("localize", photos / "a.jpg", "--weights", best).code == Exit.OK


def test_contact_sheet(run, preset, tmp_path):
    ran = run("data", "sheet", preset, "-o", tmp_path / "sheet.png", "--count", 10)
    assert ran.code == Exit.OK
    assert ran.out.strip() == str(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (8 * 140, 2 * (64 + 18))  # captions need as much
    assert run("data", "sheet", preset, "-o", tmp_path / "sheet.png").code == Exit.USAGE


def test_wrong_preset_names_the_key(run, preset, tmp_path):
    preset.write_text(preset.read_text().replace("steps = 3", "stepps = 3"))
    ran = run("train", preset, "-o", tmp_path / "run")
    assert ran.code == Exit.USAGE
    assert "stepps" in ran.err


def test_a_preset_by_name_and_keys_from_the_command_line(run, tmp_path):
    ran = run("train", "starter", "-o", tmp_path / "run", "--set", f"data.photos={tmp_path / 'no'}")
    assert ran.code == Exit.USAGE
    assert f"data.photos: no folder {tmp_path / 'no'}" in ran.err
    assert not (tmp_path / "run").exists()
    ran = run("train", "starter", "-o", tmp_path / "run", "--set", "optim.pace=1")
    assert ran.code == Exit.USAGE
    assert "unknown key 'pace'" in ran.err
