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
from imlctl.scan.discover import Picture
from imlctl.scan.ledger import Key, Ledger, ledger_path, ledgers, rows
from imlctl.scan.naming import Job, Kind
from imlctl.scan.run import scan
from imlctl.scan.shard import Shard

LEDGER = Path("out/imlctl-ledger.sqlite")


def run(jobs, work, *, resume=False):
    with Ledger(LEDGER) as ledger:
        ledger.begin(jobs)
        return [o.resumed for o in scan(jobs, work, ledger=ledger, resume=resume)]


def test_what_is_done_is_skipped(jobs, work):
    assert run(jobs, work) == [False] * 3
    assert run(jobs, work, resume=True) == [True] * 3
    assert work.seen == ["a.png", "b.png", "c.png"]


def test_an_outcome_that_is_skipped_has_its_record(jobs, work):
    run(jobs, work)
    with Ledger(LEDGER) as ledger:
        outcomes = list(scan(jobs, work, ledger=ledger, resume=True))
    for outcome in outcomes:
        digest = hashlib.sha256(outcome.job.picture.path.read_bytes()).hexdigest()
        assert outcome.record == work.record(digest)


def test_another_content_under_the_same_name_is_analysed(jobs, work, picture):
    run(jobs, work)
    Path("b.png").write_bytes(picture(99))
    assert run(jobs, work, resume=True) == [True, False, True]
    assert run(jobs, work, resume=True) == [True] * 3


@pytest.mark.parametrize("change", ["missing", "altered"])
def test_an_output_that_is_not_what_was_written_is_made_again(jobs, work, change):
    run(jobs, work)
    mask = Path("out/b.png.mask.png")
    whole = mask.read_bytes()
    mask.unlink() if change == "missing" else mask.write_bytes(b"painted over")
    assert run(jobs, work, resume=True) == [True, False, True]
    assert mask.read_bytes() == whole


@pytest.mark.parametrize("key", [Key("others", "settings"), Key("weights", "others")])
def test_other_weights_or_settings_do_everything_again(jobs, work, fake_work, key):
    run(jobs, work)
    assert run(jobs, fake_work(key), resume=True) == [False] * 3
    assert run(jobs, work, resume=True) == [False] * 3  # a row stands for the outputs as they are


def test_another_set_of_outputs_does_everything_again(jobs, work):
    run(jobs, work)
    fewer = [Job(job.picture, {Kind.MASK: job.outputs[Kind.MASK]}) for job in jobs]
    assert run(fewer, work, resume=True) == [False] * 3


def test_failures_are_noted_and_tried_again(jobs, work, picture):
    whole = Path("b.png").read_bytes()
    Path("b.png").write_bytes(whole[:-9])
    run(jobs, work)
    assert run(jobs, work, resume=True) == [True, False, True]
    verdicts = [row.record["verdict"] for row in rows(Path("out"))]
    assert verdicts == ["nothing found", "failed", "nothing found"]
    Path("b.png").write_bytes(whole)
    assert run(jobs, work, resume=True) == [True, False, True]
    assert [row.record["verdict"] for row in rows(Path("out"))] == ["nothing found"] * 3


def test_rows_tell_inputs_outputs_and_records(jobs, work, tmp_path):
    run(jobs, work)
    first, *_ = rows(Path("out"))
    assert first.path == (tmp_path / "a.png").resolve()
    assert set(first.outputs) == {Path("out/a.png.mask.png"), Path("out/a.png.json")}
    assert first.record["sha256"] == first.sha256


def test_a_preview_outlives_scans_that_keep_none_of_the_same_result(jobs, work, fake_work, picture):
    def previews():
        return [row.preview is not None for row in rows(Path("out"))]

    work.preview = lambda _: Preview(b"photo", b"soft", (0.5,) * 101)
    run(jobs, work)
    assert previews() == [True] * 3
    del work.preview
    Path("out/a.png.mask.png").unlink()  # is analysed again
    Path("b.png").write_bytes(picture(99))  # likewise, and is another picture now
    whole = Path("c.png").read_bytes()
    assert run(jobs, work, resume=True) == [False, False, True]
    assert previews() == [True, False, True]
    Path("c.png").write_bytes(whole[:-9])
    run(jobs, work, resume=True)
    assert previews() == [True, False, False]
    run(jobs, fake_work(Key("others", "settings")), resume=True)
    assert previews() == [False] * 3
    assert [row.preview for row in rows(Path("out"), previews=False)] == [None] * 3


def test_rows_can_be_had_without_their_previews(jobs, work):
    work.preview = lambda _: Preview(b"photo", b"soft", (0.5,) * 101)
    run(jobs, work)
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
def test_odd_names_are_kept_exactly(tmp_path, monkeypatch, work, picture, planned, name):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("in", os.fsdecode(name)).write_bytes(picture())
    jobs = planned()
    run(jobs, work)
    assert run(jobs, work, resume=True) == [True]
    (row,) = rows(Path("out"))
    assert os.fsencode(row.path.name) == name
    assert all(path.exists() for path in row.outputs)


def test_what_was_planned_is_remembered(jobs, work):
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
    Ledger(LEDGER).close()


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
    Ledger(LEDGER).close()


def test_a_full_disk_is_said_and_the_row_is_missing(jobs, work):
    with Ledger(LEDGER) as ledger:
        ledger.begin(jobs)
        (pages,) = ledger._database.execute("PRAGMA page_count").fetchone()
        ledger._database.execute(f"PRAGMA max_page_count = {pages}")
        work.record = lambda result: {
            "verdict": "nothing found", "sha256": result, "regions": "x" * 20_000
        }  # fmt: skip
        with pytest.raises(OutputError, match=r"No space left.*Free some space"):
            list(scan(jobs, work, ledger=ledger))
    del work.record
    assert run(jobs, work, resume=True) == [False] * 3


def test_a_damaged_ledger_is_said(tmp_path):
    path = tmp_path / "imlctl-ledger.sqlite"
    path.write_bytes(b"This is not a database, and it is long enough to be seen as such. " * 20)
    with pytest.raises(OutputError, match="damaged"):
        Ledger(path)


def test_a_ledger_of_another_format_is_said(tmp_path):
    path = tmp_path / "imlctl-ledger.sqlite"
    Ledger(path).close()
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
        Ledger(path).close()
    for other in (None, Shard(1, 3)):
        with pytest.raises(UsageError, match="divided in another way"):
            ledger_path(tmp_path, other)
    assert len(ledgers(tmp_path)) == 2
    with pytest.raises(OutputError, match="no ledger"):
        list(rows(tmp_path / "elsewhere"))


def test_the_ledger_is_one_plain_file_when_closed(jobs, work):
    run(jobs, work)
    assert [p.name for p in Path("out").iterdir() if "ledger" in p.name] == [LEDGER.name]
    with sqlite3.connect(LEDGER) as database:
        (text,) = database.execute("SELECT record FROM done LIMIT 1").fetchone()
    database.close()
    assert json.loads(text)["verdict"] == "nothing found"
