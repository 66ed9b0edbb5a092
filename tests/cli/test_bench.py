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

from imlctl.bench.stages import photograph
from imlctl.bench.thresholds import kept_in
from imlctl.cli import app
from imlctl.core.denoiser import DenoiserConfig
from imlctl.core.diff_iml import DiffIML, DiffIMLConfig
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.core.mit import SIZES, MixTransformer
from imlctl.errors import ConfigError, ImlctlError, OutputError, UsageError, WeightsError
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
    save(path, EfficientIML(TINY), Card("efficient-iml", TINY.to_dict(), Rule(threshold=0.1)))
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
        names = [row[0] for row in table(text, "Speed")]
        assert names[:2] == ["64 x 64", "128 x 128"]
        assert names[2:] == ["64 x 64, 4 at once", "64 x 64, 16 at once"]
        assert table(text, "Speed")[0][4] == "1.00 x"
        cost = [row[0] for row in table(text, "Cost at 512 x 512")]
        assert cost[-3:] == ["picture score", "all", "of it the WKV operator"]
        bars = [(row[1], row[3]) for row in table(text, "Bars")]
        assert bars == [("at most 5 M", "met"), ("at most 8 G", "met")]
        assert "Fitted over the sizes: time as pixels ^" in text
        assert "Ceilings measured here" in text
        assert narrow(text)

    @pytest.mark.parametrize(("load", "busy"), [(0.0, False), (999.0, True)])
    def test_a_busy_machine_is_told(
        self, weights: Path, monkeypatch: pytest.MonkeyPatch, load: float, busy: bool
    ) -> None:
        monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0), raising=False)
        text = bench("--fps", "--weights", weights, "--size", 64, "--runs", 1, "--no-tta")
        assert f"load before: {load:.2f}" in " ".join(text.split())
        assert ("was busy" in text) is busy

    def test_both_models_as_json_from_bytes_to_disk(
        self, weights: Path, sampler: Path, tmp_path: Path
    ) -> None:
        text = bench(
            *("--fps", "--weights", weights, "--weights", sampler, "--size", 64, "--runs", 1),
            *("--steps", 1, "--steps", 2, "--ensemble", 1, "--no-tta", "--end-to-end", "--json"),
            *("-o", tmp_path / "report"),
        )
        document: dict[str, Any] = json.loads(text)
        assert (document["kind"], document["version"]) == ("speed", 3)
        one, two = document["models"]
        assert (one["model"], two["model"]) == (str(weights), str(sampler))
        ways = [(row["members"], row["steps"]) for row in two["speed"]]
        assert ways == [(1, 1), (1, 2)]
        assert set(two["end_to_end"][0]["stages"]) >= {"decode", "encoder", "denoiser", "LightVAE"}
        assert one["end_to_end"][0]["model_share"] > 0
        assert one["roofline"]["times"] > 0
        assert document["resident"] > 10**7
        with Image.open(tmp_path / "report" / "speed.png") as plot:
            assert plot.width > plot.height  # a panel for each model

    def test_flops(self, weights: Path, sampler: Path) -> None:
        text = bench("--flops", "--weights", weights, "--weights", sampler, "--compare")
        counts = table(text, "Multiply-accumulates by way of counting")
        assert [row[0] for row in counts] == ["N=1, 8 steps", "N=5, 8 steps"]
        assert "one call of the denoiser for each member" in text.replace("\n", " ")
        assert "PUBLISHED, not measured here: Table 4" in text
        assert narrow(text)


