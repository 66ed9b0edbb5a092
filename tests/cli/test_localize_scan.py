"""`imlctl localize` over folders: going on, stopping, dividing, choosing."""

from __future__ import annotations

import hashlib
import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from imlctl.errors import Exit
from imlctl.image.formats import DEFAULT_MAX_PIXELS
from imlctl.mask.decide import Rule, Verdict
from imlctl.pipeline import Localizer
from imlctl.scan.ledger import Ledger


@pytest.fixture
def photos(tmp_path):
    """Five pictures, one of them damaged."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for seed, name in enumerate(("a.jpg", "b.png", "deep/c.png", "deep/d.tif")):
        pixels = np.random.default_rng(seed).integers(0, 256, (70, 66, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "bad.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-40])
    return folder


@pytest.fixture
def localize(run, weights, photos, tmp_path):
    """Runs over the folder into `out`, unless told otherwise."""

    def call(*arguments, out="out", source=photos):
        return run(
            "localize", *([source] if source else []), "-r", "-o", tmp_path / out,
            "--json", "--weights", weights, *arguments,
        )  # fmt: skip

    return call


def contents(folder):
    """Every output; of records, all but how long it took."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(("imlctl-ledger", "SHA256SUMS")):
            data = path.read_bytes()
            if path.suffix == ".json":
                data = json.loads(data)
                del data["seconds"], data["timings"]
            found[str(path.relative_to(folder))] = data
    return found


def on_call(monkeypatch, number, action):
    """Do something when the model is asked for the n-th time; it goes on afterwards."""
    real = Localizer.localize
    calls = []

    def counted(self, source, **options):
        calls.append(source)
        if len(calls) == number:
            action()
        return real(self, source, **options)

    monkeypatch.setattr(Localizer, "localize", counted)
    return calls


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_processes_change_nothing(localize, tmp_path):
    assert localize().code == Exit.SOME_FAILED
    assert localize("--jobs", "2", out="processes").code == Exit.SOME_FAILED
    assert contents(tmp_path / "processes") == contents(tmp_path / "out")
    assert len(contents(tmp_path / "out")) == 8


def test_going_on_skips_what_is_done(localize, tmp_path, monkeypatch):
    localize()
    before = contents(tmp_path / "out")
    calls = on_call(monkeypatch, 0, None)
    ran = localize("--resume")
    assert calls == []
    assert ran.code == Exit.SOME_FAILED
    assert "4 done by an earlier scan" in ran.err
    assert ran.out == ""
    assert contents(tmp_path / "out") == before


def test_without_resume_what_is_done_is_neither_lost_nor_skipped(localize, monkeypatch):
    localize()
    ran = localize()
    assert ran.code == Exit.USAGE
    assert "--resume" in ran.err
    calls = on_call(monkeypatch, 0, None)
    assert localize("--force").code == Exit.SOME_FAILED
    assert len(calls) == 4


def test_a_file_of_somebody_else_is_not_replaced_by_going_on(localize, photos, tmp_path):
    localize()
    (photos / "new.png").write_bytes((photos / "b.png").read_bytes())
    theirs = tmp_path / "out" / "new.png.mask.png"
    theirs.write_bytes(b"precious")
    ran = localize("--resume")
    assert ran.code == Exit.USAGE
    assert "new.png.mask.png" in ran.err
    assert theirs.read_bytes() == b"precious"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_finishes_the_picture_in_hand(localize, tmp_path, monkeypatch, number):
    localize(out="whole")
    on_call(monkeypatch, 1, lambda: os.kill(os.getpid(), number))
    ran = localize()
    assert ran.code == Exit.INTERRUPTED
    assert "press Ctrl-C again to stop now" in ran.err
    assert "interrupted after 1 of 5 pictures; the same command with --resume continues" in ran.err
    assert set(contents(tmp_path / "out")) == {"a.jpg.json", "a.jpg.mask.png"}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ran = localize("--resume")
    assert ran.code == Exit.SOME_FAILED
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_two_interrupts_abort_and_leave_nothing_half_done(localize, tmp_path, monkeypatch):
    localize(out="whole")
    on_call(monkeypatch, 2, lambda: (interrupt(), interrupt()))
    ran = localize()
    assert ran.code == Exit.INTERRUPTED
    assert set(contents(tmp_path / "out")) <= {"a.jpg.json", "a.jpg.mask.png"}
    localize("--resume")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_interrupt_stops_a_single_picture_at_once(run, weights, photos, tmp_path, monkeypatch):
    on_call(monkeypatch, 1, interrupt)
    ran = run("localize", photos / "a.jpg", "-o", tmp_path / "m.png", "--weights", weights)
    assert ran.code == Exit.INTERRUPTED
    assert not (tmp_path / "m.png").exists()


