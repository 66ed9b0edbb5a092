"""Find the pictures that the command line names: the same ones in the same order every time."""

from __future__ import annotations

import codecs
import os
import re
import stat
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from imlctl.errors import DecodeError, InputError, UsageError
from imlctl.image.formats import HEAD_BYTES, identify
from imlctl.mask.render import kind_of_output
from imlctl.scan.naming import STANDARD_STREAM, Kind, identity, is_kept

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib"),
    *(".gif", ".heic", ".heif", ".hif", ".avif"),
)
_MARKS = {  # of lists from Windows
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # shells and paths eat a second slash


@dataclass(frozen=True, slots=True)
class Picture:
    """One input, and its place in the tree of outputs."""

    path: Path | None  # None for the standard input
    name: PurePath  # below the folder given; of a file its bare name, of one from a list all of it

    def __post_init__(self) -> None:
        if self.name.is_absolute() or ".." in self.name.parts or not self.name.name:
            raise ValueError(f"not a name below an output folder: {self.name}")

    def __str__(self) -> str:
        return "standard input" if self.path is None else str(self.path)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or folder that was found and is not analysed, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """Pictures to analyse as given (a folder's in byte order), and what else lay there."""

    pictures: tuple[Picture, ...]
    problems: tuple[InputError, ...] = ()  # of inputs that cannot be had
    left_out: tuple[LeftOut, ...] = ()
    many: bool = False  # whether several inputs or a folder were given

    @property
    def not_analysed(self) -> tuple[LeftOut, ...]:
        """Everything that will have no record: what was left out, and what cannot be had."""
        known = {each.path for each in self.left_out}
        problems = (LeftOut(Path(each.source), each.what) for each in self.problems)
        return (*self.left_out, *(each for each in problems if each.path not in known))


def matches(path: PurePath, patterns: Sequence[str]) -> bool:
    """Return whether a path below the folder that was given matches a pattern, as in the shell.

    Capitals count. One without a slash is compared with the name of the file or folder, one with a
    slash with the path; there, ``*`` also spans slashes.
    """
    whole = path.as_posix()
    return any(fnmatchcase(whole if "/" in p else path.name, p.removesuffix("/")) for p in patterns)


def discover(
    inputs: Sequence[str],
    *,
    recursive: bool = False,
    out: str | None = None,
    kinds: Collection[Kind] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    listed: Sequence[str] = (),
) -> Discovery:
    """Find the pictures among files and folders, "-" for the standard input, and a list of files.

    A file that is named or listed is taken whatever it is, even if it is missing: whoever reads it
    will say so. In folders, a file is taken if its content or its suffix is that of a picture;
    links to folders are not followed. Only there, `include` and `exclude` are patterns of what is
    taken and left. Left out are pictures that imlctl wrote, the output folder,
    and what this scan would write itself: masks and other `kinds`. UsageError where nothing is
    given, "-" is given twice, or a folder has no picture.
    """
    if not (inputs or listed) or "" in inputs:
        raise UsageError("no picture is given", remedy="Name a file, a folder, or - .")
    if list(inputs).count(STANDARD_STREAM) > 1:
        raise UsageError("standard input is given twice", source="-", remedy="Give it once.")

    pictures: list[Picture] = []
    problems: list[InputError] = []
    left_out: list[LeftOut] = []
    many = len(inputs) > 1 or bool(listed)
    for given in inputs:
        path = Path(given)
        if given == STANDARD_STREAM:
            pictures.append(Picture(None, PurePath("stdin")))
        elif stat.S_ISDIR(_mode(path)):
            many = True
            search = _Search(path, recursive, out, {Kind.MASK, *kinds}, include, exclude)
            found = sorted(search.walk(), key=_byte_order)
            if not found and not search.problems:
                raise search.nothing_found()
            pictures += [Picture(file, file.relative_to(path)) for file in found]
            problems += search.problems
            left_out += sorted(search.left_out, key=lambda each: _byte_order(each.path))
        elif path.name == "..":
            problems.append(InputError("there is no such folder", source=given))
        elif _URL.match(given) and not path.exists():
            problems.append(_not_fetched(given))
        else:
            pictures.append(Picture(path, PurePath(path.name)))
    for given in listed:
        if _URL.match(given) and not Path(given).exists():
            problems.append(_not_fetched(given))
        elif (name := tree_name(given)).name:
            pictures.append(Picture(Path(given), name))
        else:
            problems.append(InputError("this is a folder, in a list of files", source=given))
    return Discovery(tuple(dict.fromkeys(pictures)), tuple(problems), tuple(left_out), many)


def _not_fetched(url: str) -> InputError:
    remedy = "Download the picture, then give the file."
    return InputError("URLs are not fetched", source=url, remedy=remedy)


@dataclass(slots=True)
class _Search:
    root: Path
    recursive: bool
    out: str | None
    kinds: set[Kind]
    include: Sequence[str]
    exclude: Sequence[str]
    problems: list[InputError] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def walk(self) -> Iterator[Path]:
        """Yield the pictures, in no order."""
        output_folder = identity(Path(self.out)) if self.out else None
        in_place = output_folder is not None and output_folder == identity(self.root)
        pending = [self.root]
        while pending:
            folder = pending.pop()
            try:
                entries = {path.name: path for path in folder.iterdir()}
            except OSError as error:
                what = f"this folder cannot be read: {error.strerror or error}"
                self._problem(folder, what, "Check its permissions; no picture in it was analysed.")
                continue
            ours: set[str] = set()  # written by this scan into the folder that it searches
            if in_place:
                ours = {name + kind.suffix for name in entries for kind in self.kinds}
                ours |= set(filter(is_kept, entries)) if folder == self.root else set()
            for path in entries.values():
                if stat.S_ISDIR(_mode(path)):
                    if not (reason := self._why_not_searched(path, output_folder)):
                        pending.append(path)
                elif not (reason := self._why_not_taken(path, ours)):
                    yield path
                if reason:
                    self.left_out.append(LeftOut(path, reason))

    def _why_not_searched(self, folder: Path, output_folder: tuple[int, int] | None) -> str:
        if folder.is_symlink():
            return "a link to a folder, not followed"
        if not self.recursive:
            return "a folder within the folder; add --recursive to search it"
        if matches(folder.relative_to(self.root), self.exclude):
            return "a folder left out by --exclude"
        return "the output folder" if output_folder and identity(folder) == output_folder else ""

    def _why_not_taken(self, path: Path, ours: set[str]) -> str:
        """Return why a file is left out, "" for a picture; note a problem where it may be one."""
        named_so = path.suffix.lower() in SUFFIXES
        name = path.relative_to(self.root)
        wanted = not self.include or matches(name, self.include)
        wanted = wanted and not matches(name, self.exclude)
        if not stat.S_ISREG(_mode(path)):
            what = "not a regular file, or a link that leads nowhere"
            if named_so and wanted:
                self._problem(path, f"this is {what}", "Copy the picture itself to its place.")
            return what
        head, what = b"", ""
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
            identify(head, name=path.name)
        except OSError as error:
            if not named_so:  # it may well be a picture; one with a suffix fails when it is read
                what = f"it cannot be read ({error.strerror or error})"
                self._problem(path, what, "Check its permissions.")
        except DecodeError as error:
            what = error.what
        if kind := kind_of_output(head):
            return f"written by imlctl ({kind})"
        if path.name in ours and (what or head.startswith(b"\x89PNG")):
            return "an output of this scan"
        if named_so or not what:
            return "" if wanted else "left out by --include or --exclude"
        return what

    def _problem(self, path: Path, what: str, remedy: str) -> None:
        self.problems.append(InputError(what, source=str(path), remedy=remedy))

    def nothing_found(self) -> UsageError:
        """Say why a folder came to nothing."""
        counts = Counter(each.reason for each in self.left_out).most_common(3)
        left_out = "; ".join(f"{count} {reason}" for reason, count in counts)
        remedy = f"Left out: {left_out}." if left_out else "There is nothing in it."
        what = "there is no picture in this folder"
        return UsageError(what, source=str(self.root), remedy=remedy)


def describe_left_out(left_out: Sequence[LeftOut], most: int = 3) -> Iterator[str]:
    """Yield a sentence for each reason, with the first few names."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for each in left_out:
        by_reason[each.reason].append(str(each.path))
    for reason, paths in sorted(by_reason.items()):
        more = f" and {len(paths) - most} more" if len(paths) > most else ""
        yield f"left out {', '.join(paths[:most])}{more}: {reason}"


def read_names(file: str, *, zero: bool = False) -> tuple[str, ...]:
    """Read names of files, a line each, or each ended by a zero byte as of `find -print0`.

    Lists from Windows are read too: in UTF-16, or in UTF-8 with a byte order mark. "-" stands for
    the standard input. UsageError if it is no list of names.
    """
    source = f"--files-from {file}"
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        remedy = "Name a file that lists pictures, or - for the standard input."
        raise UsageError(what, source=source, remedy=remedy) from error
    encoding = next((_MARKS[mark] for mark in _MARKS if data.startswith(mark)), "")
    for half, order in ((data[1::2], "le"), (data[::2], "be")):  # UTF-16 without its mark
        if not (zero or encoding) and 2 * half.count(0) > len(half):
            encoding = f"utf-16-{order}"
    if encoding:
        try:
            data = os.fsencode(data.decode(encoding))
        except UnicodeError as error:
            remedy = "Save the list as UTF-8."
            raise UsageError(f"not valid {encoding}", source=source, remedy=remedy) from error
    if not zero and b"\0" in data:
        remedy = "Save the list as UTF-8." if encoding else "Add -0 if names end in them."
        raise UsageError("there are zero bytes in it", source=source, remedy=remedy)
    names = data.split(b"\0") if zero else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    listed = tuple(os.fsdecode(name) for name in names if name)
    if not listed:
        raise UsageError("it names no file", source=source, remedy="Check the list.")
    return listed


def tree_name(name: str) -> PurePath:
    """Return the position of a listed file in the tree of the outputs: its path, made relative."""
    path = PurePath(os.path.normpath(name))
    return PurePath(*(p for p in path.relative_to(path.anchor).parts if p != os.pardir))


def _mode(path: Path) -> int:
    """Return the mode of the file that a path leads to, or 0 if that cannot be known."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return 0


def _byte_order(path: Path) -> list[bytes]:
    return [os.fsencode(part) for part in path.parts]
