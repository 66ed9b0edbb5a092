"""kill -9 at any point, then go on: the outputs equal those of a scan that nobody disturbed."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import imlctl
from imlctl.scan.ledger import rows

SCANNER = Path(__file__).with_name("scanner.py")


def scan(source, out, *, workers=0, line=0):
    """Run the scanner; return what it says, or None if it was killed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(imlctl.__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, SCANNER, source, out, str(workers), str(line)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if ran.returncode == -signal.SIGKILL:
        return None
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def contents(folder):
    """Return every file but the ledger, and what the ledger says."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("imlctl-ledger")
    }
    done = [
        (
            row.path,
            row.sha256,
            row.record,
            {str(p.relative_to(folder)): h for p, h in row.outputs.items()},
        )
        for row in rows(folder)
    ]
    return files, done


@pytest.fixture(scope="module")
def source(tmp_path_factory, makers):
    folder = tmp_path_factory.mktemp("in")
    (folder / "deep").mkdir()
    for seed, name in enumerate(("a.png", "deep/b.png", "deep/c.png")):
        (folder / name).write_bytes(makers.encode(makers.texture(8, 9, seed), "PNG"))
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    said = scan(source, out)
    files, done = contents(out)
    assert len(files) == 6
    assert [record["verdict"] for _, _, record, _ in done].count("failed") == 1
    return files, done, said["lines"]


@pytest.mark.parametrize("seed", range(3))
def test_killed_and_resumed_until_it_is_done(source, undisturbed, tmp_path, seed):
    files, done, lines = undisturbed
    chance = random.Random(seed)
    # Twice in a row, so that going on is disturbed as well.
    for _ in range(2):
        scan(source, tmp_path / "out", line=chance.randint(1, lines))
    said = scan(source, tmp_path / "out")
    assert contents(tmp_path / "out") == (files, done)
    assert said["resumed"] <= 3


@pytest.mark.parametrize("part", [0.4, 0.8])
def test_killed_with_decoders_and_writer_at_work(source, undisturbed, tmp_path, part):
    files, done, lines = undisturbed
    assert scan(source, tmp_path / "out", workers=2, line=int(part * lines)) is None
    scan(source, tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == (files, done)


def test_what_was_done_before_the_kill_is_not_done_again(source, undisturbed, tmp_path):
    files, done, lines = undisturbed
    assert scan(source, tmp_path / "out", line=lines - 5) is None
    assert scan(source, tmp_path / "out")["resumed"] == 3
    assert contents(tmp_path / "out") == (files, done)
