"""Reports of a scan, with it and after it."""

from __future__ import annotations

import csv
import json

import pytest

from imlctl.errors import Exit
from imlctl.report.jsonl import read_jsonl

pytest.importorskip("jinja2")


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


def test_a_later_scan_takes_reports_for_no_pictures_and_no_obstacle(run, scanned, photos):
    ran = run("localize", photos, "-r", "-o", scanned, "--resume", "--jsonl")
    assert ran.code == Exit.OK, ran.err
    assert len(list(read_jsonl(scanned / "records.jsonl"))) == len(list(photos.rglob("*.*")))


def test_without_previews_the_records_are_there(run, photos, tmp_path):
    out = tmp_path / "plain"
    assert run("localize", photos, "-r", "-o", out).code == Exit.OK
    assert run("report", out).code == Exit.OK
    assert "/9j/" not in (out / "report.html").read_text("utf-8")


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
    assert record["false_positive_rate"] is None or 0 < record["false_positive_rate"] < 1