def test_a_full_disk_stops_cleanly_and_the_scan_goes_on_later(localize, tmp_path, monkeypatch):
    localize(out="whole")
    real, flushed = os.fsync, []

    def fsync(descriptor):
        flushed.append(descriptor)
        if len(flushed) > 3:  # a file and its folder for each output: with the second half written
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fsync)
        ran = localize()
    assert ran.code == Exit.USAGE
    assert "No space left on device. Free some space on that disk" in ran.err
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert localize("--resume").code == Exit.SOME_FAILED
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_two_scans_into_one_folder_are_refused(localize, tmp_path):
    with Ledger(tmp_path / "out" / "imlctl-ledger.sqlite"):
        ran = localize()
    assert ran.code == Exit.USAGE
    assert "another scan is writing to this folder" in ran.err
    assert localize().code == Exit.SOME_FAILED


def test_parts_together_are_the_whole(localize, tmp_path):
    localize(out="whole")
    for part in ("1/3", "2/3", "3/3"):
        assert localize("--shard", part).code in (Exit.OK, Exit.SOME_FAILED)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(list((tmp_path / "out").glob("imlctl-ledger-*-of-3.sqlite"))) == 3
    assert localize("--shard", "").code == Exit.USAGE  # an unset variable of a job array
    ran = localize("--shard", "1/2")
    assert ran.code == Exit.USAGE
    assert "different --shard" in ran.err


def test_check_exits_1_when_something_is_found_even_if_others_fail(
    run, photos, weights, monkeypatch
):
    arguments = ("-r", "--weights", weights, "--check")
    assert run("localize", photos / "deep", *arguments).code == Exit.OK
    assert run("localize", photos, *arguments).code == Exit.SOME_FAILED
    monkeypatch.setattr(Rule, "verdict", lambda *_: Verdict.MANIPULATED)
    assert run("localize", photos, *arguments).code == Exit.FOUND


def test_patterns_choose(localize, tmp_path):
    ran = localize("--include", "*.png", "--exclude", "b*")
    assert ran.code == Exit.OK
    assert set(contents(tmp_path / "out")) == {"deep/c.png.json", "deep/c.png.mask.png"}
    assert localize("--include", "*.PNG", out="none").code == Exit.USAGE


def test_files_are_taken_from_a_list(localize, tmp_path, photos, monkeypatch):
    monkeypatch.chdir(photos)
    (tmp_path / "list").write_bytes(b"deep/c.png\0b.png\0")
    ran = localize("--files-from", tmp_path / "list", "-0", source=None)
    assert ran.code == Exit.OK
    assert {"deep/c.png.mask.png", "b.png.mask.png"} < set(contents(tmp_path / "out"))


def test_one_name_never_stops_the_others(localize, tmp_path, photos):
    """One that differs in case only, and one that leaves no room for a suffix."""
    names = ("B.PNG", "x" * 251 + ".png")
    for name in names:
        (photos / name).write_bytes((photos / "b.png").read_bytes())
    assert localize().code == Exit.SOME_FAILED  # bad.jpg
    masks = sorted(p.name for p in (tmp_path / "out").glob("*.mask.png"))
    assert len(masks) == 4
    assert sum("~" in name for name in masks) == 2
    assert localize("--resume").err.count("6 done by an earlier scan") == 1


def test_pictures_that_look_like_outputs_are_analysed_and_the_rest_named(
    localize, tmp_path, photos
):
    for name in ("a.jpg.overlay.png", "SHA256SUMS-holiday.jpg", "imlctl-ledger.jpg", "none"):
        (photos / name).write_bytes((photos / "a.jpg").read_bytes())
    (photos / "notes.txt").write_text("words")
    ran = localize("--jsonl", "--csv", "--manifest")
    assert "left out" in ran.err
    assert "notes.txt: this is a text file" in ran.err
    *records, last = map(json.loads, (tmp_path / "out/records.jsonl").read_text().splitlines())
    assert len(records) == 9
    assert [each["path"].rpartition("/")[2] for each in last["left_out"]] == ["notes.txt"]
    table = (tmp_path / "out/records.csv").read_text("utf-8-sig")
    assert "notes.txt" in table
    assert "# left out: " in (tmp_path / "out/SHA256SUMS").read_text()
    again = localize(source=tmp_path / "out", out="again")
    assert again.code == Exit.USAGE  # nothing but masks of an earlier case
    assert "written by imlctl (mask)" in again.err


