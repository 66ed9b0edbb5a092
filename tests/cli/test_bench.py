from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from imlctl.cli import app
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.errors import UsageError, WeightsError
from imlctl.weights.load import Card, save

if TYPE_CHECKING:
    from pathlib import Path

TINY = EfficientIMLConfig(EfficientRWKVConfig(dims=(16, 16, 16), depths=(1, 1, 1)), width=16)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    save(path, EfficientIML(TINY), Card("efficient-iml", TINY.to_dict(), threshold=0.1))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two sets: one whole, one of authentic pictures only, whose name is meant to make trouble."""
    random = np.random.default_rng(0)
    folder = tmp_path / "val"
    for kind in ("one/tampered", "one/masks", "one/authentic", "[red]two\x1b/authentic"):
        (folder / kind).mkdir(parents=True)
        for name in "ab":
            pixels = random.integers(0, 256, (64, 80, 3), np.uint8)
            if kind.endswith("masks"):
                pixels = np.zeros((64, 80), np.uint8)
                pixels[:20, :30] = 255
            Image.fromarray(pixels).save(folder / kind / f"{name}.png")
    return folder


@pytest.fixture(autouse=True)
def narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def bench(*arguments: object) -> str:
    """Run the command; return standard output. Nothing else may be written."""
    run = CliRunner().invoke(app, ["bench", "--device", "cpu", *map(str, arguments)])
    if run.exception is not None:
        raise run.exception
    assert run.stderr == ""
    return run.stdout


def table(text: str, title: str) -> list[list[str]]:
    """Return the cells of the rows of the table under `title`."""
    lines = iter(text.splitlines())
    assert any(line.startswith(title) for line in lines)
    assert any("───" in line for line in lines)
    rows = []
    for line in lines:
        if not line.strip():
            break
        rows.append(re.split(r"\s{2,}", line.strip()))
    return rows


def test_speed_as_tables(weights: Path) -> None:
    text = bench("--fps", "--weights", weights, "--size", 128, "--size", 64, "--runs", 1)
    assert [row[0] for row in table(text, "Speed")] == ["64 x 64", "128 x 128"]
    assert table(text, "Speed")[0][4] == "1.00 x"
    assert [row[0] for row in table(text, "Cost at 512 x 512")][-2:] == ["picture score", "all"]
    assert [row[1::2] for row in table(text, "Bars")] == [["5 M", "met"], ["8 G", "met"]]
    assert max(map(len, text.splitlines()[1:])) <= 80  # the first names a file of any length


@pytest.mark.parametrize(("load", "busy"), [(0.0, False), (999.0, True)])
def test_a_busy_machine_is_told(
    weights: Path, monkeypatch: pytest.MonkeyPatch, load: float, busy: bool
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    text = bench("--fps", "--weights", weights, "--size", 64, "--runs", 1)
    assert f"load before: {load:.2f}" in text
    assert ("was busy" in text) is busy


def test_speed_as_json(weights: Path) -> None:
    text = bench("--fps", "--weights", weights, "--size", 64, "--runs", 2, "--json")
    document: dict[str, Any] = json.loads(text)
    assert (document["kind"], document["version"]) == ("speed", 1)
    assert (document["model"], document["device"]) == (str(weights), "cpu")
    assert len(document["weights_sha256"]) == 64
    assert [row["size"] for row in document["speed"]] == [64]
    assert document["speed"][0]["passes"] == 2


def test_accuracy_as_a_table(weights: Path, pictures: Path) -> None:
    text = bench("--f1", pictures, "--weights", weights)
    two, one, mean = table(text, "Accuracy")
    assert two[:6] == ["[red]two\\x1b", "0 + 2", "-", "-", "-", "-"]
    assert one[:2] == ["one", "2 + 2"]
    assert mean[:2] == ["mean over sets", "2 + 4"]
    assert mean[2:6] == one[2:6]
    assert "Threshold 0.1." in text
    assert "optimistic" in text
    assert max(map(len, text.splitlines()[1:])) <= 80


def test_accuracy_as_json(weights: Path, pictures: Path) -> None:
    document = json.loads(bench("--f1", pictures, "--weights", weights, "--json"))
    assert (document["kind"], document["threshold"]) == ("accuracy", 0.1)
    two, one, mean = document["sets"]
    assert two["f1"] is None
    assert 0 <= one["f1"] <= one["best_f1"] <= 1
    assert mean["name"] == "mean over sets"
    assert [picture["f1"] is None for picture in document["pictures"]] == [True] * 2 + [
        not picture["tampered"] for picture in document["pictures"][2:]
    ]
    assert len(document["pictures"]) == 6


def test_the_threshold_can_be_chosen(weights: Path, pictures: Path) -> None:
    arguments = ("--f1", pictures / "one", "--weights", weights, "--json")
    low, high = (json.loads(bench(*arguments, "--threshold", value)) for value in (0.001, 0.999))
    assert (low["threshold"], high["threshold"]) == (0.001, 0.999)
    assert [low["sets"][0]["flagged"], high["sets"][0]["flagged"]] == [1.0, 0.0]


@pytest.mark.parametrize("arguments", [(), ("--fps", "--f1", "folder")])
def test_one_thing_is_measured_at_a_time(arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="one of --fps and --f1"):
        bench(*arguments)


def test_mistakes_are_named(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--size: .* not 100"):
        bench("--fps", "--weights", weights, "--size", 100)
    with pytest.raises(WeightsError, match=r"absent\.safetensors"):
        bench("--fps", "--weights", tmp_path / "absent.safetensors")
