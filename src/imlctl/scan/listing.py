"""Which files among those found are meant: patterns, and lists of names in a file."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from imlctl.errors import UsageError

if TYPE_CHECKING:
    from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Patterns:
    """What to take and what to leave in folders; files that are named are always taken.

    A pattern is as in the shell: ``*``, ``?``, ``[a-z]``; capital and small letters differ. One
    without a slash is compared with the name of a file or folder, one with a slash with the path
    below the folder that was given; there, ``*`` also spans slashes.

    Attributes:
        include: If any, only pictures that match one of them are taken.
        exclude: Pictures and folders that match one of them are left.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def takes(self, path: PurePath) -> bool:
        """Return whether a picture, named from the folder that was given, is meant."""
        return (not self.include or _matches(path, self.include)) and not self.leaves(path)

    def leaves(self, path: PurePath) -> bool:
        """Return whether a picture or folder is excluded by its own name or path."""
        return _matches(path, self.exclude)


def _matches(path: PurePath, patterns: tuple[str, ...]) -> bool:
    whole = path.as_posix()
    return any(fnmatchcase(whole if "/" in p else path.name, p.removesuffix("/")) for p in patterns)


def read_names(file: str, *, zero: bool = False, stdin: BinaryIO | None = None) -> tuple[str, ...]:
    """Read the names of files, one a line, or each ended by a zero byte.

    Args:
        file: Where they are; "-" for the standard input.
        zero: Whether zero bytes part them, as `find -print0` writes them.
        stdin: Used for "-"; the standard input if None.

    Raises:
        UsageError: The file cannot be read, names nothing, or seems to be parted otherwise.
    """
    try:
        data = (stdin or sys.stdin.buffer).read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror or error}",
            source=f"--files-from {file}",
            remedy="Name a file that lists pictures, or - for the standard input.",
        ) from error
    if not zero and b"\0" in data:
        raise UsageError(
            "the names are parted by zero bytes", source=f"--files-from {file}", remedy="Add -0."
        )
    names = data.split(b"\0") if zero else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    listed = tuple(os.fsdecode(name) for name in names if name)
    if not listed:
        raise UsageError("it names no file", source=f"--files-from {file}", remedy="Check it.")
    return listed


def place_of(name: str) -> PurePath:
    """Return where a listed file stands in the tree of the outputs: its path, made relative."""
    path = PurePath(os.path.normpath(name))
    parts = [part for part in path.relative_to(path.anchor).parts if part != os.pardir]
    return PurePath(*parts)
