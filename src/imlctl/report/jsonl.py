"""Records as JSON Lines: appended in batches, each on the disk before the next begins."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from imlctl import atomic
from imlctl.errors import OutputError
from imlctl.report.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_TAIL = 1 << 16  # bytes looked through at a time for the last line's end


class JsonLines:
    """A file of records that grows.

    What a power cut left of a last line is cut off on opening, so that every line is a record.

    Args:
        path: The file, made where it is missing, with its folders.

    Raises:
        OutputError: It cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            self._file: BinaryIO = path.open("ab+", buffering=0)
            if new:
                atomic.sync_folder(path.parent)
            os.ftruncate(self._file.fileno(), _end_of_lines(self._file))
        except OSError as error:
            raise atomic.output_error(error, str(path)) from error

    def append(self, records: Iterable[Record | Mapping[str, Any]]) -> None:
        """Write a batch of records and flush them to the disk; all of them, or none.

        Raises:
            OutputError: They cannot be written; the file is as it was before.
        """
        data = memoryview(b"".join(map(line, records)))
        if not data:
            return
        start = self._file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), start)
            raise atomic.output_error(error, str(self.path)) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


def line(record: Record | Mapping[str, Any]) -> bytes:
    """Return a record as one line of strict ASCII JSON."""
    values = record.to_dict() if isinstance(record, Record) else record
    return json.dumps(values, allow_nan=False).encode() + b"\n"


def write_jsonl(
    path: Path, records: Iterable[Record | Mapping[str, Any]], *, overwrite: bool = False
) -> None:
    """Write all records to a file that appears when it is whole.

    Raises:
        OutputError: The name is taken and `overwrite` is not set, or it cannot be written.
    """
    with atomic.opened(path, overwrite=overwrite) as file:
        for record in records:
            file.write(line(record))


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file, without what may be left of an incomplete last line.

    Raises:
        OutputError: The file cannot be read, or a line is no record.
    """
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if not text.endswith(b"\n"):
                    return
                yield _parsed(text, f"{path}, line {number}")
    except OSError as error:
        raise OutputError(
            f"cannot be read: {error.strerror or error}",
            source=str(path),
            remedy="Check the file and its disk.",
        ) from error


def _parsed(text: bytes, source: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or "schema_version" not in record:
        raise OutputError(
            "this is no record of imlctl",
            source=source,
            remedy="Restore the file, or analyse the pictures again.",
        )
    return record


def _end_of_lines(file: BinaryIO) -> int:
    """Return the offset just past the last complete line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _TAIL)
        file.seek(start)
        last = file.read(end - start).rfind(b"\n")
        if last >= 0:
            return start + last + 1
        end = start
    return 0
