from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from imlctl.cli import app
from imlctl.core.denoiser import DenoiserConfig
from imlctl.core.diff_iml import DiffIML, DiffIMLConfig
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.core.imagenet import MIT_SIZES as SIZES
from imlctl.core.imagenet import MixTransformer
from imlctl.errors import ConfigError, OutputError, UsageError, WeightsError
from imlctl.mask.decide import Rule
from imlctl.weights.load import Card, save

if TYPE_CHECKING:
    from pathlib import Path

TINY = EfficientIMLConfig(EfficientRWKVConfig(dims=(16, 16, 16), depths=(1, 1, 1)), width=16)
SAMPLING = DiffIMLConfig("efficient-rwkv-tiny", DenoiserConfig(channels=32, condition=32))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    model = EfficientIML(TINY)
    torch.nn.init.normal_(model.head.weight, std=2.0)  # probabilities on both sides of a half
    torch.nn.init.zeros_(model.head.bias)
    save(path, model, Card("efficient-iml", TINY.to_dict()))
    return path


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "sampler.safetensors"
    torch.manual_seed(0)
    save(path, DiffIML(SAMPLING), Card("diff-iml", SAMPLING.to_dict(), Rule(threshold=0.3)))
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
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("imlctl.bench.speed.MixTransformer", lambda: MixTransformer(SIZES["b0"]))
    monkeypatch.setattr("imlctl.bench.machine._BETWEEN_LOOKS", 0)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def bench(*arguments: object, command: str = "bench") -> str:
    """Run the command; return standard output. Nothing else may be written."""
    run = CliRunner().invoke(app, [command, "--device", "cpu", *map(str, arguments)])
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


def narrow(text: str) -> bool:
    return max(map(len, text.splitlines()[1:])) <= 80  # the first names a file of any length


class TestSpeed:
    def test_as_tables(self, weights: Path) -> None:
        sizes = ("--size", 128, "--size", 64)
        text = bench("--fps", "--weights", weights, *sizes, "--runs", 1, "--no-tta")
        assert [row[0] for row in table(text, "Speed")] == ["64 x 64", "128 x 128"]
        assert table(text, "Speed")[0][4] == "1.00 x"
        assert [row[0] for row in table(text, "End to end")] == ["64 x 64", "128 x 128"]
        cost = [row[0] for row in table(text, "Cost at 512 x 512")]
        assert cost[-4:] == ["picture score", "all", "of it the WKV operator", "MiT-B3 encoder"]
        flat = " ".join(text.split())
        assert "pair by pair" in flat
        assert narrow(text)

    @pytest.mark.parametrize(("share", "busy"), [(0.02, False), (0.4, True)])
    def test_neighbours_are_told(
        self, weights: Path, monkeypatch: pytest.MonkeyPatch, share: float, busy: bool
    ) -> None:
        for module in ("machine", "speed"):
            monkeypatch.setattr(f"imlctl.bench.{module}.others_busy", lambda: share)
        text = bench("--fps", "--weights", weights, "--size", 64, "--runs", 1, "--no-tta")
        assert f"other programs used {share:.0%} of the cores before" in " ".join(text.split())
        assert ("Other programs were using this machine" in text) is busy

    def test_both_models_as_json(self, weights: Path, sampler: Path, tmp_path: Path) -> None:
        text = bench(
            *("--fps", "--weights", weights, "--weights", sampler, "--size", 64, "--runs", 1),
            *("--steps", 1, "--steps", 2, "--ensemble", 1, "--no-tta", "--json"),
            *("-o", tmp_path / "report"),
        )
        document: dict[str, Any] = json.loads(text)
        assert (document["kind"], document["version"]) == ("speed", 6)
        one, two = document["models"]
        assert (one["model"], two["model"]) == (str(weights), str(sampler))
        assert [(row["members"], row["steps"]) for row in two["speed"]] == [(1, 1), (1, 2)]
        assert one["end_to_end"][0]["model_share"] > 0
        assert document["resident"] > 10**7
        assert "Speed, model alone" in (tmp_path / "report" / "speed.md").read_text("utf-8")

    def test_flops(self, weights: Path, sampler: Path) -> None:
        text = bench("--flops", "--weights", weights, "--weights", sampler)
        counts = table(text, "Multiply-accumulates by way of counting")
        assert [row[0] for row in counts] == ["N=1, 8 steps", "N=5, 8 steps"]
        assert "one call of the denoiser for each member" in text.replace("\n", " ")
        assert narrow(text)


