"""Records as JSON Lines and as a table for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from imlctl import atomic

if TYPE_CHECKING:
    Records = Iterable[Mapping[str, Any]]  # each as of `Record.to_dict`

_BATCH = 1.0  # seconds; what is appended within them is flushed to the disk at once
# Where in a record the value of each column is, behind its heading where that is not the last name.
_PLACES = """
    path path_bytes sha256 bytes verdict score share threshold unreliable_share cautions
    forgeries_with_this_verdict=rates.forgeries.share
    authentic_with_this_verdict=rates.authentic.share
    regions largest_region_area facts.format facts.width facts.height facts.mode facts.bit_depth
    facts.orientation facts.frames facts.icc_profile facts.alpha facts.provenance.pixels_sha256
    jpeg_quality=facts.provenance.jpeg.quality
    jpeg_tables_standard=facts.provenance.jpeg.standard
    jpeg_subsampling=facts.provenance.jpeg.subsampling
    exif_make=facts.provenance.exif.make exif_model=facts.provenance.exif.model
    exif_software=facts.provenance.exif.software exif_taken=facts.provenance.exif.taken
    exif_modified=facts.provenance.exif.modified exif_gps=facts.provenance.exif.gps
    facts.provenance.c2pa facts.provenance.flags
    model weights_sha256 seed device seconds warnings error=error.what error.remedy
"""
_COLUMNS = _PLACES.split()
HEADINGS = tuple(column.partition("=")[0].rpartition(".")[2] for column in _COLUMNS)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


class JsonLines:
    """A file of records that grows, for ``tail -f`` or a program; it replaces one that is there.

    A line is in the file as soon as it is appended, and on the disk once a second has passed and
    another one follows, or the file is closed; the ledger still has what a power cut takes.
    OutputError where it cannot be written.
    """

    def __init__(self, path: Path, records: Records = ()) -> None:
        self.path = path
        write_jsonl(path, records)
        try:
            self._file: BinaryIO = path.open("ab", buffering=0)
        except OSError as error:
            raise atomic.output_error(error, str(path)) from error
        self._kept = self._file.seek(0, os.SEEK_END)  # bytes known to be on the disk
        self._flushed = float("-inf")

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line; after an OutputError the file ends with a whole line."""
        data = memoryview(_line(record))
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            try:
                self._flush()
            except OSError as error:
                raise atomic.output_error(error, str(self.path)) from error


def write_jsonl(path: Path, records: Records) -> None:
    """Write records, one a line, and replace the file when all are; errors are `atomic`'s."""
    with atomic.opened(path, overwrite=True) as file:
        for record in records:
            file.write(_line(record))


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def write_csv(path: Path, records: Records) -> None:
    """Write a table (UTF-8 with its mark, RFC 4180), a row for each picture, without polygons.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, as does one that
    begins with one: for the exact text, take one off. Errors are those of `atomic.write`.
    """
    with atomic.opened(path, overwrite=True) as file:
        # The mark is what makes Excel read UTF-8.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        writer = csv.writer(text)
        writer.writerow(HEADINGS)
        writer.writerows(row(record) for record in records)
        text.detach()  # writes what is left, and leaves closing the file to whom it belongs


def row(record: Mapping[str, Any]) -> list[str]:
    """Return the cells of a record, in the order of `HEADINGS`."""
    values = dict(record)
    areas = [region["area"] for region in values.get("regions") or ()]
    values |= {"regions": len(areas), "largest_region_area": max(areas, default=0)}
    return [_cell(values, column.rpartition("=")[2].split(".")) for column in _COLUMNS]


def _cell(record: Mapping[str, Any], place: list[str]) -> str:
    value: Any = record
    for key in place:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text
