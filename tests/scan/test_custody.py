import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from imlctl.atomic import sha256_of
from imlctl.errors import OutputError
from imlctl.scan.custody import (
    add_reports,
    all_match,
    check,
    manifest_path,
    manifests,
    write_checksums,
)
from imlctl.scan.ledger import Row
from imlctl.scan.naming import Shard

ODD = [
    b"a.jpg",
    b"new\nline.jpg",
    b"back\\slash\\n.jpg",
    b"\xff\xfe.jpg",
    b" # space.jpg",
    b"\r.jpg",
]


@pytest.fixture
def case(tmp_path):
    """Inputs with odd names, their outputs in another folder, and a manifest of both."""
    rows = []
    for name in map(os.fsdecode, ODD):
        source, mask = tmp_path / "in" / name, tmp_path / "out" / "deep" / f"{name}.mask.png"
        for path in (source, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.fsencode(path.name))
        rows.append(Row(source, sha256_of(source), {mask: sha256_of(mask)}, {}))
    return tmp_path / "out", rows


def write(case, **options):
    folder, rows = case
    return write_checksums(manifest_path(folder), rows, ["imlctl", "localize", "it's"], **options)


def problems(folder):
    return {f.path.name: f.problem for f in check(manifest_path(folder)) if f.problem}


def test_everything_is_listed_and_unchanged(case):
    assert write(case) == []
    findings = list(check(manifest_path(case[0])))
    assert len(findings) == 2 * len(ODD)
    assert {f.problem for f in findings} == {""}
    head = manifest_path(case[0]).read_text(errors="replace").splitlines()[:3]
    assert head[0].startswith("# imlctl ")
    assert head[1] == """# command: imlctl localize 'it'"'"'s'"""


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum on this system")
def test_sha256sum_agrees(case):
    write(case)
    ran = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=case[0], capture_output=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count(b": OK\n") == 2 * len(ODD)


def test_inputs_and_outputs_can_be_moved_together(case, tmp_path):
    write(case)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("in", "out"):
        (tmp_path / name).rename(moved / name)
    assert problems(moved / "out") == {}


@pytest.mark.parametrize("where", ["in/a.jpg", "out/deep/a.jpg.mask.png"])
def test_what_changes_or_vanishes_is_found(case, tmp_path, where):
    write(case)
    path = tmp_path / where
    path.write_bytes(path.read_bytes() + b"!")
    assert problems(case[0]) == {path.name: "changed"}
    path.unlink()
    assert problems(case[0]) == {path.name: "missing"}
    path.mkdir()
    assert list(problems(case[0])) == [path.name]


def test_an_input_that_changed_since_it_was_analysed_is_said_at_once(case, tmp_path):
    before = sha256_of(tmp_path / "in/a.jpg")
    (tmp_path / "in/a.jpg").write_bytes(b"another picture")
    (finding,) = write(case)
    assert finding.path == tmp_path / "in/a.jpg"
    assert "changed since it was analysed" in finding.problem
    text = manifest_path(case[0]).read_bytes()
    assert f"{before}  ../in/a.jpg".encode() in text  # what the mask is of
    assert problems(case[0]) == {"a.jpg": "changed"}


def test_an_input_that_vanished_is_said_at_once(case, tmp_path):
    (tmp_path / "in/a.jpg").unlink()
    (finding,) = write(case)
    assert "missing since it was analysed" in finding.problem
    assert problems(case[0]) == {"a.jpg": "missing"}


def test_an_input_that_could_not_be_decoded_is_listed_too(case, tmp_path):
    folder, rows = case
    (tmp_path / "in/bad.jpg").write_bytes(b"bad")
    rows.append(Row(tmp_path / "in/bad.jpg", None, {}, {}))
    rows.append(Row(None, "0" * 64, {}, {}))  # the standard input
    assert write(case) == []
    assert "bad.jpg" in {f.path.name for f in check(manifest_path(folder))}


def test_more_files_can_be_listed(case):
    report = case[0] / "report.html"
    report.write_text("<html>")
    write(case, also=[report])
    report.write_text("<HTML>")
    assert problems(case[0]) == {"report.html": "changed"}
    with pytest.raises(OutputError):
        write(case, also=[case[0] / "missing"])


