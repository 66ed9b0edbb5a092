"""`imlctl distill` as a user meets it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

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
    """An ONNX encoder: means of 8x8 blocks of the three colours, and of the first again."""
    weight = np.zeros((4, 3, 8, 8), np.float32)
    weight[range(4), (0, 1, 2, 0)] = 1 / 64
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=[8, 8])],
        "means",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 4, "i", "j"])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path / "encoder.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def test_without_a_teacher(run, preset, tmp_path):
    ran = run("distill", preset, "-o", tmp_path / "run", "--device", "cpu")
    assert ran.code == Exit.OK
    assert ran.out.strip() == str(tmp_path / "run" / "best.safetensors")
    assert "round trip: step 3, f1 " in ran.err
    assert "thin" in ran.err
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in log if e["event"] == "round trip"] == [2, 3]


def test_with_an_onnx_teacher(run, preset, encoder, tmp_path):
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
    preset.write_text(preset.read_text() + '\n[teacher]\nsource = "nowhere.onnx"\n')
    ran = run("distill", preset, "-o", tmp_path / "a", "--device", "cpu")
    assert ran.code == Exit.USAGE
    assert "nowhere.onnx: cannot be read as an ONNX model" in ran.err
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
