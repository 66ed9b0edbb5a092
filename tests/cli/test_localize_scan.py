"""`imlctl localize` over folders: going on, stopping, dividing, choosing."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import numpy as np
import pytest
from PIL import Image

from imlctl.errors import Exit
from imlctl.image.decode import DEFAULT_MAX_PIXELS
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
            "--json", "--weights", weights, "--workers", "0", *arguments,
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


def test_decoding_ahead_changes_nothing(localize, tmp_path):
    assert localize().code == Exit.SOME_FAILED
    assert localize("--workers", "2", out="ahead").code == Exit.SOME_FAILED
    assert contents(tmp_path / "ahead") == contents(tmp_path / "out")
    assert len(contents(tmp_path / "out")) == 8


def test_going_on_skips_what_is_done(localize, tmp_path, monkeypatch):
    localize()
    before = contents(tmp_path / "out")
    calls = on_call(monkeypatch, 0, None)
    ran = localize("--resume")
    assert calls == []
    assert ran.code == Exit.SOME_FAILED
    assert "4 of these done before" in ran.err
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


@pytest.mark.parametrize(
    ("workers", "number"), [("0", signal.SIGINT), ("1", signal.SIGINT), ("0", signal.SIGTERM)]
)
def test_one_interrupt_finishes_the_picture_in_hand(
    localize, tmp_path, monkeypatch, workers, number
):
    localize(out="whole")
    on_call(monkeypatch, 1, lambda: os.kill(os.getpid(), number))
    ran = localize("--workers", workers)
    assert ran.code == Exit.INTERRUPTED
    assert "once more stops at once" in ran.err
    assert "interrupted after 1 of 5 pictures; the same command with --resume goes on" in ran.err
    assert set(contents(tmp_path / "out")) == {"a.jpg.json", "a.jpg.mask.png"}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ran = localize("--resume", "--workers", workers)
    assert ran.code == Exit.SOME_FAILED
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_two_interrupts_abort_and_leave_nothing_half_done(localize, tmp_path, monkeypatch, workers):
    localize(out="whole")
    on_call(monkeypatch, 2, lambda: (interrupt(), interrupt()))
    ran = localize("--workers", workers)
    assert ran.code == Exit.INTERRUPTED
    assert set(contents(tmp_path / "out")) <= {"a.jpg.json", "a.jpg.mask.png"}
    localize("--resume")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_interrupt_stops_a_single_picture_at_once(run, weights, photos, tmp_path, monkeypatch):
    on_call(monkeypatch, 1, interrupt)
    ran = run("localize", photos / "a.jpg", "-o", tmp_path / "m.png", "--weights", weights)
    assert ran.code == Exit.INTERRUPTED
    assert not (tmp_path / "m.png").exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_full_disk_stops_cleanly_and_the_scan_goes_on_later(
    localize, tmp_path, monkeypatch, workers
):
    localize(out="whole")
    real = os.write
    room = [700]  # bytes; fills up in the middle of an output

    def write(descriptor, data):
        if descriptor > 2:
            if len(data) > room[0]:
                raise OSError(28, "No space left on device")
            room[0] -= len(data)
        return real(descriptor, data)

    with monkeypatch.context() as full:
        full.setattr(os, "write", write)
        ran = localize("--workers", workers)
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
    ran = localize("--shard", "1/2")
    assert ran.code == Exit.USAGE
    assert "divided in another way" in ran.err


def test_check_exits_1_when_something_is_found(localize, run, photos, weights):
    arguments = ("-r", "--weights", weights, "--workers", "0", "--check", "--threshold")
    assert run("localize", photos, *arguments, "0.0001").code == Exit.FOUND
    assert run("localize", photos / "deep", *arguments, "0.9999").code == Exit.OK
    assert run("localize", photos, *arguments, "0.9999").code == Exit.SOME_FAILED


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


def test_names_that_collide_are_refused_before_the_first_picture(localize, tmp_path, photos):
    (photos / "B.PNG").write_bytes((photos / "b.png").read_bytes())
    ran = localize()
    assert ran.code == Exit.USAGE
    assert "B.PNG" in ran.err
    assert not (tmp_path / "out").exists()


def test_large_pictures_are_refused(localize, tmp_path):
    ran = localize("--max-pixels", "4000")
    assert ran.code == Exit.SOME_FAILED
    assert ran.err.count("more than the limit of 4000 pixels") == 4
    assert contents(tmp_path / "out") == {}


def test_the_limit_is_the_library_s():
    from imlctl.cli.localize import localize as command

    assert command.__defaults__ is not None
    assert DEFAULT_MAX_PIXELS in command.__defaults__


def test_one_picture_starts_no_process(run, weights, photos, tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    ran = run("localize", photos / "a.jpg", "-o", tmp_path / "m.png", "--weights", weights)
    assert ran.code == Exit.OK
    folder = run("localize", photos / "a.jpg", "-o", f"{tmp_path}/x/", "--weights", weights)
    assert folder.code == Exit.OK


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
    ran = localize("--workers", "1")
    assert all(line.startswith("imlctl: ") for line in ran.err.splitlines())


def test_the_standard_input_is_read_once(run):
    ran = run("localize", "-", "--files-from", "-")
    assert ran.code == Exit.USAGE
    assert "cannot be both" in ran.err
