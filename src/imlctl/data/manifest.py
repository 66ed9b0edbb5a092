"""Pictures of a dataset, from a manifest or a tree of folders.

A manifest is CSV with a header, or JSON: ``.jsonl`` and ``.ndjson`` with an object in each line,
``.json`` with these or with one list of them. Its columns: ``image``; ``mask``, empty for an
authentic picture; ``set``, by default the manifest's name; ``split``; ``sha256`` of the picture's
bytes. Relative paths are taken from the manifest's own folder, so that a dataset and its manifest
can move together.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imlctl import atomic
from imlctl.data.folders import FoundPicture, Remark, pictures
from imlctl.data.layouts import tree_sets, trees
from imlctl.errors import ConfigError

COLUMNS = ("image", "mask", "set", "split", "sha256")
_JSON = (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture of a dataset."""

    image: Path
    mask: Path | None  # its ground truth, of the upright picture's size; None if authentic
    set: str
    split: str = ""  # what it is for, such as ``train``, ``val`` or ``test``; empty: not divided
    sha256: str = ""  # of the picture's bytes; empty when not known

    def __post_init__(self) -> None:
        if not self.set:
            raise ValueError("set must not be empty")
        if self.sha256 and len(self.sha256) != 64:
            raise ValueError(f"sha256 must have 64 hexadecimal digits, not {self.sha256!r}")


def read_manifest(path: Path) -> list[Entry]:
    """Read a manifest, of the format that its suffix names; ConfigError names the line at fault."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape").removeprefix("\ufeff")
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", source=str(path)) from error
    rows = (_json_rows if path.suffix.lower() in _JSON else _csv_rows)(text, path)
    if not rows:
        remedy = "Make a manifest with imlctl data index."
        raise ConfigError("lists no pictures", source=str(path), remedy=remedy)
    return [_entry(row, path, where) for where, row in rows]


def write_manifest(path: Path, entries: Iterable[Entry], *, overwrite: bool = False) -> None:
    """Write as `atomic.write` does: CSV, or an object in each line if the suffix says so."""
    base = _folder(path)
    rows = [
        (*(_relative(f, base) if f else "" for f in (e.image, e.mask)), e.set, e.split, e.sha256)
        for e in entries
    ]
    buffer = io.StringIO()
    if path.suffix.lower() in _JSON:
        buffer.writelines(f"{json.dumps(dict(zip(COLUMNS, row, strict=True)))}\n" for row in rows)
    else:
        csv.writer(buffer, lineterminator="\n").writerows([COLUMNS, *rows])
    data = buffer.getvalue().encode("utf-8", "surrogateescape")
    atomic.write(path, data, overwrite=overwrite)


def evaluation_pictures(place: Path, *, split: str = "") -> list[Entry]:
    """List the pictures of a tree or of a manifest, each of whose files is there.

    A tree is a folder with ``<set>/tampered``, ``masks`` and ``authentic``, or one such set. Of a
    manifest with splits `split` takes one. ConfigError names all files that are missing.
    """
    if place.is_dir():
        entries = _of_tree(place, split)
    else:
        entries = [e for e in read_manifest(place) if split in ("", e.split)]
        if not entries:
            raise ConfigError(f"lists no picture of the split {split!r}", source=str(place))
    named = [p for e in entries for p in (e.image, e.mask) if p is not None]
    missing = [str(path) for path in named if not path.is_file()]
    if missing:
        what = f"names {_count(missing, 'file')} that cannot be found: {', '.join(missing)}"
        remedy = "Relative paths are taken from the manifest's folder."
        raise ConfigError(what, source=str(place), remedy=remedy)
    return entries


def authentic_pictures(place: Path, *, split: str = "") -> list[Entry]:
    """List authentic pictures, of a tree, manifest or plain folder; ConfigError where none is."""
    if place.is_dir() and not tree_sets(place) and not split:
        found = pictures(place, deep=True)
        entries = [Entry(path, None, place.resolve().name or "pictures") for path in found]
    else:
        entries = [e for e in evaluation_pictures(place, split=split) if e.mask is None]
    if not entries:
        what = "holds no authentic pictures"
        remedy = "Give a folder of them, or a tree with <set>/authentic."
        raise ConfigError(what, source=str(place), remedy=remedy)
    return entries


def share_of(name: str) -> float:
    """Place a name in [0, 1), evenly and for ever: by its hash alone."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _of_tree(root: Path, split: str) -> list[Entry]:
    if split:
        remedy = "Use --split with a manifest."
        raise ConfigError("a folder has no splits", source=str(root), remedy=remedy)
    found = list(trees(root))
    if not found:
        what = "holds no evaluation pictures"
        remedy = "Expected <set>/tampered, masks and authentic in it, or a manifest."
        raise ConfigError(what, source=str(root), remedy=remedy)
    alone = [str(each.path) for each in found if isinstance(each, Remark)]
    if alone:
        pictures_alone = _count(alone, "tampered picture")
        what = f"{pictures_alone} without a mask of the same name: {', '.join(alone)}"
        remedy = "Add the masks, or move these pictures away."
        raise ConfigError(what, source=str(root), remedy=remedy)
    files = (each for each in found if isinstance(each, FoundPicture))
    return [Entry(each.image, each.mask, each.set) for each in files]


