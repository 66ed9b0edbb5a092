"""Decide the name of every output, and refuse all conflicts before the first picture."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Self

from imlctl.atomic import output_error
from imlctl.errors import OutputError, UsageError

if TYPE_CHECKING:
    from imlctl.scan.find import Picture

STANDARD_STREAM = "-"
LEDGER, MANIFEST = "imlctl-ledger", "SHA256SUMS"
PAGE, PDF = "report.html", "report.pdf"
JSONL, CSV = "records.jsonl", "records.csv"
_PART = r"\d+-of-\d+"
_KEPT = re.compile(
    rf"{LEDGER}(-{_PART})?\.sqlite(-wal|-journal|-shm)?|{MANIFEST}(\.{_PART}|\.\d+)?"
    rf"|(report|records)(-{_PART})?\.(html|pdf|jsonl|csv)",
    re.IGNORECASE,  # as some disks take names
)
_SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))
_LONGEST_NAME = 255  # bytes, on every common file system
_LONGEST_PATH = 4096 - 64  # bytes, on Linux; the rest is for the names of temporary files


class Kind(StrEnum):
    """Kinds of outputs of one picture."""

    MASK = "mask"
    OVERLAY = "overlay"
    HEATMAP = "heatmap"
    VIEWS = "views"
    RELIABILITY = "reliability"
    JSON = "json"

    @property
    def suffix(self) -> str:
        """Added to the full name of the picture."""
        return ".json" if self is Kind.JSON else f".{self}.png"


_LONGEST_SUFFIX = max(len(kind.suffix) for kind in Kind)


@dataclass(frozen=True, slots=True)
class Job:
    """One picture and the paths of its outputs, of which None stands for the standard output."""

    picture: Picture
    outputs: Mapping[Kind, Path | None]

    @property
    def files(self) -> list[Path]:
        """The outputs that have a path."""
        return [path for path in self.outputs.values() if path is not None]


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts, numbered from 1, of a scan; the hash of a picture's name decides."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``2/8``; raises UsageError for anything else."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            remedy = "Write one of --shard 1/8 to --shard 8/8."
            raise UsageError(f"not a part of a scan: {text!r}", source="--shard", remedy=remedy)
        return cls(int(match[1]), int(match[2]))

    @property
    def label(self) -> str:
        """For names of files: ``2-of-8``."""
        return f"{self.index}-of-{self.count}"

    def holds(self, name: PurePath) -> bool:
        """Return whether a picture belongs to this part: the same on every machine."""
        digest = hashlib.sha256(b"/".join(map(os.fsencode, name.parts))).digest()
        return int.from_bytes(digest[:8]) % self.count == self.index - 1


def files_of(jobs: Iterable[Job]) -> list[Path]:
    """List the files that are written for some pictures."""
    return [path for job in jobs for path in job.files]


def plan_outputs(
    pictures: Sequence[Picture],
    out: str | None,
    kinds: Collection[Kind] = (Kind.MASK,),
    *,
    many: bool,
    force: bool = False,
    ours: Container[Path] = (),
    shard: Shard | None = None,
) -> tuple[Job, ...]:
    """Give every picture its outputs, or refuse them all.

    A folder mirrors the tree of the inputs and keeps full names: `a.jpg.mask.png`. A file is for
    one picture, and what else is wanted stands beside it: `mask.png`, `mask.overlay.png`. The mask
    is always written where `out`, the value of `-o`, is given. Existing outputs may be replaced
    with `force`, those of `ours` in any case. Of a shard, only its jobs are returned, with names
    compared over the whole, so that no two parts write one file. UsageError where `out` does not
    suit the inputs, or is needed; OutputError where an output is an input, under whatever name, or
    exists without `force`.
    """
    mine = [shard is None or shard.holds(picture.name) for picture in pictures]
    if out is None:
        if homeless := [kind for kind in Kind if kind in kinds and kind is not Kind.MASK]:
            what = f"no output is named for {' and '.join(homeless)}"
            raise UsageError(what, remedy="Add -o with a file or folder.")
        return tuple(Job(picture, {}) for picture, yes in zip(pictures, mine, strict=True) if yes)
    if not out:
        raise UsageError("the name is empty", source="-o", remedy="Name a file or folder.")
    wanted = [kind for kind in Kind if kind is Kind.MASK or kind in kinds]
    if out == STANDARD_STREAM:
        if many or wanted != [Kind.MASK]:
            what = "standard output takes the mask of one picture and nothing else"
            raise UsageError(what, source="-o -", remedy="Name a file or folder with -o.")
        return tuple(Job(picture, {Kind.MASK: None}) for picture in pictures)  # one or none
    try:
        folder = Path(out) if is_folder(out, many=many) else None
        jobs = (_into_folder if folder else _into_file)(pictures, out, wanted)
        _refuse_unwritable(folder or Path(out).parent)
        _refuse_inputs(jobs, folder)
        jobs = tuple(job for job, yes in zip(jobs, mine, strict=True) if yes)
        _refuse_existing(jobs, force=force, ours=ours)
    except OSError as error:  # a folder on the way that may not be looked into
        raise output_error(error, f"-o {out}") from error
    return jobs


def is_folder(out: str | None, *, many: bool) -> bool:
    """Return whether `-o` stands for a folder of outputs, and not for one file."""
    if not out or out == STANDARD_STREAM:
        return False
    return many or out.endswith(_SEPARATORS) or Path(out).is_dir()


def is_kept(name: str) -> bool:
    """Return whether a file is called as one that a scan keeps beside its outputs."""
    return _KEPT.fullmatch(name) is not None


def report_name(name: str, shard: Shard | None) -> str:
    """Return the name of a report: of a part of a scan, ``records-2-of-8.jsonl``."""
    stem, dot, suffix = name.rpartition(".")
    return name if shard is None else f"{stem}-{shard.label}{dot}{suffix}"


def _into_file(pictures: Sequence[Picture], out: str, wanted: Sequence[Kind]) -> tuple[Job, ...]:
    path = Path(out)
    if path.suffix.lower() != ".png":
        what = "a mask is written as PNG, which loses nothing"
        remedy = "End the name in .png, or in / for a folder."
        raise UsageError(what, source=f"-o {out}", remedy=remedy)
    outputs = {kind: path.with_name(path.stem + kind.suffix) for kind in wanted}
    outputs[Kind.MASK] = path
    for output in outputs.values():
        if len(os.fsencode(output.name)) > _LONGEST_NAME:
            what = f"a name has at most {_LONGEST_NAME} bytes"
            raise OutputError(what, source=str(output), remedy="Choose a shorter name.")
    return tuple(Job(picture, outputs) for picture in pictures)  # one or none


def _into_folder(pictures: Sequence[Picture], out: str, wanted: Sequence[Kind]) -> tuple[Job, ...]:
    folder = Path(out)
    if folder.suffix.lower() == ".png" and not out.endswith(_SEPARATORS) and not folder.is_dir():
        what = "this looks like a file, and several pictures need a folder"
        remedy = f"Name a folder, or write {out}{os.sep} if you mean one."
        missing = [p for p in pictures if p.path is not None and not os.path.lexists(p.path)]
        if missing:  # the second name of `--overlay overlay.png`, say
            remedy = (
                f"One of them, {missing[0]}, does not exist; if it was meant as the name of an"
                " output, leave it out: outputs are named after -o."
            )
        raise UsageError(what, source=f"-o {out}", remedy=remedy)
    room = _LONGEST_PATH - len(os.fsencode(folder.absolute())) - _LONGEST_SUFFIX
    return tuple(
        Job(picture, {kind: folder / f"{picture.name}{kind.suffix}" for kind in wanted})
        for picture in _unambiguous(pictures, room)
    )


def _unambiguous(pictures: Sequence[Picture], room: int) -> Iterator[Picture]:
    """Rename pictures in the tree of the outputs so that no two meet on any common file system.

    One whose path has no room there goes to the top of the tree. macOS and Windows take A.png and
    a.png, and composed and decomposed accents, for the same; the first of several keeps its name.
    """
    folders = {_folded(parent) for p in pictures for parent in p.name.parents}
    taken: set[str] = set()
    for picture in pictures:
        name = picture.name
        if len(os.fsencode(name)) > room:
            name = PurePath(_marked(name.name, os.fsencode(name)))
        if len(name.parts) > 1 and is_kept(name.parts[0]):
            name = PurePath(_marked(name.parts[0], os.fsencode(name.parts[0])), *name.parts[1:])
        is_long = len(os.fsencode(name.name)) + _LONGEST_SUFFIX > _LONGEST_NAME
        if is_long or _outputs_of(name) & (taken | folders):
            given = os.fsencode(name if picture.path is None else picture.path)
            name = name.with_name(_marked(name.name, given))
        taken |= _outputs_of(name)
        yield picture if name == picture.name else replace(picture, name=name)


def _outputs_of(name: PurePath) -> set[str]:
    return {_folded(f"{name}{kind.suffix}") for kind in Kind}


def _folded(path: PurePath | str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", str(path)).casefold())


def _marked(name: str, given: bytes) -> str:
    """Shorten a name if need be, and put a hash of what was given before its suffix."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(os.fsencode(suffix)) > 8:
        stem, dot, suffix = name, "", ""
    mark = f"~{hashlib.sha256(given).hexdigest()[:8]}{dot}{suffix}"
    room = _LONGEST_NAME - _LONGEST_SUFFIX - len(os.fsencode(mark))
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return stem + mark


