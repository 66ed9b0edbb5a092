"""Reports of a scan, with it and after it."""

from __future__ import annotations

import csv
import json

import pytest

from imlctl.errors import Exit
from imlctl.report.jsonl import read_jsonl


@pytest.fixture
def scanned(run, photos, tmp_path):
    out = tmp_path / "out"
    options = ("--report", "--jsonl", "--csv", "--manifest")
    ran = run("localize", photos, "-r", "-o", out, *options)
    assert ran.code == Exit.OK, ran.err
    return out


def test_a_scan_writes_what_it_is_asked_for(scanned, photos):
    pictures = sorted(p.name for p in photos.rglob("*.*"))
    records = list(read_jsonl(scanned / "records.jsonl"))
    assert sorted(r["path"].rpartition("/")[2] for r in records) == pictures
    with (scanned / "records.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 1 + len(pictures)
    page = (scanned / "report.html").read_text("utf-8")
    assert all(name in page for name in pictures)
    assert page.count("data:image/jpeg;base64") + page.count("/9j/") >= len(pictures)
    listed = (scanned / "SHA256SUMS").read_text()
    assert all(f"  {name}\n" in listed for name in ("report.html", "records.jsonl", "records.csv"))


def test_report_rebuilds_the_page(run, scanned):
    before = (scanned / "report.html").read_text("utf-8")
    (scanned / "report.html").unlink()
    ran = run("report", scanned, "--title", "Case 7")
    assert ran.code == Exit.OK
    assert "report.html" in ran.err
    after = (scanned / "report.html").read_text("utf-8")
    assert "Case 7" in after
    assert abs(len(after) - len(before)) < 200


def test_the_same_ledger_makes_the_same_page_and_verify_knows_what_report_wrote(run, scanned):
    before = (scanned / "report.html").read_bytes()
    manifest = (scanned / "SHA256SUMS").read_bytes()
    assert run("report", scanned, "--jsonl", "--csv").code == Exit.OK
    pages = [(scanned / "report.html").read_bytes()]
    assert run("report", scanned).code == Exit.OK
    pages.append((scanned / "report.html").read_bytes())
    assert pages[0] == pages[1]
    ran = run("verify", scanned)
    assert ran.code == Exit.OK, ran.err
    if pages[0] != before:
        assert "report.html: written again by imlctl report" in ran.err
        assert (scanned / "SHA256SUMS.1").read_bytes() == manifest
    (scanned / "report.html").write_bytes(before + b" ")
    ran = run("verify", scanned)
    assert ran.code == Exit.SOME_FAILED
    assert "report.html: changed" in ran.err


def test_a_later_scan_takes_reports_for_no_pictures_and_no_obstacle(run, scanned, photos):
    ran = run("localize", photos, "-r", "-o", scanned, "--resume", "--jsonl")
    assert ran.code == Exit.OK, ran.err
    assert len(list(read_jsonl(scanned / "records.jsonl"))) == len(list(photos.rglob("*.*")))


def previews(out):
    """How many pictures of the page have a photograph, and how many a soft map."""
    page = (out / "report.html").read_text("utf-8")
    return tuple(page.count(f'<script type="text/plain" id="{kind}') for kind in "pm")


def test_without_previews_the_records_are_there_and_it_is_said_once(run, photos, tmp_path):
    out = tmp_path / "plain"
    assert run("localize", photos, "-r", "-o", out).code == Exit.OK
    ran = run("report", out)
    assert ran.code == Exit.OK
    assert previews(out) == (0, 0)
    assert ran.err.count("2 pictures analysed without --report") == 1
    assert "--report --force" in ran.err
    assert "without --report" not in run("report", out, "--quiet").err
    ran = run("localize", photos, "-r", "-o", out, "--resume", "--report")
    assert "2 pictures analysed without --report" in ran.err
    ran = run("localize", photos, "-r", "-o", out, "--force", "--report")
    assert "without --report" not in ran.err
    assert previews(out) == (2, 2)


def test_a_resumed_scan_shows_what_the_earlier_one_analysed_too(run, photos, tmp_path, monkeypatch):
    from imlctl.pipeline import Localizer

    out, real = tmp_path / "out", Localizer.localize

    def killed(self, source, **options):
        if source.source.endswith("b.png"):
            raise KeyboardInterrupt
        return real(self, source, **options)

    arguments = ("localize", photos, "-r", "-o", out, "--report")
    with monkeypatch.context() as patch:
        patch.setattr(Localizer, "localize", killed)
        assert run(*arguments).code == Exit.INTERRUPTED
    assert not (out / "report.html").exists()
    ran = run(*arguments, "--resume")
    assert ran.code == Exit.OK
    assert "1 done by an earlier scan" in ran.err
    assert "without --report" not in ran.err
    assert previews(out) == (2, 2)
    (out / "report.html").unlink()
    assert run(*arguments, "--resume").code == Exit.OK  # and once more, with nothing left to do
    assert previews(out) == (2, 2)


def test_one_picture_without_a_preview_is_said_as_one(run, photos, tmp_path):
    out = tmp_path / "out"
    assert run("localize", photos / "a.jpg", "-o", f"{out}/").code == Exit.OK
    assert "1 picture analysed without --report" in run("report", out).err


def test_parts_of_a_scan_have_reports_of_their_own(run, photos, tmp_path):
    out = tmp_path / "out"
    for part in ("1/2", "2/2"):
        options = ("--jsonl", "--csv", "--report", "--shard", part)
        assert run("localize", photos, "-r", "-o", out, *options).code == Exit.OK
    parts = [list(read_jsonl(out / f"records-{n}-of-2.jsonl")) for n in (1, 2)]
    assert (out / "report-1-of-2.html").exists()
    assert (out / "records-2-of-2.csv").exists()
    assert run("report", out, "--jsonl").code == Exit.OK
    whole = list(read_jsonl(out / "records.jsonl"))
    assert len(whole) == 2
    assert sorted(r["path"] for r in parts[0] + parts[1]) == sorted(r["path"] for r in whole)


def test_reports_need_a_folder(run, photos, tmp_path):
    picture = photos / "a.jpg"
    ran = run("localize", picture, "-o", tmp_path / "mask.png", "--report")
    assert ran.code == Exit.USAGE
    assert "--report" in ran.err


def test_a_folder_without_a_scan(run, tmp_path):
    ran = run("report", tmp_path)
    assert ran.code == Exit.USAGE
    assert "no ledger" in ran.err


def test_records_say_how_often_the_verdict_errs(run, photos):
    picture = photos / "a.jpg"
    record = json.loads(run("localize", picture, "--json").out)
    assert record["rates"] is None or record["rates"]["forgeries"]["of"] > 0
