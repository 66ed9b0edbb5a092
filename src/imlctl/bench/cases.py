"""Which pictures an evaluation is over: a tree of folders, or a manifest."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imlctl.data.tree import SUFFIXES
from imlctl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COLUMNS = frozenset({"image", "mask", "masks_source", "set", "split"})


@dataclass(frozen=True, slots=True)
class Case:
    """One picture of an evaluation set.

    Attributes:
        set: Name of the set.
        image: The picture.
        mask: What is manipulated in it; None for an authentic picture.
        source: Where a copy-move was copied from, if that is known.
    """

    set: str
    image: Path
    mask: Path | None
    source: Path | None = None


def find_cases(place: Path, *, split: str = "") -> list[Case]:
    """List the pictures of a tree or of a manifest.

    A tree holds ``<set>/tampered``, ``<set>/masks`` and ``<set>/authentic``, or is one such set. A
    mask belongs to the picture with the same stem; so does one in ``<set>/masks_source``, which
    says where a copy-move was copied from.

    A manifest is a CSV file with a header, or JSON lines (``.jsonl``, ``.json``): ``image``, and if
    wanted ``mask`` (absent for an authentic picture), ``masks_source``, ``set`` and ``split``. Its
    paths are relative to its folder.

    Args:
        place: Folder or manifest.
        split: Take only the rows of a manifest with this split; empty for all.

    Raises:
        ConfigError: There is no such layout, a mask is missing, or a row makes no sense.
    """
    if place.is_file():
        return _listed(place, split)
    if split:
        raise ConfigError(
            "a folder has no splits", source=str(place), remedy="Use --split with a manifest."
        )
    single = any((place / kind).is_dir() for kind in ("tampered", "authentic"))
    sets = [place] if single else _subfolders(place)
    cases = [case for each in sets for case in _cases_of(each)]
    if not cases:
        raise ConfigError(
            "no evaluation pictures found",
            source=str(place),
            remedy="Expected <set>/tampered, masks and authentic in it, or a manifest.",
        )
    return cases


def authentic_pictures(place: Path, *, split: str = "") -> list[Case]:
    """List authentic pictures: those of a tree or manifest, or all that lie under a plain folder.

    Raises:
        ConfigError: There is none, or as `find_cases` does.
    """
    plain = place.is_dir() and not any(
        p.is_dir() and p.name in ("authentic", "tampered", "masks")
        for p in (*place.iterdir(), *place.glob("*/*"))
    )
    if plain and not split:
        found = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        cases = [Case(place.name, path, None) for path in found]
    else:
        cases = [case for case in find_cases(place, split=split) if case.mask is None]
    if not cases:
        raise ConfigError(
            "no authentic pictures found",
            source=str(place),
            remedy="Give a folder of them, or a tree with <set>/authentic.",
        )
    return cases


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError("no such folder", source=str(folder))
    return sorted(p for p in folder.iterdir() if p.is_dir())


def _cases_of(folder: Path) -> Iterator[Case]:
    masks, sources = (
        {p.stem: p for p in _pictures(folder / kind)} for kind in ("masks", "masks_source")
    )
    for image in _pictures(folder / "tampered"):
        mask = masks.get(image.stem)
        if mask is None:
            raise ConfigError("has no mask of the same stem", source=str(image))
        yield Case(folder.name, image, mask, sources.get(image.stem))
    for image in _pictures(folder / "authentic"):
        yield Case(folder.name, image, None)


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)


def _listed(manifest: Path, split: str) -> list[Case]:
    try:
        text = manifest.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({error})", source=str(manifest)) from error
    lines = _json_rows if manifest.suffix.lower() in (".jsonl", ".json") else _csv_rows
    cases = []
    for number, row in lines(text, manifest):
        source = f"{manifest}:{number}"
        _check_row(row, source)
        if not split or row.get("split") == split:
            cases.append(_case(row, manifest, source))
    if not cases:
        raise ConfigError(
            f"lists no picture of the split {split!r}" if split else "lists no picture",
            source=str(manifest),
        )
    return cases


def _csv_rows(text: str, manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if "image" not in (reader.fieldnames or ()):
        raise ConfigError(
            "has no column named image",
            source=str(manifest),
            remedy=f"Its first line names the columns: {', '.join(sorted(_COLUMNS))}.",
        )
    for row in reader:
        yield reader.line_num, dict(row)


def _json_rows(text: str, manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ConfigError(
                    f"is not JSON ({error})",
                    source=f"{manifest}:{number}",
                    remedy="Each line holds one object, as {'image': ..., 'mask': ...}.",
                ) from error
            yield number, row


def _check_row(row: Any, source: str) -> None:
    known = isinstance(row, dict) and all(
        value is None or isinstance(value, str) for key, value in row.items() if key in _COLUMNS
    )
    if not known or not row.get("image"):
        raise ConfigError("names no picture under image", source=source)


def _case(row: dict[str, Any], manifest: Path, source: str) -> Case:
    paths = []
    for column in ("image", "mask", "masks_source"):
        name = row.get(column)
        path = manifest.parent / name if name else None
        if path is not None and not path.is_file():
            raise ConfigError(
                f"names as its {column} a file that is not there: {name}", source=source
            )
        paths.append(path)
    image, mask, origin = paths
    assert image is not None  # `_check_row` saw to it  # noqa: S101
    return Case(row.get("set") or manifest.stem, image, mask, origin)
