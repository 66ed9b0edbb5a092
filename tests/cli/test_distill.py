"""`imlctl distill` as a user meets it."""

from __future__ import annotations

import json

import pytest

from imlctl.errors import Exit


@pytest.fixture
def preset(tmp_path):
    path = tmp_path / "preset.toml"
    path.write_text(
        """
        [model]
        widths = [4, 4, 8]
        hidden = 8
        fine = 2
        blocks = 0
        [optim]
        steps = 3
        batch = 2
        size = 64
        precision = "float32"
        [judge]
        every = 2
        masks = 1
        size = 64
        """
    )
    return path


@pytest.fixture
def encoder(tmp_path):
    """A tiny random autoencoder of diffusers, 8x down to four channels."""
    diffusers = pytest.importorskip("diffusers")
    diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
    ).save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_without_a_teacher(run, preset, tmp_path):
    ran = run("distill", preset, "-o", tmp_path / "run", "--device", "cpu")
    assert ran.code == Exit.OK
    assert ran.out.strip() == str(tmp_path / "run" / "best.safetensors")
    assert "round trip: step 3, f1 " in ran.err
    assert "thin" in ran.err
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in log if e["event"] == "round trip"] == [2, 3]


def test_with_a_teacher(run, preset, encoder, tmp_path):
    arguments = ("distill", preset, "-o", tmp_path / "run", "--teacher", encoder)
    ran = run(*arguments, "--device", "cpu")
    assert ran.code == Exit.OK
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all("teacher" in e for e in log if e["event"] == "step")
    again = run(*arguments, "--device", "cpu", "--quiet")
    assert again.code == Exit.OK
    assert again.err == ""
    assert run("distill", preset, "-o", tmp_path / "run").code == Exit.USAGE  # was with a teacher


def test_none_overrules_the_preset(run, preset, tmp_path):
    preset.write_text(preset.read_text() + '\n[teacher]\nsource = "nowhere/at all"\n')
    ran = run("distill", preset, "-o", tmp_path / "a", "--device", "cpu")
    assert ran.code == Exit.USAGE
    assert "nowhere/at all: cannot be loaded as a teacher" in ran.err
    ran = run("distill", preset, "-o", tmp_path / "b", "--device", "cpu", "--teacher", "none")
    assert ran.code == Exit.OK


def test_wrong_preset_names_the_key(run, preset, tmp_path):
    preset.write_text(preset.read_text().replace("hidden", "hiden"))
    ran = run("distill", preset, "-o", tmp_path / "run")
    assert ran.code == Exit.USAGE
    assert "hiden" in ran.err


def test_weights_of_lightvae_do_not_localize(run, preset, photos, tmp_path):
    run("distill", preset, "-o", tmp_path / "run", "--device", "cpu", "--quiet")
    best = tmp_path / "run" / "best.safetensors"
    ran = run("localize", photos / "a.jpg", "--weights", best)
    assert ran.code == Exit.USAGE
    assert "light-vae" in ran.err
