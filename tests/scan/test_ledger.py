import dataclasses
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path, PurePath

import pytest

from imlctl.errors import OutputError, UsageError
from imlctl.report.preview import Preview
from imlctl.scan.find import LeftOut, Picture
from imlctl.scan.folder import open_case
from imlctl.scan.ledger import Key, Ledger, ledger_path, ledgers
from imlctl.scan.messages import Finished
from imlctl.scan.naming import Job, Kind, Shard

LEDGER = Path("out/imlctl-ledger.sqlite")


def rows(folder, **how):
    with open_case(folder) as case:
        yield from case.rows(**how)


@pytest.fixture
def run(run_scan):
    def call(jobs, analysis, *, resume=False, **options):
        with Ledger(LEDGER) as ledger:
            ledger.begin(jobs)
            outcomes = run_scan(jobs, analysis, ledger=ledger, resume=resume, **options)
            return [outcome.resumed for outcome in outcomes]

    return call


def test_what_is_done_is_skipped(run, jobs, analysis):
    assert run(jobs, analysis) == [False] * 3
    assert run(jobs, analysis, resume=True) == [True] * 3
    assert analysis.seen == ["a.png", "b.png", "c.png"]


def test_an_outcome_that_is_skipped_has_its_record(run, run_scan, jobs, analysis):
    run(jobs, analysis)
    with Ledger(LEDGER) as ledger:
        outcomes = list(run_scan(jobs, analysis, ledger=ledger, resume=True))
    for outcome in outcomes:
        digest = hashlib.sha256(outcome.job.picture.path.read_bytes()).hexdigest()
        assert outcome.record == analysis.record(digest)


def test_another_content_under_the_same_name_is_analysed(run, jobs, analysis, picture):
    run(jobs, analysis)
    Path("b.png").write_bytes(picture(99))
    assert run(jobs, analysis, resume=True) == [True, False, True]
    assert run(jobs, analysis, resume=True) == [True] * 3


@pytest.mark.parametrize("change", ["missing", "altered"])
def test_an_output_that_is_not_what_was_written_is_made_again(run, jobs, analysis, change):
    run(jobs, analysis)
    mask = Path("out/b.png.mask.png")
    whole = mask.read_bytes()
    mask.unlink() if change == "missing" else mask.write_bytes(b"painted over")
    assert run(jobs, analysis, resume=True) == [True, False, True]
    assert mask.read_bytes() == whole


@pytest.mark.parametrize("changed", ["weights", "settings"])
def test_other_weights_or_settings_do_everything_again(
    run, jobs, analysis, fake_analysis, options, changed
):
    run(jobs, analysis)
    if changed == "weights":
        assert run(jobs, fake_analysis("1" * 64), resume=True) == [False] * 3
    else:
        soft = dataclasses.replace(options, soft=True)
        assert run(jobs, analysis, resume=True, options=soft) == [False] * 3
    # A row stands for the outputs as they are.
    assert run(jobs, analysis, resume=True) == [False] * 3


def test_another_set_of_outputs_does_everything_again(run, jobs, analysis):
    run(jobs, analysis)
    fewer = [Job(job.picture, {Kind.MASK: job.outputs[Kind.MASK]}) for job in jobs]
    mask = lambda d: Finished({Kind.MASK: b"mask"}, analysis.record(d.photo.sha256))  # noqa: E731
    analysis.finish = mask
    assert run(fewer, analysis, resume=True) == [False] * 3


def test_failures_are_noted_and_tried_again(run, jobs, analysis, picture):
    whole = Path("b.png").read_bytes()
    Path("b.png").write_bytes(whole[:-9])
    run(jobs, analysis)
    assert run(jobs, analysis, resume=True) == [True, False, True]
    verdicts = [row.record["verdict"] for row in rows(Path("out"))]
    assert verdicts == ["nothing found", "failed", "nothing found"]
    Path("b.png").write_bytes(whole)
    assert run(jobs, analysis, resume=True) == [True, False, True]
    assert [row.record["verdict"] for row in rows(Path("out"))] == ["nothing found"] * 3


def test_rows_tell_inputs_outputs_and_records(run, jobs, analysis, tmp_path):
    run(jobs, analysis)
    first, *_ = rows(Path("out"))
    assert first.path == (tmp_path / "a.png").resolve()
    assert set(first.outputs) == {Path("out/a.png.mask.png"), Path("out/a.png.json")}
    assert first.record["sha256"] == first.sha256


