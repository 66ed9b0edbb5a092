import os
import shutil
import subprocess
from pathlib import Path

import pytest

from imlctl.errors import OutputError
from imlctl.scan.custody import (
    check,
    digest_of,
    manifest_path,
    manifests,
    write_manifest,
)
from imlctl.scan.hashing import sha256_of
from imlctl.scan.ledger import Row
from imlctl.scan.shard import Shard

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
    return write_manifest(manifest_path(folder), rows, ["imlctl", "localize", "it's"], **options)


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
    assert "cannot be read any more" in finding.problem
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


def test_a_line_that_is_none_is_said(case):
    write(case)
    with manifest_path(case[0]).open("ab") as file:
        file.write(b"and one more thing\n")
    with pytest.raises(OutputError, match="line 16 is not a hash"):
        list(check(manifest_path(case[0])))


def test_each_part_has_its_manifest(tmp_path):
    with pytest.raises(OutputError, match="--manifest"):
        manifests(tmp_path)
    paths = [manifest_path(tmp_path), manifest_path(tmp_path, Shard(1, 2))]
    for path in paths:
        path.write_text("")
    assert manifests(tmp_path) == paths
    assert [path.name for path in paths] == ["SHA256SUMS", "SHA256SUMS.1-of-2"]
    assert digest_of(paths[0]).startswith("e3b0c442")


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
    write_manifest(manifest_path(link), rows, ["imlctl"])
    assert {f.problem for f in check(manifest_path(Path(link)))} == {""}