def test_an_interrupted_scan_is_called_incomplete(localize, run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        on_call(patch, 2, interrupt)
        ran = localize("--jsonl")
    assert "INCOMPLETE: 2 of 5 pictures were analysed" in ran.err
    assert "INCOMPLETE: 2 of 5" in (tmp_path / "out/records.jsonl").read_text().splitlines()[-1]
    assert run("report", tmp_path / "out", "--jsonl", "--csv").code == Exit.OK
    incomplete = "INCOMPLETE: 2 of 5 pictures were analysed"
    for name in ("report.html", "records.jsonl", "records.csv"):
        assert incomplete in (tmp_path / "out" / name).read_text("utf-8"), name
    assert localize("--resume", "--report").code == Exit.SOME_FAILED
    assert "INCOMPLETE" not in (tmp_path / "out/report.html").read_text("utf-8")


def test_a_failed_picture_has_its_hash_and_size(localize, tmp_path, photos):
    localize("--jsonl")
    lines = (tmp_path / "out/records.jsonl").read_text().splitlines()
    (bad,) = [r for r in map(json.loads, lines) if r["verdict"] == "failed"]
    data = (photos / "bad.jpg").read_bytes()
    assert bad["sha256"] == hashlib.sha256(data).hexdigest()
    assert bad["bytes"] == len(data)


def test_large_pictures_are_refused(localize, tmp_path):
    ran = localize("--max-pixels", "4000")
    assert ran.code == Exit.SOME_FAILED
    assert ran.err.count("more than the limit of 4000 pixels") == 4
    assert contents(tmp_path / "out") == {}


def test_the_limit_is_the_library_s():
    from imlctl.cli.localize import localize as command

    assert command.__defaults__ is not None
    assert DEFAULT_MAX_PIXELS in command.__defaults__


def test_a_single_picture_that_crashes_its_decoder_fails_as_in_a_scan(
    run, weights, photos, monkeypatch
):
    monkeypatch.setattr("imlctl.scan.processes._DECODER", _CRASHING)
    ran = run("localize", photos / "a.jpg", "--jobs", 1, "--weights", weights)
    assert ran.code == Exit.SOME_FAILED
    assert "the process that decoded it crashed" in ran.err


_CRASHING = """
import os, imlctl.scan.processes as worker
worker.read = lambda *_, **__: os.abort()
worker.serve_decoder"""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--tta-fusion", "max"), "--tta-fusion"),
        (("--model", "diffiml", "--weights", "x.safetensors"), "--model"),
        (("--null",), "--null"),
        (("--soft",), "--soft"),
        (("--force",), "--force"),
        (("--steps", "4"), "--steps"),
        (("--seed", "1"), "--seed"),
        (("--all",), "--all"),
        (("--timeout", "inf"), "--timeout"),
    ],
)
def test_options_that_would_be_ignored_are_refused(run, photos, options, named):
    ran = run("localize", photos / "a.jpg", *options)
    assert ran.code == Exit.USAGE
    assert named in ran.err
    assert ran.err.count("\n") == 1


def test_all_writes_everything(localize, tmp_path):
    pytest.importorskip("jinja2")
    assert localize("--all").code == Exit.SOME_FAILED
    names = {path.name for path in (tmp_path / "out").iterdir()}
    kinds = ("mask.png", "overlay.png", "heatmap.png", "json")
    assert {f"a.jpg.{kind}" for kind in kinds} < names
    assert {"records.csv", "report.html", "SHA256SUMS"} < names


def test_a_table_sums_up(localize):
    lines = localize().err.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("imlctl: 5 pictures in "))
    counts = dict(reversed(line.split(maxsplit=2)[1:]) for line in lines[at + 1 :])
    assert sum(map(int, counts.values())) == 5
    assert counts["failed"] == "1"


def test_resume_needs_a_folder(run, weights, photos):
    ran = run("localize", photos, "--resume", "--weights", weights)
    assert ran.code == Exit.USAGE
    assert "--resume" in ran.err


def test_what_damages_a_tiff_is_not_printed_by_its_library(localize, photos):
    whole = (photos / "deep" / "d.tif").read_bytes()
    (photos / "deep" / "e.tif").write_bytes(whole.replace(b"\x01\x01\x03\x00", b"\x01\x01\x09\x00"))
    ran = localize("--jobs", "1")
    assert all(line.startswith("imlctl: ") for line in ran.err.splitlines())


def test_the_standard_input_is_read_once(run):
    ran = run("localize", "-", "--files-from", "-")
    assert ran.code == Exit.USAGE
    assert "cannot be both" in ran.err
