from __future__ import annotations

import errno
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from imlctl.errors import OutputError
from imlctl.report.tables import JsonLines, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imlctl.record import Record


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""  # the last one ends too
    return [json.loads(line) for line in lines]


@pytest.fixture
def three(failed_record: Callable[[str], Record]) -> list[dict[str, Any]]:
    return [failed_record(name).to_dict() for name in ("a\nb.jpg", "caf\udce9.jpg", "\u2028.jpg")]


def test_lines_are_appended_and_read_back(tmp_path: Path, three: list[dict[str, Any]]) -> None:
    path = tmp_path / "new" / "records.jsonl"
    with JsonLines(path, three[:1]) as lines:
        assert len(read_jsonl(path)) == 1
        lines.append(three[1])
        assert len(read_jsonl(path)) == 2  # at once, not when a batch is full
        lines.append(three[2])
    data = path.read_bytes()
    assert data.isascii()
    assert data.count(b"\n") == 3
    assert read_jsonl(path) == three


def test_what_comes_within_a_second_is_flushed_at_once(
    tmp_path: Path, three: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced, now = tmp_path / "records.jsonl", list[int](), [100.0]
    with JsonLines(path) as lines:
        monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        lines.append(three[0])
        first = path.stat().st_size
        lines.append(three[1])
        assert synced == [first]
        now[0] += 1.5
        lines.append(three[2])
        assert synced == [first, path.stat().st_size]
        lines.append(three[0])
    assert synced == [first, synced[1], path.stat().st_size]


@pytest.mark.parametrize("tail", [b'{"half', b"x" * 200_000, b"{}\n"])
def test_what_an_earlier_scan_left_is_replaced_by_what_is_known(
    tmp_path: Path, three: list[dict[str, Any]], tail: bytes
) -> None:
    path = tmp_path / "records.jsonl"
    write_jsonl(path, three[:2])
    path.write_bytes(path.read_bytes() + tail)
    with JsonLines(path, three[:2]) as lines:
        lines.append(three[2])
    assert read_jsonl(path) == three


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_full_disk_leaves_whole_lines(
    tmp_path: Path, three: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "records.jsonl"
    with JsonLines(path) as lines:
        lines.append(three[0])
        before = path.read_bytes()

        def full(*_: object) -> int:
            if call == "write":
                with path.open("ab") as other:
                    other.write(b"half a li")
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as broken:
            if call == "fsync":
                broken.setattr(os, "fsync", full)
                broken.setattr(time, "monotonic", lambda: 1e9)
            else:
                file = lines._file
                broken.setattr(lines, "_file", Wrapped(file, full))
            with pytest.raises(OutputError, match="Free some space"):
                lines.append(three[1])
        assert path.read_bytes() == before
        lines.append(three[2])
    assert read_jsonl(path) == [three[0], three[2]]


class Wrapped:
    """A file whose `write` is another."""

    def __init__(self, file: Any, write: Callable[..., int]) -> None:
        self.file, self.write = file, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_file_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").mkdir()
    with pytest.raises(OutputError):
        JsonLines(tmp_path / "records.jsonl")


def test_a_file_is_replaced_only_by_a_whole_one(
    tmp_path: Path, three: list[dict[str, Any]]
) -> None:
    path = tmp_path / "records.jsonl"
    write_jsonl(path, three)
    write_jsonl(path, three[:1])
    assert len(read_jsonl(path)) == 1

    def broken() -> Any:
        yield three[0]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_jsonl(path, broken())
    assert len(read_jsonl(path)) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["records.jsonl"]
