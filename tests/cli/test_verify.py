"""`imlctl verify`, and what the chain of custody promises."""

from __future__ import annotations

import os

import pytest
import typer

from imlctl.cli.report import verify
from imlctl.errors import Exit, OutputError


@pytest.fixture
def check(capfdbinary):
    """Runs the command alone; returns its status and what it printed."""
    app = typer.Typer()
    app.command()(verify)

    def call(*arguments):
        capfdbinary.readouterr()
        try:
            code = app([str(a) for a in arguments], standalone_mode=False) or 0
        except typer.Exit as end:
            code = end.exit_code
        return (code, *(text.decode() for text in capfdbinary.readouterr()))

    return call


@pytest.fixture
def out(run, weights, photos, tmp_path):
    folder = tmp_path / "out"
    ran = run("localize", photos, "-r", "-o", folder, "--manifest", "--json", "--weights", weights)
    assert ran.code == Exit.OK
    return folder


def test_an_untouched_case_is_confirmed(check, out):
    code, printed, said = check(out)
    assert code == Exit.OK
    assert "6 files unchanged, 0 not" in said
    assert printed.endswith(f"  {out / 'SHA256SUMS'}\n")
    assert len(printed.split()[0]) == 64


@pytest.mark.parametrize("where", ["photos/deep/b.png", "out/a.jpg.mask.png"])
def test_a_changed_file_is_named(check, out, tmp_path, where):
    path = tmp_path / where
    path.write_bytes(path.read_bytes() + b"\0")
    code, _, said = check(out, "-q")
    assert code == Exit.SOME_FAILED
    assert said.count("\n") == 1
    assert path.name in said
    assert "changed" in said


def test_a_missing_file_is_named(check, out, photos):
    (photos / "a.jpg").unlink()
    code, _, said = check(out)
    assert code == Exit.SOME_FAILED
    assert "a.jpg: missing" in said
    assert "5 files unchanged, 1 not" in said


def test_without_a_manifest_there_is_nothing_to_verify(check, tmp_path):
    with pytest.raises(OutputError, match="--manifest"):
        check(tmp_path)


def test_a_manifest_needs_a_folder(run, weights, photos, tmp_path):
    ran = run("localize", photos / "a.jpg", "-o", tmp_path / "m.png", "--manifest")
    assert ran.code == Exit.USAGE
    assert "--manifest" in ran.err


def test_an_input_that_changes_during_the_scan_is_said(run, weights, photos, tmp_path, monkeypatch):
    from imlctl.pipeline import Localizer

    real = Localizer.localize

    def meddling(self, source, **options):
        (photos / "a.jpg").write_bytes(b"planted")
        return real(self, source, **options)

    monkeypatch.setattr(Localizer, "localize", meddling)
    ran = run(
        "localize", photos, "-o", tmp_path / "out", "--manifest", "--weights", weights,
    )  # fmt: skip
    assert ran.code == Exit.SOME_FAILED
    assert "changed since it was analysed" in ran.err


def test_no_command_changes_the_input_tree(run, check, weights, photos, tmp_path):
    whole = (photos / "a.jpg").read_bytes()
    (photos / "bad.jpg").write_bytes(whole[:99])
    (photos / "link.jpg").symlink_to("a.jpg")
    os.link(photos / "a.jpg", photos / "deep" / "hard.jpg")
    for path in photos.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000), follow_symlinks=False)

    def tree():
        paths = [photos, *sorted(photos.rglob("*"))]
        found = []
        for path in paths:
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found.append((path, status.st_mode, status.st_ino, status.st_mtime_ns, content))
        return found

    before = tree()
    out = ("-o", tmp_path / "out")
    everything = ("--overlay", "--heatmap", "--json", "--manifest")
    for arguments in (
        (photos, "-r", *out, *everything),
        (photos, "-r", *out, *everything, "--resume"),
        (photos, "-r", *out, *everything, "--force", "--soft"),
        (photos, "-r", "--shard", "1/2", "-o", tmp_path / "part", "--manifest"),
        (photos / "link.jpg", "-o", tmp_path / "m.png"),
        (photos / "a.jpg", "-o", photos / "deep" / "hard.jpg", "--force"),  # refused
        (photos / "a.jpg", "-o", "-"),
    ):
        run("localize", *arguments, "--weights", weights)
        assert tree() == before, arguments
    assert check(tmp_path / "out")[0] == Exit.OK
    assert tree() == before
