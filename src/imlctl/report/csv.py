"""Records as a table for spreadsheets: one row for each picture, without polygons."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from imlctl import atomic
from imlctl.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_KINDS = ("forgeries", "authentic")
# Heading, and where in the record the value is.
_COLUMNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    *((name, (name,)) for name in ("path", "path_bytes", "sha256", "bytes", "verdict", "score")),
    *((n, (n,)) for n in ("share", "threshold", "unreliable_share", "cautions")),
    *((f"{kind}_with_this_verdict", ("rates", kind, "share")) for kind in _KINDS),
    ("regions", ()),
    ("largest_region_area", ()),
    *((n, ("facts", n)) for n in ("format", "width", "height", "mode", "bit_depth")),
    *((n, ("facts", n)) for n in ("orientation", "frames", "icc_profile", "alpha")),
    ("pixels_sha256", ("facts", "provenance", "pixels_sha256")),
    ("jpeg_quality", ("facts", "provenance", "jpeg", "quality")),
    ("jpeg_tables_standard", ("facts", "provenance", "jpeg", "standard")),
    ("jpeg_subsampling", ("facts", "provenance", "jpeg", "subsampling")),
    *((f"exif_{n}", ("facts", "provenance", "exif", n)) for n in ("make", "model", "software")),
    *((f"exif_{n}", ("facts", "provenance", "exif", n)) for n in ("taken", "modified", "gps")),
    ("c2pa", ("facts", "provenance", "c2pa")),
    ("flags", ("facts", "provenance", "flags")),
    *((name, (name,)) for name in ("model", "weights_sha256", "seed", "device", "seconds")),
    ("warnings", ("warnings",)),
    ("error", ("error", "what")),
    ("remedy", ("error", "remedy")),
)
HEADINGS = tuple(heading for heading, _ in _COLUMNS)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def write_csv(
    path: Path, records: Iterable[Record | Mapping[str, Any]], *, overwrite: bool = False
) -> None:
    """Write a table (UTF-8 with its mark, RFC 4180) that appears when it is whole.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, and so does one
    that begins with an apostrophe: whoever needs the exact text takes one apostrophe off.

    Raises:
        OutputError: The name is taken and `overwrite` is not set, or it cannot be written.
    """
    with atomic.opened(path, overwrite=overwrite) as file:
        # The mark is what makes Excel read UTF-8.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        writer = csv.writer(text)
        writer.writerow(HEADINGS)
        writer.writerows(row(record) for record in records)
        text.detach()  # writes what is left, and leaves closing the file to whom it belongs


def row(record: Record | Mapping[str, Any]) -> list[str]:
    """Return the cells of a record, in the order of `HEADINGS`."""
    values = record.to_dict() if isinstance(record, Record) else record
    return [_cell(heading, place, values) for heading, place in _COLUMNS]


def _cell(heading: str, place: tuple[str, ...], record: Mapping[str, Any]) -> str:
    regions = record.get("regions") or []
    if heading == "regions":
        return str(len(regions))
    if heading == "largest_region_area":
        return str(max((region["area"] for region in regions), default=0))
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
