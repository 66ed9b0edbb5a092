"""kill -9 at any point, then go on: the outputs equal those of a scan that nobody disturbed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import imlctl
from imlctl.errors import Exit
from imlctl.scan.folder import open_case

SCANNER = Path(__file__).with_name("scanner.py")


def rows(folder):
    with open_case(folder) as case:
        yield from case.rows()


def read_jsonl(path):
    """Records of a file, without what may be left of an incomplete last line."""
    lines = path.read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def scan(source, out, *, workers=0, line=0):
    """Run the scanner; return what it says, or None if it was killed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(imlctl.__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, SCANNER, source, out, *map(str, (workers, line))],
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


def check_records(out, done):
    """Whatever was killed, the file of records holds some of them, and each once."""
    path = out / "records.jsonl"
    if path.exists():
        records = [record for _, _, record, _ in done]
        found = list(read_jsonl(path))
        assert [r for r in records if r in found] == sorted(found, key=records.index)


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
    assert len(files) == 7
    assert [record["verdict"] for _, _, record, _ in done].count("failed") == 1
    return files, done, said["lines"]


@pytest.mark.parametrize("seed", range(3))
def test_killed_and_resumed_until_it_is_done(source, undisturbed, tmp_path, seed):
    files, done, lines = undisturbed
    chance = random.Random(seed)
    # Twice in a row, so that going on is disturbed as well.
    for _ in range(2):
        scan(source, tmp_path / "out", line=chance.randint(1, lines))
        check_records(tmp_path / "out", done)
    said = scan(source, tmp_path / "out")
    assert contents(tmp_path / "out") == (files, done)
    assert said["resumed"] <= 3


@pytest.mark.parametrize("part", [0.4, 0.8])
def test_killed_with_decoders_and_writer_at_work(source, undisturbed, tmp_path, part):
    files, done, lines = undisturbed
    assert scan(source, tmp_path / "out", workers=2, line=int(part * lines)) is None
    check_records(tmp_path / "out", done)
    scan(source, tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == (files, done)


def test_what_was_done_before_the_kill_is_not_done_again(source, undisturbed, tmp_path):
    files, done, lines = undisturbed
    assert scan(source, tmp_path / "out", line=lines - 5) is None
    assert scan(source, tmp_path / "out")["resumed"] == 3
    assert contents(tmp_path / "out") == (files, done)


def test_a_report_that_was_being_written_leaves_nothing(source, undisturbed, tmp_path):
    files, done, _ = undisturbed
    scan(source, tmp_path / "out")
    (tmp_path / "out/.imlctl--0123456789abcdef.tmp").write_bytes(b'{"schema_ver')
    scan(source, tmp_path / "out")
    assert contents(tmp_path / "out") == (files, done)


def test_records_can_be_followed_while_a_scan_runs(makers, weights, tmp_path, monkeypatch):
    """As `tail -f` shows them; then the real command is killed, its last line torn, and goes on."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(9):
        picture = makers.texture(100, 100, seed=number)
        (folder / f"{number:02}.png").write_bytes(makers.encode(picture, "PNG"))
    (folder / "05.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "z.png").write_bytes(makers.encode(makers.texture(500, 500), "PNG"))
    code = "from imlctl.cli import main; main()"
    options = ["--jsonl", "--json", "--soft", "--weights", weights, "--jobs", 0, "--resume"]
    options += ["-o"]
    command = [sys.executable, "-c", code, "localize", folder, *map(str, options), out]
    path = out / "records.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") > 3):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    before = path.read_bytes()
    assert 3 < before.count(b"\n") < 10
    with path.open("ab") as file:
        file.write(b'{"schema_version": 1, "verd')
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == Exit.SOME_FAILED, ran.stderr
    assert "done by an earlier scan" in ran.stderr
    records = list(read_jsonl(path))
    assert records == [row.record for row in rows(out)]
    assert len(records) == len({record["path"] for record in records}) == 10
    subprocess.run([*command[:-1], tmp_path / "whole"], capture_output=True)
    maps = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert maps == {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.png")}
    assert len(maps) == 9
    # Nothing was analysed again but what had failed, which may take another time.
    kept = {line for line in before.splitlines() if b"failed" not in line}
    assert kept <= set(path.read_bytes().splitlines())
