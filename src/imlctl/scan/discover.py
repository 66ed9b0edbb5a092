"""Find the pictures that the command line names, the same ones in the same order every time."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from imlctl.errors import InputError, UsageError
from imlctl.scan.listing import Patterns, place_of
from imlctl.scan.naming import STANDARD_STREAM, Kind, is_reserved

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib"),
    *(".gif", ".heic", ".heif", ".hif", ".avif"),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One input.

    Attributes:
        path: The file as it was named or found; None for the standard input.
        name: Where it stands in the tree of the outputs: the path below the folder that was given,
            the bare name of a file that was given, or the whole path of one from a list.
    """

    path: Path | None
    name: PurePath

    def __post_init__(self) -> None:
        if self.name.is_absolute() or ".." in self.name.parts or not self.name.name:
            raise ValueError(f"not a name below an output folder: {self.name}")

    def __str__(self) -> str:
        return "standard input" if self.path is None else str(self.path)


@dataclass(frozen=True, slots=True)
class Discovery:
    """What the command line came to.

    Attributes:
        pictures: In the order given; those of a folder in byte order of their paths.
        problems: What was meant but cannot be had, such as a folder that may not be read.
        notes: What was left out on purpose, in sentences.
        many: Whether several inputs or a folder were given.
    """

    pictures: tuple[Picture, ...]
    problems: tuple[InputError, ...] = ()
    notes: tuple[str, ...] = ()
    many: bool = False


def discover(
    inputs: Sequence[str],
    *,
    recursive: bool = False,
    out: str | None = None,
    patterns: Patterns | None = None,
    listed: Sequence[str] = (),
) -> Discovery:
    """Find the pictures among files and folders.

    A file that is named is taken whatever its suffix, even if it is missing: whoever reads it will
    say so. In folders, regular files (and links to such) with the suffix of a picture are taken;
    links to folders are not followed. Masks and renderings of ours that lie beside their picture
    are left out, and so is the output folder.

    Args:
        inputs: Files, folders, or "-" for the standard input (a file of that name is "./-").
        recursive: Whether to go into the folders within folders.
        out: What `-o` says; left out if it is a folder inside a folder that is searched.
        patterns: What to take and leave in folders; every picture by default.
        listed: Files from a list, taken like files that are named.

    Raises:
        UsageError: Nothing is given, "-" is given twice, or a folder has no picture.
    """
    if not (inputs or listed) or "" in inputs:
        raise UsageError("no picture is given", remedy="Name a file, a folder, or - .")
    if list(inputs).count(STANDARD_STREAM) > 1:
        raise UsageError("the standard input is given twice", source="-", remedy="Give it once.")

    pictures: list[Picture] = []
    problems: list[InputError] = []
    notes: list[str] = []
    many = len(inputs) > 1 or bool(listed)
    for given in inputs:
        path = Path(given)
        if given == STANDARD_STREAM:
            pictures.append(Picture(None, PurePath("stdin")))
        elif stat.S_ISDIR(_mode(path)):
            many = True
            search = _Search(path, recursive, _folder_identity(out), patterns or Patterns())
            found = sorted(search.walk(), key=_byte_order)
            if not found and not search.problems:
                raise _nothing_in(given, recursive=recursive, left=search.left)
            pictures += [Picture(file, file.relative_to(path)) for file in found]
            problems += search.problems
            notes += search.summary()
        elif path.name == "..":
            problems.append(InputError("there is no such folder", source=given))
        else:
            pictures.append(Picture(path, PurePath(path.name)))
    for given in listed:
        place = place_of(given)
        if place.name:
            pictures.append(Picture(Path(given), place))
        else:
            problems.append(InputError("this is a folder, in a list of files", source=given))
    return Discovery(tuple(dict.fromkeys(pictures)), tuple(problems), tuple(notes), many)


@dataclass(slots=True)
class _Search:
    """A walk through one folder, and what it met on its way."""

    root: Path
    recursive: bool
    pruned: tuple[int, int] | None
    patterns: Patterns
    problems: list[InputError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    ours: int = 0
    left: int = 0

    def walk(self) -> Iterator[Path]:
        """Yield the pictures, in no order."""
        pending = [self.root]
        while pending:
            folder = pending.pop()
            try:
                with os.scandir(folder) as scan:
                    links = {entry.name: entry.is_symlink() for entry in scan}
            except OSError as error:
                self._problem(
                    folder,
                    f"this folder cannot be read: {error.strerror or error}",
                    "Check its permissions; no picture in it was analysed.",
                )
                continue
            for name, is_link in links.items():
                path = folder / name
                mode = _mode(path)
                if stat.S_ISDIR(mode):
                    if is_link:
                        self.notes.append(f"{path}: a link to a folder, not followed.")
                    elif self.recursive and not self._is_left(path):
                        pending.append(path)
                elif self._is_picture(path, mode, links):
                    yield path

    def _is_left(self, folder: Path) -> bool:
        if self.patterns.leaves(folder.relative_to(self.root)):
            self.notes.append(f"{folder}: excluded, not searched.")
            return True
        pruned = self.pruned is not None and _folder_identity(str(folder)) == self.pruned
        if pruned:
            self.notes.append(f"{folder}: the output folder, not searched.")
        return pruned

    def _is_picture(self, path: Path, mode: int, siblings: Container[str]) -> bool:
        suffix = path.suffix.lower()
        if _is_ours(path.name, siblings):
            self.ours += 1
        elif suffix in SUFFIXES and not self.patterns.takes(path.relative_to(self.root)):
            self.left += 1
        elif suffix not in SUFFIXES:
            self.other[suffix or "without suffix"] += 1
        elif stat.S_ISREG(mode):
            return True
        else:
            self._problem(
                path,
                "this is not a regular file, or a link that leads nowhere",
                "Copy the picture itself to its place.",
            )
        return False

    def _problem(self, path: Path, what: str, remedy: str) -> None:
        self.problems.append(InputError(what, source=str(path), remedy=remedy))

    def summary(self) -> list[str]:
        """Return the notes, in a fixed order."""
        notes = sorted(self.notes, key=os.fsencode)
        if self.ours:
            notes.append(f"{self.root}: left out {self.ours} of our own outputs.")
        if self.left:
            notes.append(f"{self.root}: left out {self.left} pictures by --include and --exclude.")
        if self.other:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.other.items()))
            notes.append(f"{self.root}: left out files that are no pictures ({kinds}).")
        return notes


def _mode(path: Path) -> int:
    """Return what the path leads to, as in `stat`, or 0 if that cannot be known."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return 0


def _is_ours(name: str, siblings: Container[str]) -> bool:
    """Return whether a file is called as our output for a file beside it, or as our ledger."""
    return is_reserved(name) or any(
        name.endswith(kind.suffix) and name.removesuffix(kind.suffix) in siblings for kind in Kind
    )


def _byte_order(path: Path) -> list[bytes]:
    return [os.fsencode(part) for part in path.parts]


def _folder_identity(folder: str | None) -> tuple[int, int] | None:
    if folder is None or not Path(folder).is_dir():
        return None
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def _nothing_in(folder: str, *, recursive: bool, left: int) -> UsageError:
    if left:
        return UsageError(
            f"--include and --exclude leave none of the {left} pictures in this folder",
            source=folder,
            remedy="Capital and small letters differ; put patterns in quotes.",
        )
    remedy = f"Looked for {', '.join(SUFFIXES)}, in small or capital letters."
    if not recursive:
        remedy += " Add --recursive to look into the folders within it."
    return UsageError("there is no picture in this folder", source=folder, remedy=remedy)