@pytest.mark.parametrize("line", [b"and one more thing", b"0" * 64 + b"  nul\0.jpg"])
def test_a_line_that_is_none_is_said(case, line):
    write(case)
    with manifest_path(case[0]).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(OutputError, match="line 16 is not a hash"):
        list(check(manifest_path(case[0])))


def test_an_emptied_manifest_is_said_and_one_saved_by_windows_is_read(case):
    write(case)
    path = manifest_path(case[0])
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(list(check(path))) == 2 * len(ODD)
    assert not problems(case[0])
    path.write_bytes(b"")
    with pytest.raises(OutputError, match="empty"):
        list(check(path))


def test_each_part_has_its_manifest(tmp_path):
    with pytest.raises(OutputError, match="--manifest"):
        manifests(tmp_path)
    paths = [manifest_path(tmp_path), manifest_path(tmp_path, Shard(1, 2))]
    for path in paths:
        path.write_text("")
    assert manifests(tmp_path) == paths
    assert [path.name for path in paths] == ["SHA256SUMS", "SHA256SUMS.1-of-2"]
    assert sha256_of(paths[0]).startswith("e3b0c442")


def test_an_output_folder_behind_a_link(case, tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    link = tmp_path / "far" / "away" / "out"
    link.symlink_to(case[0])
    rows = [
        Row(
            row.path,
            row.sha256,
            {link / p.relative_to(case[0]): h for p, h in row.outputs.items()},
            {},
        )
        for row in case[1]
    ]
    write_checksums(manifest_path(link), rows, ["imlctl"])
    assert {f.problem for f in check(manifest_path(Path(link)))} == {""}


def test_only_the_exact_names_are_manifests(case):
    write(case)
    for suffix in (".asc", ".sig", ".tsr", ".sha256", ".1", " (copy)", "-x.jpg"):
        (case[0] / f"SHA256SUMS{suffix}").write_bytes(b"-----BEGIN PGP SIGNATURE-----")
    assert manifests(case[0]) == [manifest_path(case[0])]


def test_reports_written_later_are_added_and_the_previous_manifest_kept(case):
    folder, _ = case
    report = folder / "report.html"
    report.write_text("<html>")
    write(case, also=[report])
    before = manifest_path(folder).read_bytes()
    assert add_reports(folder, [report], ["imlctl"]) is None  # the same as it is listed
    assert manifest_path(folder).read_bytes() == before
    report.write_text("<html lang=en>")
    assert problems(folder) == {"report.html": "changed"}
    table = folder / "records.csv"
    table.write_text("path")
    kept = add_reports(folder, [report, table], ["imlctl", "report", "it's"])
    assert kept == folder / "SHA256SUMS.1"
    assert kept.read_bytes() == before
    findings = {f.path.name: f for f in check(manifest_path(folder))}
    assert not any(f.problem for f in findings.values())
    again = {name for name, f in findings.items() if f.remark == "written again by imlctl report"}
    assert again == {"report.html"}
    assert {"records.csv", "SHA256SUMS.1"} < findings.keys()
    if shutil.which("sha256sum"):
        command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
        subprocess.run(command, cwd=folder, check=True)
    kept.write_bytes(before + b"\n")
    report.write_text("<html>")
    assert problems(folder) == {"SHA256SUMS.1": "changed", "report.html": "changed"}
    assert add_reports(folder, [report], ["imlctl"]) == folder / "SHA256SUMS.2"


def test_without_a_manifest_no_report_starts_one(case, tmp_path):
    report = case[0] / "report.html"
    report.write_text("<html>")
    assert add_reports(case[0], [report], ["imlctl"]) is None
    assert not manifest_path(case[0]).exists()
    manifest_path(case[0], Shard(1, 2)).write_text("")
    assert add_reports(case[0], [report], ["imlctl"]) is None
    assert "report.html" in manifest_path(case[0]).read_text()


def test_files_are_hashed_whole(tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "missing"):
        with pytest.raises(OSError, match=r"regular|directory|No such"):
            sha256_of(tmp_path / name)


def test_all_must_match(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    files = {str(tmp_path / name): hashlib.sha256(name.encode()).hexdigest() for name in "ab"}
    assert all_match(files)
    (tmp_path / "b").write_text("B")
    assert not all_match(files)
    (tmp_path / "b").unlink()
    assert not all_match(files)