def test_a_preview_outlives_scans_that_keep_none_of_the_same_result(
    run, jobs, analysis, fake_analysis, picture
):
    def previews():
        return [row.preview is not None for row in rows(Path("out"))]

    analysis.preview = Preview(b"photo", b"soft", (0.5,) * 101)
    run(jobs, analysis)
    assert previews() == [True] * 3
    analysis.preview = None
    Path("out/a.png.mask.png").unlink()  # is analysed again
    Path("b.png").write_bytes(picture(99))  # likewise, and is another picture now
    whole = Path("c.png").read_bytes()
    assert run(jobs, analysis, resume=True) == [False, False, True]
    assert previews() == [True, False, True]
    Path("c.png").write_bytes(whole[:-9])
    run(jobs, analysis, resume=True)
    assert previews() == [True, False, False]
    run(jobs, fake_analysis("1" * 64), resume=True)
    assert previews() == [False] * 3
    assert [row.preview for row in rows(Path("out"), previews=False)] == [None] * 3


def test_rows_can_be_had_without_their_previews(run, jobs, analysis):
    analysis.preview = Preview(b"photo", b"soft", (0.5,) * 101)
    run(jobs, analysis)
    with_them, without = (list(rows(Path("out"), previews=p)) for p in (True, False))
    assert [row.preview for row in without] == [None] * 3
    assert [dataclasses.replace(row, preview=None) for row in with_them] == without


def test_many_rows_are_read_in_pages_and_in_order(tmp_path):
    names = [f"{n:05}.png" for n in range(1203)]
    with Ledger(tmp_path / "imlctl-ledger.sqlite") as ledger:
        for name in reversed(names):
            record = {"verdict": "nothing found", "sha256": "0"}
            ledger.add(Job(Picture(Path(name), PurePath(name)), {}), Key("", ""), record, {})
        assert [row.path.name for row in ledger.rows()] == names


@pytest.mark.parametrize("name", [b"\xff\xfe.png", b"new\nline.png", b"it's;--.png"])
def test_odd_names_are_kept_exactly(run, tmp_path, monkeypatch, analysis, picture, planned, name):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("in", os.fsdecode(name)).write_bytes(picture())
    jobs = planned()
    run(jobs, analysis)
    assert run(jobs, analysis, resume=True) == [True]
    (row,) = rows(Path("out"))
    assert os.fsencode(row.path.name) == name
    assert all(path.exists() for path in row.outputs)


def test_what_was_planned_is_remembered(run, jobs, analysis):
    with Ledger(LEDGER) as ledger:
        ledger.begin(jobs)
    with Ledger(LEDGER) as ledger:
        assert ledger.planned() == {p for job in jobs for p in job.outputs.values()}


def test_leftovers_of_a_killed_scan_are_cleared_and_others_kept(jobs):
    with Ledger(LEDGER) as ledger:
        ours, theirs = (Path(f"out/.imlctl-{tag}-0123.tmp") for tag in (ledger.tag, "feed"))
        for path in (ours, theirs):
            path.write_bytes(b"half a ma")
        ledger.begin(jobs)
    assert not ours.exists()
    assert theirs.exists()


def test_two_scans_on_one_output_refuse(jobs):
    with (
        Ledger(LEDGER),
        pytest.raises(OutputError, match=r"out: another scan is writing to this folder\. Wait"),
    ):
        Ledger(LEDGER)
    with Ledger(LEDGER):
        pass


def test_a_scan_in_another_process_is_seen_and_its_death_too(jobs, child_environment):
    script = (
        "import sys; from pathlib import Path; from imlctl.scan.ledger import Ledger\n"
        f"ledger = Ledger(Path({str(LEDGER)!r})); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment,
    ) as child:
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(OutputError, match="another scan"):
            Ledger(LEDGER)
        child.kill()
    with Ledger(LEDGER):
        pass


def test_a_full_disk_is_said_and_the_row_is_missing(run, run_scan, jobs, analysis):
    with Ledger(LEDGER) as ledger:
        ledger.begin(jobs)
        (pages,) = ledger._database.execute("PRAGMA page_count").fetchone()
        ledger._database.execute(f"PRAGMA max_page_count = {pages}")
        analysis.record = lambda result: {
            "verdict": "nothing found", "sha256": result, "regions": "x" * 20_000
        }  # fmt: skip
        with pytest.raises(OutputError, match=r"No space left.*Free some space"):
            list(run_scan(jobs, analysis, ledger=ledger))
    del analysis.record
    assert run(jobs, analysis, resume=True) == [False] * 3