class TestAccuracy:
    def test_as_tables(self, weights: Path, pictures: Path) -> None:
        text = bench("--f1", pictures, "--weights", weights)
        pixels = table(text, "Pixels of forgeries")
        assert pixels[0][0] == "one"
        assert re.fullmatch(r"\d\.\d{3} \[\d\.\d\d, \d\.\d\d\]", pixels[0][1])
        forgeries, authentic = (
            table(text, f"Verdicts on {kind}") for kind in ("forgeries", "authentic")
        )
        assert [row[:2] for row in forgeries] == [["one", "2"], ["all pictures", "2"]]
        assert [row[0] for row in authentic] == ["[red]two\\x1b", "one", "all pictures"]
        assert authentic[-1][1] == "4"
        assert {"0% [0, 60]", "100% [40, 100]"} == set(authentic[-1][2:])  # of four
        assert [row[:3] for row in table(text, "Forgeries ranked")][-1] == [
            "all pictures",
            "2",
            "4",
        ]
        assert [row[:2] for row in table(text, "Forgeries by the share")] == [
            ["under 1 %", "0"],
            ["1 to 10 %", "0"],
            ["over 10 %", "2"],
        ]
        assert table(text, "Reliability of the score")
        assert "optimistic" in text
        assert narrow(text)

    def test_as_json(self, weights: Path, pictures: Path) -> None:
        def scored() -> dict[str, Any]:
            (model,) = json.loads(bench("--f1", pictures, "--weights", weights, "--json"))["models"]
            model.pop("seconds")
            return dict(model)

        document = scored()
        two, one, mean, every = document["sets"]
        assert two["f1"] is None
        assert 0 <= one["f1"] <= one["best_f1"] <= 1
        assert (mean["name"], every["name"]) == ("mean over sets", "all pictures")
        assert [picture["f1"] is None for picture in document["pictures"]] == [True] * 2 + [
            not picture["tampered"] for picture in document["pictures"][2:]
        ]
        assert len(document["pictures"]) == 6
        assert scored() == document  # all of it is reproducible

    def test_outputs_in_a_folder(self, weights: Path, pictures: Path, tmp_path: Path) -> None:
        out = tmp_path / "report"
        arguments = ("--f1", pictures, "--weights", weights, "-o", out)
        bench(*arguments)
        assert sorted(p.name for p in out.iterdir()) == [
            "accuracy.json",
            "accuracy.md",
        ]
        assert "| one | " in (out / "accuracy.md").read_text("utf-8")
        with pytest.raises(OutputError, match="not an empty folder"):
            bench(*arguments)

    def test_a_manifest(self, weights: Path, pictures: Path) -> None:
        manifest = pictures / "list.csv"
        manifest.write_text("image,mask,split\none/tampered/a.png,one/masks/a.png,test\n")
        arguments = ("--f1", manifest, "--weights", weights, "--json")
        (model,) = json.loads(bench(*arguments, "--split", "test"))["models"]
        assert [row["name"] for row in model["sets"]] == ["list"]
        with pytest.raises(ConfigError, match="no picture of the split"):
            bench(*arguments, "--split", "train")

    def test_settings_and_weights_are_compared(
        self, weights: Path, sampler: Path, pictures: Path, tmp_path: Path
    ) -> None:
        drawn = ("--steps", 1, "--ensemble", 1, "--ensemble", 2, "--tta")
        text = bench("--f1", pictures / "one", "--weights", sampler, *drawn, "-o", tmp_path / "out")
        assert len(table(text, "Side by side, all pictures")) >= 2
        assert narrow(text)
        models = json.loads((tmp_path / "out" / "accuracy.json").read_text())["models"]
        assert [model["settings"]["ensemble"] for model in models] == [1, 2]
        assert {model["settings"]["tta"] for model in models} == {"mean"}
        assert models[0]["sets"] != models[1]["sets"]
        both = ("--weights", weights, "--weights", sampler, "--steps", 1, "--json")
        models = json.loads(bench("--f1", pictures / "one", *both))["models"]
        assert [model["model"] for model in models] == [str(weights), str(sampler)]
        with pytest.raises(UsageError, match="does not sample"):
            bench("--f1", pictures, "--weights", weights, "--steps", 2)


def test_verdicts_on_authentic_pictures(weights: Path, pictures: Path) -> None:
    text = bench("--calibrate", pictures, "--weights", weights)
    assert [row[1] for row in table(text, "Verdicts on 4 authentic")] == ["0", "4", "0"]
    assert narrow(text)