class TestAccuracy:
    def test_as_a_table(self, weights: Path, pictures: Path) -> None:
        text = bench("--f1", pictures, "--weights", weights, "--resamples", 20)
        pixels, verdicts = table(text, "Accuracy"), table(text, "Verdicts")
        assert pixels[0][:3] == ["[red]two\\x1b", "-", "-"]
        assert pixels[1][0] == "one"
        assert re.fullmatch(r"\d\.\d{3} \[\d\.\d\d, \d\.\d\d\]", pixels[1][1])
        assert [row[1] for row in verdicts] == ["0 + 2", "2 + 2", "2 + 4", "2 + 4"]
        assert "threshold 0.1" in text.replace("\n", " ")
        assert "optimistic" in text
        assert narrow(text)

    def test_as_json(self, weights: Path, pictures: Path) -> None:
        arguments = ("--f1", pictures, "--weights", weights, "--json", "--resamples", 20)
        text = bench(*arguments)
        document = json.loads(text)
        assert (document["kind"], document["threshold"]) == ("accuracy", 0.1)
        two, one, mean, every = document["sets"]
        assert two["f1"] is None
        assert 0 <= one["f1"] <= one["best_f1"] <= 1
        assert (mean["name"], every["name"]) == ("mean over sets", "all pictures")
        assert [picture["f1"] is None for picture in document["pictures"]] == [True] * 2 + [
            not picture["tampered"] for picture in document["pictures"][2:]
        ]
        assert len(document["pictures"]) == 6
        assert bench(*arguments) == text  # all of it is reproducible

    def test_outputs_in_a_folder(self, weights: Path, pictures: Path, tmp_path: Path) -> None:
        out = tmp_path / "report"
        arguments = ("--f1", pictures, "--weights", weights, "--resamples", 5, "-o", out)
        printed = bench(*arguments, "--markdown")
        assert sorted(p.name for p in out.iterdir()) == [
            "accuracy.json",
            "accuracy.md",
            "cases.png",
        ]
        assert (out / "accuracy.md").read_text("utf-8") == printed
        assert "| one | " in printed
        # What is kept as JSON gives the same Markdown again.
        assert bench("--read", out / "accuracy.json", "--markdown") == printed
        with pytest.raises(OutputError, match="not an empty folder"):
            bench(*arguments)
        bench(*arguments, "--force")

    def test_a_manifest(self, weights: Path, pictures: Path) -> None:
        manifest = pictures / "list.csv"
        manifest.write_text("image,mask,split\none/tampered/a.png,one/masks/a.png,test\n")
        arguments = ("--f1", manifest, "--weights", weights, "--json", "--resamples", 0)
        document = json.loads(bench(*arguments, "--split", "test"))
        assert [row["name"] for row in document["sets"]] == ["list"]
        with pytest.raises(ConfigError, match="no picture of the split"):
            bench(*arguments, "--split", "train")

    def test_how_it_is_drawn_can_be_chosen(self, sampler: Path, pictures: Path) -> None:
        arguments = ("--f1", pictures / "one", "--weights", sampler, "--json", "--resamples", 0)
        documents = [
            json.loads(bench(*arguments, "--steps", 1, "--ensemble", *ensemble))
            for ensemble in ((1,), (1, "--seed", 7), (2, "--tta", "--tta-fusion", "max"))
        ]
        assert documents[2]["settings"]["tta"] == "max"
        assert [d["settings"]["ensemble"] for d in documents] == [1, 1, 2]
        assert [d["seed"] for d in documents] == [0, 7, 0]
        assert documents[0]["sets"] != documents[1]["sets"]

    def test_the_threshold_can_be_chosen(self, weights: Path, pictures: Path) -> None:
        arguments = ("--f1", pictures / "one", "--weights", weights, "--json", "--resamples", 0)
        low, high = (json.loads(bench(*arguments, "--threshold", t)) for t in (0.001, 0.999))
        assert (low["threshold"], high["threshold"]) == (0.001, 0.999)
        shares = [[picture["share"] for picture in each["pictures"]] for each in (low, high)]
        assert min(shares[0]) > max(shares[1])


class TestCalibration:
    def test_a_rate_is_kept_and_used(self, weights: Path, pictures: Path) -> None:
        text = bench("--calibrate", pictures, "--weights", weights, "--resamples", 20)
        assert table(text, "Thresholds on 4")[0][0] == "0.01"
        assert "Too few pictures" in text
        assert kept_in().is_file()
        arguments = ("--f1", pictures, "--weights", weights, "--json", "--resamples", 0)
        for rate, marked in ((0.0, 0), (0.25, 1), (0.5, 2)):
            document = json.loads(bench(*arguments, "--threshold", f"fpr={rate}"))
            alarms = [p["share"] > 0.005 for p in document["pictures"] if not p["tampered"]]
            assert sum(alarms) == marked
        photo = pictures / "one" / "authentic" / "a.png"
        bench(photo, "--weights", weights, "--threshold", "fpr=0.25", command="localize")

    def test_without_one_the_remedy_is_named(self, weights: Path, pictures: Path) -> None:
        photo = pictures / "one" / "authentic" / "a.png"
        with pytest.raises(UsageError, match=r"fpr=0.01: .*not calibrated.*bench --calibrate"):
            bench(photo, "--weights", weights, "--threshold", "fpr=0.01", command="localize")
        with pytest.raises(UsageError, match=r"'often' is neither a number nor fpr="):
            bench(photo, "--weights", weights, "--threshold", "often", command="localize")


