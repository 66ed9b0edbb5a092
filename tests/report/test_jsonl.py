from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from imlctl.errors import OutputError
from imlctl.report.jsonl import JsonLines, read_jsonl, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imlctl.report.record import Record


@pytest.fixture
def three(failed_record: Callable[[str], Record]) -> list[Record]:
    return [failed_record(name) for name in ("a\nb.jpg", "caf\udce9.jpg", "\u2028.jpg")]


def test_batches_are_appended_and_read_back(tmp_path: Path, three: list[Record]) -> None:
    path = tmp_path / "new" / "records.jsonl"
    with JsonLines(path) as lines:
        lines.append(three[:2])
        lines.append([])
    with JsonLines(path) as lines:
        lines.append([three[2].to_dict()])
    data = path.read_bytes()
    assert data.isascii()
    assert data.count(b"\n") == 3
    assert list(read_jsonl(path)) == [json.loads(record.to_json()) for record in three]


def test_each_batch_is_flushed_to_the_disk_once(
    tmp_path: Path, three: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    with JsonLines(tmp_path / "records.jsonl") as lines:
        monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
        lines.append(three)
        lines.append(three[:1])
    assert len(synced) == 2
    assert synced[1] == (tmp_path / "records.jsonl").stat().st_size  # all of it, and then the flush


@pytest.mark.parametrize("tail", [b'{"half', b"x" * 200_000])
def test_what_a_power_cut_left_is_cut_off(tmp_path: Path, three: list[Record], tail: bytes) -> None:
    path = tmp_path / "records.jsonl"
    write_jsonl(path, three[:1])
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert len(list(read_jsonl(path))) == 1
    with JsonLines(path) as lines:
        assert path.read_bytes() == whole
        lines.append(three[1:])
    assert len(list(read_jsonl(path))) == 3
    path.write_bytes(tail)
    JsonLines(path).close()
    assert path.read_bytes() == b""


def test_a_full_disk_leaves_no_part_of_a_batch(
    tmp_path: Path, three: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records.jsonl"
    with JsonLines(path) as lines:
        lines.append(three[:1])
        before = path.read_bytes()

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="Free some space"):
            lines.append(three[1:])
        assert path.read_bytes() == before
        monkeypatch.undo()
        lines.append(three[1:])
    assert len(list(read_jsonl(path))) == 3


def test_what_is_no_record_is_named_with_its_line(tmp_path: Path, three: list[Record]) -> None:
    path = tmp_path / "records.jsonl"
    write_jsonl(path, three[:1])
    for wrong in (b"[]\n", b"{}\n", b"\xff\n", b"[" * 100_000 + b"\n"):
        path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n" + wrong)
        with pytest.raises(OutputError, match="line 2: this is no record"):
            list(read_jsonl(path))
    with pytest.raises(OutputError, match="cannot be read"):
        list(read_jsonl(tmp_path / "missing.jsonl"))


def test_a_whole_file_never_replaces_another_unasked(tmp_path: Path, three: list[Record]) -> None:
    path = tmp_path / "records.jsonl"
    write_jsonl(path, three)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="already there"):
        write_jsonl(path, three[:1])
    assert path.read_bytes() == before
    write_jsonl(path, three[:1], overwrite=True)
    assert len(list(read_jsonl(path))) == 1

    def broken() -> Any:
        yield three[0]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_jsonl(path, broken(), overwrite=True)
    assert len(list(read_jsonl(path))) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["records.jsonl"]