def test_robustness(weights: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    for second in pictures.rglob("b.png"):
        second.unlink()  # each picture is degraded in 29 ways
    text = bench("--robustness", pictures / "one", "--weights", weights, "-o", out)
    document = json.loads((out / "robustness.json").read_text())
    kinds = [row["kind"] for row in document["rows"]]
    assert kinds[0] == "clean"
    assert kinds.count("noise, variance") == kinds.count("noise, std") == 6
    assert document["rows"][0]["kept"] == 1.0
    (plain,) = json.loads(bench("--f1", pictures / "one", "--weights", weights, "--json"))["models"]
    assert document["rows"][0]["f1"] == plain["sets"][0]["f1"]
    assert sorted(p.suffix for p in out.iterdir()) == [".json", ".md"]
    assert "VARIANCE" in text
    assert narrow(text)


def test_a_peer_is_scored_beside_the_model(weights: Path, pictures: Path, tmp_path: Path) -> None:
    """The peer is all-knowing about one picture and fails on the other."""
    peer = tmp_path / "peer.py"
    masks = pictures / "one" / "masks"
    peer.write_text(
        "import pathlib, shutil, sys\n"
        "image = pathlib.Path(sys.argv[1])\n"
        "assert image.stem == 'a', 'only a'\n"
        f"shutil.copy({str(masks)!r} + '/' + image.name, sys.argv[2])\n"
    )
    manifest = pictures / "list.csv"
    rows = [f"one/tampered/{n}.png,one/masks/{n}.png" for n in "ab"]
    manifest.write_text("\n".join(["image,mask", *rows]))
    command = f"{sys.executable} {peer} {{image}} {{out}}"
    out = tmp_path / "report"
    arguments = ("--f1", manifest, "--weights", weights, "--peer", command)
    text = bench(*arguments, "-o", out)
    assert "Pictures that it failed on, left out for all: 1." in " ".join(text.split())
    assert [row[0] for row in table(text, "Side by side")][-1] == "peer"
    document = json.loads((out / "accuracy.json").read_text())
    ours, theirs = document["models"]
    assert (ours["model"], theirs["model"], theirs["sets"][-1]["f1"]) == (str(weights), "peer", 1.0)
    assert [picture["image"] for picture in ours["pictures"]] == ["a.png"]
    assert theirs["seconds"] > 0
    (failed,) = document["failed"]
    assert "only a" in failed["error"]


def test_a_model_that_does_not_load_is_told_before_the_peer_runs(
    weights: Path, pictures: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    peer = tmp_path / "peer.py"
    peer.write_text(f"open({str(ran)!r}, 'w')")
    command = f"{sys.executable} {peer} {{image}} {{out}}"
    both = ("--weights", weights, "--weights", tmp_path / "missing.safetensors")
    with pytest.raises(WeightsError, match=r"missing\.safetensors"):
        bench("--f1", pictures, *both, "--peer", command)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "nothing was chosen"),
        (("--fps", "--f1", "folder"), "--fps and --f1 were given"),
        (("--fps", "--peer", "x"), "needs pictures"),
        (("--scan", ".", "--steps", "1", "--steps", "2"), "several were given"),
        (("--robustness", ".", "--weights", "a", "--weights", "b"), "several were given"),
    ],
)
def test_one_thing_is_measured_at_a_time(
    arguments: tuple[str, ...], says: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures)
    with pytest.raises(UsageError, match=says):
        bench(*arguments)


def test_mistakes_are_named(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--size: .* not 100"):
        bench("--fps", "--weights", weights, "--size", 100)
    with pytest.raises(WeightsError, match=r"absent\.safetensors"):
        bench("--fps", "--weights", tmp_path / "absent.safetensors")


def test_a_scan_is_timed_against_the_bare_model(
    weights: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    text = bench("--scan", pictures, "--weights", weights, "--runs", 2, "-o", out)
    document = json.loads((out / "scan.json").read_text())
    assert len(table(text, "Scan of 8 pictures (of 8")) == 3 + (document["at_once"] > 1)
    assert len(document["rounds"]) == 2
    assert all(seconds > 0 for each in document["rounds"] for seconds in each.values())
    assert document["at_once"] == document["machine"]["cores"]
    ratios = [each["model"] / document["at_once"] / each["scan"] for each in document["rounds"]]
    assert min(ratios) <= document["share"] <= max(ratios)
    assert narrow(text)
