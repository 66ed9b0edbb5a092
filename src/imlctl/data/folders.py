"""Finding pictures and folders in a dataset, whatever the case of their names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imlctl.data.masks import Rule  # noqa: TC001  # a field's type, for those who introspect

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
_DEPTH = 4


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """A picture that a layout says something about; nothing is opened yet."""

    image: Path
    mask: Path | None  # its ground truth as distributed; None for an authentic picture
    set: str
    group: str  # pictures of one scene share it, and must never be divided between splits
    rule: Rule = "white"  # how the mask marks


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
    return sorted(
        p
        for p in (folder.rglob("*") if deep else folder.glob("*"))
        if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )


def below(root: Path, name: str) -> Path | None:
    """Find a folder a few levels down; nearest first, whatever the case of its name."""
    level = [root]
    for _ in range(_DEPTH):
        for folder in level:
            if folder.name.casefold() == name.casefold():
                return folder
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


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Files by stem; of several with one stem, the first."""
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(path.stem, path)
    return found


def all_authentic(paths: Iterable[Path], name: str) -> Iterator[FoundPicture]:
    """Authentic pictures of a set, each a group of its own."""
    return (FoundPicture(path, None, name, path.stem) for path in paths)


def paired(
    images: Iterable[Path],
    masks: Mapping[str, Path],
    name: str,
    *,
    named: Sequence[str] = ("{stem}",),
    scene: Callable[[str], str] = str,
    rule: Rule = "white",
) -> Iterator[FoundPicture | Remark]:
    """Pair manipulated pictures of a set with their masks, or say that they have none.

    A mask may be `named` after the stem of its picture, or after the `scene` that the stem tells.
    """
    for image in images:
        group = scene(image.stem)
        stems = (each.format(stem=image.stem, scene=group) for each in named)
        mask = next((masks[stem] for stem in stems if stem in masks), None)
        if mask is None:
            yield Remark(image, "has no mask")
        else:
            yield FoundPicture(image, mask, name, group, rule)
