"""Reports of a scan, with it and after it."""

from __future__ import annotations

import csv
import json
import re
import shutil

import pytest

from imlctl.errors import Exit
from imlctl.report.html import BROWSERS


def read_jsonl(path):
    return map(json.loads, path.read_text("utf-8").splitlines())


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
    assert pages[0] == pages[1] == before
    assert run("report", scanned, "--title", "Another").code == Exit.OK
    ran = run("verify", scanned)
    assert ran.code == Exit.OK, ran.err
    assert "report.html: written again by imlctl report" in ran.err
    assert (scanned / "SHA256SUMS.1").read_bytes() == manifest
    (scanned / "report.html").write_bytes(before + b" ")
    ran = run("verify", scanned)
    assert ran.code == Exit.SOME_FAILED
    assert "report.html: changed" in ran.err


def test_the_head_of_the_page_says_whose_case_it_is(run, scanned):
    told = ("--case", "2026-<7>", "--examiner", "A. & B.", "--notes", "sealed\nand signed")
    assert run("report", scanned, *told).code == Exit.OK
    page = (scanned / "report.html").read_text("utf-8")
    for text in (
        "2026-&lt;7&gt;",
        "A. &amp; B.",
        "sealed\nand signed",
        "Image manipulation report",
    ):
        assert page.count(text) >= 2  # on screen and on the cover
    assert "localize " in page  # the command line
    assert re.search(r"analysed \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC to ", page)
    assert "INCOMPLETE" not in page


def test_a_scan_that_was_stopped_says_so_in_the_head_and_on_paper(
    run, photos, tmp_path, monkeypatch
):
    from imlctl.pipeline import Localizer

    out, real = tmp_path / "out", Localizer.localize

    def killed(self, source, **options):
        if source.source.endswith("b.png"):
            raise KeyboardInterrupt
        return real(self, source, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Localizer, "localize", killed)
        assert run("localize", photos, "-r", "-o", out, "--report").code == Exit.INTERRUPTED
    assert run("report", out).code == Exit.OK
    page = (out / "report.html").read_text("utf-8")
    cover, _, screen = page.partition('<header class="masthead">')
    for part in (cover, screen):
        assert "INCOMPLETE: 1 of 2 pictures were analysed" in part
        assert "b.png" in part
    assert "to an interruption" in cover


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="there is no Chromium")
def test_the_report_is_printed(run, scanned):
    ran = run("report", scanned, "--pdf", "--title", "Case 7")
    assert ran.code == Exit.OK, ran.err
    pdf = (scanned / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 3  # the cover, and each picture on its own
    assert not list(scanned.glob("*paper*"))
    assert run("verify", scanned).code == Exit.OK


def test_a_report_can_be_written_elsewhere_and_leaves_the_case_as_it_is(run, scanned, tmp_path):
    before = {path.name: path.read_bytes() for path in scanned.iterdir() if path.is_file()}
    out = tmp_path / "else" / "where"
    ran = run("report", scanned, "-o", out, "--csv", "--title", "Case 7")
    assert ran.code == Exit.OK, ran.err
    assert sorted(path.name for path in out.iterdir()) == ["records.csv", "report.html"]
    after = {path.name: path.read_bytes() for path in scanned.iterdir() if path.is_file()}
    assert after == before


def test_without_a_browser_it_says_how_to_print(run, scanned, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    ran = run("report", scanned, "--pdf")
    assert ran.code == Exit.USAGE
    assert "open report.html in any browser and choose Print" in ran.err
    assert not (scanned / "report.pdf").exists()


def test_views_are_files_and_a_part_of_the_page(run, photos, tmp_path):
    out = tmp_path / "out"
    ran = run("localize", photos / "a.jpg", "-o", f"{out}/", "--views", "--report")
    assert ran.code == Exit.OK, ran.err
    assert (out / "a.jpg.views.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text("utf-8")
    assert page.count('<script type="text/plain" id="v0-') == 5  # and where the map can be believed


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