def test_a_damaged_ledger_is_said(tmp_path):
    path = tmp_path / "imlctl-ledger.sqlite"
    path.write_bytes(b"This is not a database, and it is long enough to be seen as such. " * 20)
    with pytest.raises(OutputError, match="damaged"):
        Ledger(path)


def test_an_emptied_ledger_is_no_case_without_pictures(tmp_path):
    path = ledger_path(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(OutputError, match="empty"):
        Ledger(path, read_only=True)
    with Ledger(path):  # a scan that was killed at once may begin anew
        pass
    with Ledger(path, read_only=True):
        pass


def test_parts_of_a_scan_that_are_elsewhere_make_it_incomplete(tmp_path):
    for index in (1, 3, 2):
        with Ledger(ledger_path(tmp_path, Shard(index, 3))):
            pass
        with open_case(tmp_path) as case:
            said = case.coverage().incomplete
        expected = f"INCOMPLETE: {len(ledgers(tmp_path))} of 3 parts of the scan are here"
        assert said == ("" if index == 2 else expected)


def test_a_ledger_of_another_format_is_said(tmp_path):
    path = tmp_path / "imlctl-ledger.sqlite"
    with Ledger(path):
        pass
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(OutputError, match="format 9"):
        Ledger(path)


def test_a_ledger_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        Ledger(tmp_path / "file" / "imlctl-ledger.sqlite")


def test_each_shard_has_its_ledger_and_divisions_do_not_mix(tmp_path):
    assert ledger_path(tmp_path).name == "imlctl-ledger.sqlite"
    for index in (1, 2):
        path = ledger_path(tmp_path, Shard(index, 2))
        assert path.name == f"imlctl-ledger-{index}-of-2.sqlite"
        with Ledger(path):
            pass
    for other in (None, Shard(1, 3)):
        with pytest.raises(UsageError, match="different --shard"):
            ledger_path(tmp_path, other)
    assert len(ledgers(tmp_path)) == 2
    with pytest.raises(OutputError, match="no ledger"):
        list(rows(tmp_path / "elsewhere"))


def test_the_ledger_is_one_plain_file_when_closed(run, jobs, analysis):
    run(jobs, analysis)
    assert [p.name for p in Path("out").iterdir() if "ledger" in p.name] == [LEDGER.name]
    with sqlite3.connect(LEDGER) as database:
        (text,) = database.execute("SELECT record FROM done LIMIT 1").fetchone()
    database.close()
    assert json.loads(text)["verdict"] == "nothing found"


def test_what_was_planned_and_left_out_is_known_after_an_interruption(
    run, run_scan, jobs, analysis
):
    left = [LeftOut(Path("notes.txt"), "a text")]
    with Ledger(LEDGER) as ledger:
        ledger.begin(jobs, left, ["imlctl", "localize", "it's"])
        next(run_scan(jobs, analysis, ledger=ledger))
        coverage = ledger.coverage()
    assert (coverage.planned, coverage.done) == (3, 1)
    assert [path.name for path in coverage.pending] == ["b.png", "c.png"]
    assert coverage.incomplete == "INCOMPLETE: 1 of 3 pictures were analysed"
    assert coverage.left_out == tuple(left)
    assert coverage.runs[0].command == """imlctl localize 'it'"'"'s'"""
    assert coverage.runs[0].ended is None
    run(jobs, analysis, resume=True)
    with Ledger(LEDGER) as ledger:
        ledger.end()
        coverage = ledger.coverage()
    assert not coverage.incomplete
    assert [run.ended is None for run in coverage.runs] == [True, False]


def test_a_copied_ledger_is_none(run, jobs, analysis):
    run(jobs, analysis)
    for name in (
        "imlctl-ledger (copy).sqlite",
        "imlctl-ledger-old.sqlite",
        "x-imlctl-ledger.sqlite",
    ):
        LEDGER.with_name(name).write_bytes(LEDGER.read_bytes())
    assert ledgers(Path("out")) == [LEDGER]
    assert ledger_path(Path("out")) == LEDGER


def test_a_folder_that_may_not_be_written_to_can_be_read(run, jobs, analysis, monkeypatch):
    run(jobs, analysis)
    monkeypatch.setattr(os, "access", lambda *_: False)
    before = sorted(Path("out").iterdir())
    assert len(list(rows(Path("out")))) == 3
    assert sorted(Path("out").iterdir()) == before
    LEDGER.with_name(f"{LEDGER.name}-wal").write_bytes(b"")
    with pytest.raises(OutputError, match="killed scan"):
        list(rows(Path("out")))