def test_robustness(weights: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    text = bench(
        *("--robustness", pictures / "one", "--weights", weights, "--resamples", 5),
        *("--json", "-o", out),
    )
    document = json.loads(text)
    kinds = [row["kind"] for row in document["rows"]]
    assert kinds[0] == "clean"
    assert kinds.count("noise, variance") == kinds.count("noise, std") == 6
    assert document["rows"][0]["kept"] == 1.0
    plain = json.loads(bench("--f1", pictures / "one", "--weights", weights, "--json"))
    assert document["rows"][0]["f1"] == plain["sets"][0]["f1"]
    assert sorted(p.suffix for p in out.iterdir()) == [".json", ".md", ".png"]
    page = bench("--read", out / "robustness.json")
    assert "VARIANCE" in page
    assert narrow(page)


class TestAblation:
    def test_steps(self, sampler: Path, pictures: Path) -> None:
        arguments = ("--f1", pictures / "one", "--weights", sampler, "--resamples", 5)
        text = bench(*arguments, "--ablate", "steps", "--steps", 1, "--steps", 2, "--ensemble", 1)
        assert [row[0] for row in table(text, "Ablation: steps")] == ["1", "2"]
        assert narrow(text)

    def test_ensemble_has_a_spread(self, sampler: Path, pictures: Path) -> None:
        arguments = ("--f1", pictures / "one", "--weights", sampler, "--resamples", 0, "--json")
        text = bench(*arguments, "--ablate", "ensemble", "--steps", 1, "--ensemble", 2)
        (row,) = json.loads(text)["rows"]
        assert (row["arm"], row["spread"] > 0) == ("2", True)

    def test_weights_are_arms(self, weights: Path, sampler: Path, pictures: Path) -> None:
        arms = ("--weights", weights, "--weights", sampler, "--ensemble", 1, "--steps", 1)
        text = bench(
            *("--f1", pictures / "one", "--ablate", "prior", *arms, "--json", "--resamples", 0)
        )
        assert [row["arm"] for row in json.loads(text)["rows"]] == [str(weights), str(sampler)]

    @pytest.mark.parametrize(
        ("what", "says"),
        [
            ("prior", r"imlctl train PRESET .*prior in \[diffusion\]: 0, 0.1, 0.3 and 0.5"),
            ("edge", r"mask_weight"),
            ("encoder", r"resnet50.*mit-b3"),
            ("init", r"ImageNet"),
            ("colour", r"no ablation of 'colour'.*steps, ensemble"),
            ("steps", r"does not sample"),
        ],
    )
    def test_what_to_train_is_said(
        self, what: str, says: str, weights: Path, pictures: Path
    ) -> None:
        with pytest.raises(UsageError, match=says):
            bench("--f1", pictures, "--ablate", what, "--weights", weights)


def test_a_peer_takes_turns(weights: Path, pictures: Path, tmp_path: Path) -> None:
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
    document = json.loads(
        bench("--f1", manifest, "--weights", weights, "--peer", command, "--json")
    )
    ours, theirs = document["rows"]
    assert (ours["name"], theirs["name"], theirs["f1"]) == ("imlctl", "peer", 1.0)
    assert document["f1_gain"] == pytest.approx(ours["f1"] - 1)
    assert document["ratio"]["pairs"] == 1
    assert document["ratio"]["median"] == pytest.approx(ours["seconds"] / theirs["seconds"])
    (failed,) = document["failed"]
    assert "only a" in failed["error"]


def test_published_figures_alone() -> None:
    text = bench("--compare")
    for number in (2, 3, 4, 7):
        assert f"PUBLISHED, not measured here: Table {number}" in text
    assert "DiffIML" in text
    assert "RTX 3090" in text
    assert narrow(text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "nothing is chosen"),
        (("--fps", "--f1", "folder"), "--fps and --f1 are two"),
        (("--compare", "--json", "--markdown"), "cannot print both"),
        (("--ablate", "steps"), "needs pictures"),
        (("--f1", ".", "--ablate", "steps", "--peer", "x"), "one at a time"),
        (("--f1", ".", "--steps", "1", "--steps", "2"), "given several times"),
        (("--f1", ".", "--weights", "a", "--weights", "b"), "several models"),
    ],
)
def test_one_thing_is_measured_at_a_time(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        bench(*arguments)


def test_mistakes_are_named(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--size: .* not 100"):
        bench("--fps", "--weights", weights, "--size", 100)
    with pytest.raises(WeightsError, match=r"absent\.safetensors"):
        bench("--fps", "--weights", tmp_path / "absent.safetensors")
    other = tmp_path / "other.json"
    for text in ("{", "[]", '{"kind": "speed", "version": 1}'):
        other.write_text(text)
        with pytest.raises(ImlctlError, match=r"other\.json"):
            bench("--read", other)


class TestReadingBack:
    @pytest.fixture
    def reports(self, weights: Path, pictures: Path, tmp_path: Path) -> list[Path]:
        paths = [tmp_path / "f1.json", tmp_path / "flops.json"]
        scored = bench("--f1", pictures, "--weights", weights, "--json", "--resamples", 5)
        for path, text in zip(
            paths, (scored, bench("--flops", "--weights", weights, "--json")), strict=True
        ):
            path.write_text(text)
        return paths

    def test_accuracy_and_cost_become_one_row_and_a_plot(
        self, reports: list[Path], weights: Path, tmp_path: Path
    ) -> None:
        arguments = [word for path in reports for word in ("--read", path)]
        out = tmp_path / "report"
        text = bench(*arguments, "--compare", "-o", out, "--markdown")
        assert f"| {weights} ".replace("_", "\\_") in text
        assert "PUBLISHED, not measured here" in text
        assert sorted(p.name for p in out.iterdir()) == [
            "f1-cost.png",
            "together.json",
            "together.md",
        ]
        assert bench("--read", out / "together.json", "--markdown") == text
        with Image.open(out / "f1-cost.png") as plot:
            assert plot.width > plot.height

    def test_what_does_not_belong_together_is_refused(self, reports: list[Path]) -> None:
        _, cost = reports
        with pytest.raises(ConfigError, match="hold no accuracy"):
            bench("--read", cost, "--read", cost)


def test_a_scan_is_timed_against_the_bare_model(
    weights: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    text = bench("--scan", pictures, "--weights", weights, "--runs", 2, "-o", out)
    rows = table(text, "Scan of 8 pictures (of 8")
    assert len(rows) == 3
    document = json.loads((out / "scan.json").read_text())
    assert len(document["rounds"]) == 2
    assert all(seconds > 0 for each in document["rounds"] for seconds in each.values())
    ratios = [each["model"] / each["scan"] for each in document["rounds"]]
    assert min(ratios) <= document["share"] <= max(ratios)
    assert document["passed"] is (document["share"] >= 0.9)
    assert narrow(text)


def test_decoding_and_writing_hide_behind_the_model(tmp_path: Path) -> None:
    """At least nine tenths of the bare model's speed is promised; half holds on a busy machine."""
    (tmp_path / "photos").mkdir()
    for number in range(6):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(photograph(512))
    document = json.loads(bench("--scan", tmp_path / "photos", "--runs", 3, "--json"))
    assert document["share"] > 0.5


def test_every_bar_is_measured(
    weights: Path, sampler: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On small models, with a small encoder beside them and one process of each kind."""
    monkeypatch.setattr("imlctl.bench.speed.MixTransformer", lambda: MixTransformer(SIZES["b0"]))
    monkeypatch.setattr("imlctl.cli.bench_bars._LARGE", (640, 480))
    monkeypatch.setattr("imlctl.cli.bench_bars._PHOTO_SIDE", 64)
    monkeypatch.setattr("imlctl.cli.bench_bars._MASKS", 1)
    monkeypatch.setattr("imlctl.bench.bars.BAR_SIZE", 64)
    out = tmp_path / "report"
    bench(
        *("--bars", "--weights", weights, "--weights", sampler, "--runs", 1, "--budget", 0.1),
        *("-o", out),
    )
    document = json.loads((out / "bars.json").read_text())
    found = {bar["name"]: bar for bar in document["bars"]}
    assert document["missing"] == []
    for part in ("--help", "import torch", "24 megapixels", "parameters", "scan", "F1 of masks"):
        assert [name for name in found if part in name], part
    vae = next(bar for name, bar in found.items() if "Stable Diffusion" in name)
    assert (vae["limit"], vae["passed"]) == (0.02, True)
    memory = next(bar for name, bar in found.items() if "24 megapixels" in name)
    assert 5e7 < memory["measured"] < 2.5e9
