"""`imlctl localize` as a user meets it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imlctl import __version__
from imlctl.core.efficient_iml import EfficientIML
from imlctl.errors import Exit
from imlctl.mask.decide import Rule, Verdict
from imlctl.weights.load import load, save

MASKS = {"a.jpg.mask.png", "deep/b.png.mask.png"}


def tree(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def picture(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def test_one_photograph_one_mask(run, weights, photos, tmp_path):
    ran = run("localize", photos / "a.jpg", "-o", tmp_path / "mask.png", "--weights", weights)
    assert ran.code == Exit.OK
    assert "mask.png" in ran.out
    mask = picture(tmp_path / "mask.png")
    assert (mask.mode, mask.size) == ("L", (90, 70))
    assert set(np.unique(np.asarray(mask))) <= {0, 255}


def test_without_output_only_the_verdict_is_printed(run, weights, photos):
    before = tree(photos)
    ran = run("localize", photos / "a.jpg", "--weights", weights)
    assert ran.code == Exit.OK
    assert ran.out.count("\n") == 1
    assert any(ran.out.startswith(f"{verdict}: ") for verdict in Verdict)
    assert "a.jpg (score " in ran.out
    assert ran.out.endswith("; caution: too small to judge: 90 x 70 pixels)\n")
    assert tree(photos) == before


@pytest.mark.parametrize(
    ("rule", "codes"),
    [
        (Rule(0.0, 0.0), (Exit.OK, Exit.FOUND, Exit.FOUND, Exit.FOUND)),  # all are manipulated
        (Rule(1.0, 0.0), (Exit.OK, Exit.OK, Exit.OK, Exit.FOUND)),  # inconclusive
        (Rule(1.0, 1.0), (Exit.OK, Exit.OK, Exit.OK, Exit.OK)),
    ],
)
def test_check_is_told_by_the_exit_status(run, weights, photos, tmp_path, rule, codes):
    loaded = load(weights)
    made = tmp_path / "made.safetensors"
    save(made, loaded.model, replace(loaded.card, rule=rule))
    picture = photos / "a.jpg"  # behind --check it is no value of it
    for check, code in zip(
        ([], ["--check"], ["--check=manipulated"], ["--check=any"]), codes, strict=True
    ):
        assert run("localize", "--weights", made, *check, picture).code == code


def test_reliability_is_written_and_shown_where_the_model_knows_it(run, weights, photos, tmp_path):
    told = ("--reliability", "--report", "--json")
    ran = run("localize", photos / "a.jpg", "-o", f"{tmp_path}/no/", "--weights", weights, *told)
    assert ran.code == Exit.USAGE
    assert "does not say where its map can be believed" in ran.err

    loaded = load(weights)
    config = replace(loaded.model.config, scored=True)
    torch.manual_seed(0)
    model = EfficientIML(config).eval()
    made = tmp_path / "scored.safetensors"
    save(made, model, replace(loaded.card, config=config.to_dict()))
    out = tmp_path / "out"
    ran = run("localize", photos / "a.jpg", "-o", f"{out}/", "--weights", made, *told)
    assert ran.code == Exit.OK, ran.err
    written = np.asarray(picture(out / "a.jpg.reliability.png"))
    assert (written.shape, written.dtype) == ((70, 90), np.uint16)
    record = json.loads((out / "a.jpg.json").read_text())
    assert record["unreliable_share"] == pytest.approx((written < 0.1 * 65535).mean(), abs=1e-3)
    assert '<script type="text/plain" id="v0-reliability">' in (out / "report.html").read_text()


def test_check_takes_no_other_value_and_a_file_may_have_its_name(run, weights, photos, monkeypatch):
    assert run("localize", photos / "a.jpg", "--check=often").code == Exit.USAGE
    (photos / "a.jpg").rename(photos / "--check")
    monkeypatch.chdir(photos)
    assert ": --check (" in run("localize", "--weights", weights, "--", "--check").out


def test_everything_beside_the_mask(run, weights, photos, tmp_path):
    ran = run(
        "localize", photos / "a.jpg", "-o", tmp_path / "m.png", "--weights", weights,
        "--soft", "--overlay", "--heatmap", "--json",
    )  # fmt: skip
    assert ran.code == Exit.OK
    assert picture(tmp_path / "m.png").mode == "I;16"
    assert picture(tmp_path / "m.overlay.png").mode == "RGB"
    assert picture(tmp_path / "m.heatmap.png").mode == "RGB"
    record = json.loads((tmp_path / "m.json").read_text())
    assert record["sha256"] == hashlib.sha256((photos / "a.jpg").read_bytes()).hexdigest()


def test_a_folder_is_mirrored_and_its_files_stay_as_they_are(run, weights, photos, tmp_path):
    before = tree(photos)
    ran = run("localize", photos, "-r", "-o", tmp_path / "out", "--weights", weights)
    assert ran.code == Exit.OK
    assert set(tree(tmp_path / "out")) == MASKS | {"imlctl-ledger.sqlite"}
    assert tree(photos) == before
    assert "2 pictures" in ran.err


def test_json_without_output_is_one_document_a_line(run, weights, photos):
    ran = run("localize", photos, "-r", "--json", "-q", "--weights", weights)
    records = [json.loads(line) for line in ran.out.splitlines()]
    assert [Path(r["path"]).name for r in records] == ["a.jpg", "b.png"]


def test_standard_input_to_standard_output(weights, photos):
    command = [sys.executable, "-c", "from imlctl.cli import main; main()"]
    command += ["localize", "-", "-o", "-", "--weights", str(weights)]
    ran = subprocess.run(
        command, input=(photos / "a.jpg").read_bytes(), capture_output=True, check=True
    )
    assert Image.open(io.BytesIO(ran.stdout)).size == (90, 70)
    assert ran.stderr == b""


def test_one_bad_picture_never_stops_the_others(run, weights, photos, tmp_path):
    whole = (photos / "a.jpg").read_bytes()
    (photos / "aa.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.png").write_bytes(b"")
    ran = run("localize", photos, "-r", "-o", tmp_path / "out", "--weights", weights)
    assert ran.code == Exit.SOME_FAILED
    assert set(tree(tmp_path / "out")) == MASKS | {"imlctl-ledger.sqlite"}
    assert "aa.jpg" in ran.err
    assert "empty.png" in ran.err
    assert "2 failed" in ran.err


def test_existing_output_is_kept_unless_forced(run, weights, photos, tmp_path):
    out = tmp_path / "mask.png"
    out.write_bytes(b"precious")
    ran = run("localize", photos / "a.jpg", "-o", out, "--weights", weights)
    assert ran.code == Exit.USAGE
    assert out.read_bytes() == b"precious"
    assert "--force" in ran.err
    assert (
        run("localize", photos / "a.jpg", "-o", out, "--weights", weights, "--force").code
        == Exit.OK
    )
    assert out.read_bytes() != b"precious"


def test_output_onto_the_input_is_refused(run, weights, photos, tmp_path):
    link = tmp_path / "mask.png"
    os.link(photos / "deep/b.png", link)
    ran = run("localize", photos / "deep/b.png", "-o", link, "--force", "--weights", weights)
    assert ran.code == Exit.USAGE
    assert "input" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "missing.safetensors"], "missing.safetensors"),
        (["--weights", "model.pth"], "pickle"),
        (["--model", "nonsense"], "efficientiml"),
        (["--device", "quantum"], "quantum"),
        (["--threshold", "1.5"], "threshold"),
        (["--tile", "100"], "100"),
        (["-o", "mask.jpg"], "PNG"),
    ],
)
def test_wrong_usage_says_what_to_do(run, photos, arguments, said):
    ran = run("localize", photos / "a.jpg", *arguments)
    assert ran.code == Exit.USAGE
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_names_cannot_drive_the_terminal(run, weights, photos):
    evil = photos / "evil\x1b[31m\n.jpg"
    evil.write_bytes((photos / "a.jpg").read_bytes())
    ran = run("localize", evil, "--weights", weights)
    assert ran.code == Exit.OK
    assert "\x1b" not in ran.out
    assert ran.out.count("\n") == 1


def test_name_that_is_not_utf8(run, weights, photos):
    path = photos / os.fsdecode(b"\xff\xfe.jpg")
    path.write_bytes((photos / "a.jpg").read_bytes())
    ran = run("localize", photos, "--json", "-q", "--weights", weights)
    assert ran.code == Exit.OK
    records = [json.loads(line) for line in ran.out.splitlines()]
    assert any(
        r["path_bytes"] and bytes.fromhex(r["path_bytes"]).endswith(b"\xff\xfe.jpg")
        for r in records
    )


def test_internal_error_costs_one_picture_and_verbose_shows_where(
    run, weights, photos, monkeypatch
):
    from imlctl.pipeline import Localizer

    real = Localizer.localize

    def sometimes(self, source, **options):
        if source.source.endswith("a.jpg"):
            raise KeyError("surprise")
        return real(self, source, **options)

    monkeypatch.setattr(Localizer, "localize", sometimes)
    ran = run("localize", photos, "-r", "-v", "--weights", weights)
    assert ran.code == Exit.SOME_FAILED
    assert "internal error" in ran.err
    assert "Traceback" in ran.err
    assert "b.png" in ran.out


def test_interrupt_has_its_exit_code(run, weights, photos, monkeypatch):
    from imlctl.pipeline import Localizer

    def interrupted(self, source, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Localizer, "localize", interrupted)
    assert run("localize", photos, "-r", "--weights", weights).code == Exit.INTERRUPTED


def test_version_and_help(run):
    assert run("--version").out.strip() == f"imlctl {__version__}"
    ran = run("localize", "--help")
    assert ran.code == Exit.OK
    assert "Exit status" in ran.out
