"""Finding pictures and folders in a dataset, whatever the case of their names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imlctl.data.masks import Rule  # noqa: TC001  # a field's type, for those who introspect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Found:
    """A picture that a layout says something about; nothing is opened yet.

    Attributes:
        image: The picture.
        mask: Its ground truth as distributed; None for an authentic picture.
        set: Dataset it belongs to.
        group: Pictures of one scene share it, and must never be divided between splits.
        rule: How the mask marks.
        source: Mask of where a copy-move was copied from, if known.
    """

    image: Path
    mask: Path | None
    set: str
    group: str
    rule: Rule = "white"
    source: Path | None = None


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to know about a file, in a clause; what is wrong is left out of the manifest."""

    path: Path
    what: str
    wrong: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def pictures(folder: Path | None, *, deep: bool = False) -> list[Path]:
    """Pictures in a folder, sorted; with `deep`, also in those below. None has none."""
    if folder is None:
        return []
    paths = folder.rglob("*") if deep else folder.glob("*")
    return sorted(
        p
        for p in paths
        if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )


def below(root: Path, *names: str) -> Path | None:
    """Find a folder, or a chain of them, a few levels down; nearest first, whatever the case."""
    wanted = [name.casefold() for name in names]
    level = [root]
    for _ in range(_DEPTH):
        for folder in level:
            if folder.name.casefold() == wanted[0]:
                inner = _descend(folder, wanted[1:])
                if inner is not None:
                    return inner
        level = [child for folder in level for child in subfolders(folder)]
    return None


def subfolders(folder: Path) -> list[Path]:
    """Folders in a folder, sorted; links are not followed."""
    with os.scandir(folder) as inside:  # asks the disk nothing more for each of its files
        return sorted(
            folder / each.name
            for each in inside
            if each.is_dir(follow_symlinks=False) and not each.name.startswith(".")
        )


def _descend(folder: Path, names: list[str]) -> Path | None:
    for name in names:
        inner = next((p for p in subfolders(folder) if p.name.casefold() == name), None)
        if inner is None:
            return None
        folder = inner
    return folder


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Files by stem; of several with one stem, the first."""
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(path.stem, path)
    return found


def authentic(paths: Iterable[Path], name: str, group: str = "") -> Iterator[Found]:
    """Authentic pictures, each a group of its own unless one is named."""
    for path in paths:
        yield Found(path, None, name, group or path.stem)


def paired(
    image: Path,
    mask: Path | None,
    name: str,
    group: str,
    rule: Rule = "white",
    source: Path | None = None,
) -> Found | Remark:
    """Pair a manipulated picture with its mask, or say that it has none."""
    return Found(image, mask, name, group, rule, source) if mask else unpaired(image)


def unpaired(path: Path) -> Remark:
    """Say that a manipulated picture has no mask."""
    return Remark(path, "has no mask")