def _refuse_unwritable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before the work and not after it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError("this is not a folder", source=str(folder), remedy="Name another one.")
    if not os.access(folder, os.W_OK | os.X_OK):
        what = "you may not write to this folder"
        raise OutputError(what, source=str(folder), remedy="Name another one.")


def _refuse_inputs(jobs: Sequence[Job], folder: Path | None) -> None:
    """Refuse to write onto an input, compared as files and not as names: evidence is read only."""
    inputs = {identity(job.picture.path): job.picture for job in jobs if job.picture.path}
    inputs.pop(None, None)  # missing ones
    kept = [f"{LEDGER}.sqlite", MANIFEST, PAGE, JSONL, CSV] if folder else []
    for path in (*files_of(jobs), *(Path(folder or "", name) for name in kept)):
        if (there := identity(path)) in inputs:
            what = f"this output would replace the input {inputs[there]}"
            remedy = "Choose another output; an input is never overwritten."
            raise OutputError(what, source=str(path), remedy=remedy)


def identity(path: Path) -> tuple[int, int] | None:
    """Return what makes two paths the same file, or None for one that is missing or hidden."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # whoever opens it will say so; ValueError: a zero byte
        return None
    return status.st_dev, status.st_ino


def _refuse_existing(jobs: Sequence[Job], *, force: bool, ours: Container[Path]) -> None:
    def may_be_replaced(path: Path) -> bool:
        return (force or path in ours) and (path.is_file() or path.is_symlink())

    taken = [path for path in files_of(jobs) if os.path.lexists(path) and not may_be_replaced(path)]
    if taken:
        more = f" (and {len(taken) - 1} more outputs)" if len(taken) > 1 else ""
        remedy = "Add --force to replace it, or --resume the scan that wrote it."
        if force:
            remedy = "It is not a regular file; choose another name."
        what = f"this output is already there{more}"
        raise OutputError(what, source=str(taken[0]), remedy=remedy)
