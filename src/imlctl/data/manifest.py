"""Manifests: one line per picture, with its mask, its set and its split. CSV or JSON lines.

Columns: ``image``, ``mask`` (empty for an authentic picture), ``set``, ``split``, and, where known,
``sha256`` of the picture's bytes. Relative paths are taken from the manifest's own folder, so that
a dataset and its manifest can move together.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imlctl import atomic
from imlctl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

COLUMNS = ("image", "mask", "set", "split", "sha256")
_REQUIRED = COLUMNS[:4]
_JSON = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture of a manifest.

    Attributes:
        image: The picture.
        mask: White where it is manipulated, of the upright picture's size; None if authentic.
        set: Dataset it belongs to.
        split: What it is for, such as ``train``, ``val`` or ``test``.
        sha256: Of the picture's bytes; empty when not known.
    """

    image: Path
    mask: Path | None
    set: str
    split: str
    sha256: str = ""

    def __post_init__(self) -> None:
        """Refuse what no manifest may hold."""
        if not self.set or not self.split:
            raise ValueError("set and split must not be empty")
        if self.sha256 and len(self.sha256) != 64:
            raise ValueError(f"sha256 must have 64 hexadecimal digits, not {self.sha256!r}")


def read_manifest(path: Path) -> list[Entry]:
    """Read a manifest; its name says whether it is CSV or JSON lines (``.jsonl``).

    The pictures themselves are not looked at.

    Raises:
        ConfigError: It cannot be read, or a line of it is wrong; says which.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", source=str(path)) from error
    rows = _json_rows(text, path) if path.suffix.lower() in _JSON else _csv_rows(text, path)
    entries = [_entry(row, path, line) for line, row in rows]
    if not entries:
        raise ConfigError(
            "lists no pictures",
            source=str(path),
            remedy="Make a manifest with imlctl data index.",
        )
    return entries


def write_manifest(path: Path, entries: Iterable[Entry], *, overwrite: bool = False) -> None:
    """Write a manifest, whole or not at all.

    Raises:
        OutputError: The name is taken, or the file cannot be written.
    """
    base = _folder(path)
    rows = [
        {
            "image": _relative(entry.image, base),
            "mask": _relative(entry.mask, base) if entry.mask else "",
            "set": entry.set,
            "split": entry.split,
            "sha256": entry.sha256,
        }
        for entry in entries
    ]
    if path.suffix.lower() in _JSON:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = buffer.getvalue()
    atomic.write(path, text.encode("utf-8", "surrogateescape"), overwrite=overwrite)


def share_of(name: str) -> float:
    """Place a name in [0, 1), evenly and for ever: by its hash alone."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _folder(path: Path) -> Path:
    return Path(os.path.abspath(path)).parent  # noqa: PTH100  # resolve() would follow links


def _relative(path: Path, base: Path) -> str:
    """Relative to the manifest where it lies below it, absolute elsewhere."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100
    return (whole.relative_to(base) if whole.is_relative_to(base) else whole).as_posix()


def _csv_rows(text: str, path: Path) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        missing = [c for c in _REQUIRED if c not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(
                f"lacks the column {missing[0]!r}",
                source=str(path),
                remedy=f"The first line must name the columns: {', '.join(_REQUIRED)}.",
            )
        return [(reader.line_num, dict(row)) for row in reader]
    except csv.Error as error:
        raise ConfigError(
            f"line {reader.line_num} is not valid CSV: {error}", source=str(path)
        ) from error


def _json_rows(text: str, path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for line, content in enumerate(text.splitlines(), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"line {line} is not valid JSON: {error}", source=str(path)
            ) from error
        if not isinstance(row, dict):
            raise ConfigError(f"line {line} is not a table", source=str(path))
        rows.append((line, row))
    return rows


def _entry(row: dict[str, Any], path: Path, line: int) -> Entry:
    values = {column: row.get(column) or "" for column in COLUMNS}
    for column, value in values.items():
        if not isinstance(value, str):
            raise ConfigError(f"line {line}: {column} must be text", source=str(path))
    if not values["image"]:
        raise ConfigError(f"line {line} names no image", source=str(path))
    base = _folder(path)
    mask = base / values["mask"] if values["mask"] else None
    try:
        return Entry(base / values["image"], mask, values["set"], values["split"], values["sha256"])
    except ValueError as error:
        raise ConfigError(f"line {line}: {error}", source=str(path)) from error