def _count(items: list[str], what: str) -> str:
    return f"{len(items)} {what}{'' if len(items) == 1 else 's'}"


def _folder(path: Path) -> Path:
    return Path(os.path.abspath(path)).parent  # noqa: PTH100  # resolve() would follow links


def _relative(path: Path, base: Path) -> str:
    """Relative to the manifest where it lies below it, absolute elsewhere."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100
    return (whole.relative_to(base) if whole.is_relative_to(base) else whole).as_posix()


def _csv_rows(text: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        # A misspelt mask column would turn every forgery into an authentic picture.
        missing = [c for c in ("image", "mask") if c not in (reader.fieldnames or ())]
        rows = [(f"line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        what = f"line {reader.line_num} is not valid CSV: {error}"
        raise ConfigError(what, source=str(path)) from error
    if missing:
        what = f"lacks the column {missing[0]!r}"
        remedy = f"The first line names the columns, out of {', '.join(COLUMNS)}."
        raise ConfigError(what, source=str(path), remedy=remedy)
    return rows


def _json_rows(text: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read one list of objects, or an object in each line."""
    listed = path.suffix.lower() == ".json" and text.lstrip().startswith("[")
    where, rows = "", []
    try:
        if listed:
            rows = [(f"entry {number}", row) for number, row in enumerate(json.loads(text), 1)]
        else:
            for number, line in enumerate(text.splitlines(), 1):
                where = f"line {number}"
                rows += [(where, json.loads(line))] if line.strip() else []
    except json.JSONDecodeError as error:
        what = f"{where} is not valid JSON: {error}".strip()
        raise ConfigError(what, source=str(path)) from error
    for where, row in rows:
        if not isinstance(row, dict):
            raise ConfigError(f"{where} is not an object", source=str(path))
        for column in COLUMNS:
            if not isinstance(row.get(column) or "", str):
                raise ConfigError(f"{where}: {column} must be text", source=str(path))
    return rows


def _entry(row: dict[str, Any], path: Path, where: str) -> Entry:
    values = {column: row.get(column) or "" for column in COLUMNS}
    if not values["image"]:
        raise ConfigError(f"{where} names no image", source=str(path))
    base = _folder(path)
    mask = base / values["mask"] if values["mask"] else None
    name = values["set"] or path.stem
    try:
        return Entry(base / values["image"], mask, name, values["split"], values["sha256"])
    except ValueError as error:
        raise ConfigError(f"{where}: {error}", source=str(path)) from error
