"""Records as JSON Lines: a file that grows while a scan runs, or one that is written whole."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from imlctl import atomic
from imlctl.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_BATCH = 1.0  # seconds; what is appended within them is flushed to the disk at once


class JsonLines:
    """A file of records that grows, for ``tail -f`` or a program.

    A line is in the file as soon as it is appended, and on the disk once a second has passed and
    another one follows, or the file is closed; the ledger still has what a power cut takes.

    Args:
        path: The file, replaced if it is there.
        records: Those that the ledger knows already, so that none is in the file twice.

    Raises:
        OutputError: It cannot be written.
    """

    def __init__(self, path: Path, records: Iterable[Record | Mapping[str, Any]] = ()) -> None:
        self.path = path
        write_jsonl(path, records, overwrite=True)
        try:
            self._file: BinaryIO = path.open("ab", buffering=0)
        except OSError as error:
            raise atomic.output_error(error, str(path)) from error
        self._kept = self._file.seek(0, os.SEEK_END)  # bytes known to be on the disk
        self._flushed = float("-inf")

    def append(self, record: Record | Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            OutputError: It cannot be written; the file then ends with a whole line.
        """
        data = memoryview(line(record))
        start = self._file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[self._file.write(data) :]
            start = self._kept
            if time.monotonic() - self._flushed >= _BATCH:
                self._flush()
        except OSError as error:
            self._file.truncate(start)
            raise atomic.output_error(error, str(self.path)) from error

    def _flush(self) -> None:
        os.fsync(self._file.fileno())
        self._kept, self._flushed = self._file.tell(), time.monotonic()

    def close(self) -> None:
        """Flush the last lines to the disk, and close the file.

        Raises:
            OutputError: They cannot be written.
        """
        with self._file:
            try:
                self._flush()
            except OSError as error:
                raise atomic.output_error(error, str(self.path)) from error

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
