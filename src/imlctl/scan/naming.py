"""Decide where every output goes, and refuse all conflicts before the first picture."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from imlctl.atomic import output_error
from imlctl.errors import OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence

    from imlctl.scan.discover import Picture
    from imlctl.scan.shard import Shard

STANDARD_STREAM = "-"
_SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))
_LONGEST_NAME = 255  # bytes, on every common file system
_REPORTS = re.compile(r"(report|records)(-\d+-of-\d+)?\.(html|jsonl|csv)")
_RESERVED = ("imlctl-ledger", "SHA256SUMS")  # how names of files begin that a scan keeps


class Kind(StrEnum):
    """What can be written of one picture."""

    MASK = "mask"
    OVERLAY = "overlay"
    HEATMAP = "heatmap"
    JSON = "json"

    @property
    def suffix(self) -> str:
        """What is added to the full name of the picture."""
        return ".json" if self is Kind.JSON else f".{self}.png"


@dataclass(frozen=True, slots=True)
class Job:
    """One picture and where its outputs go.

    Attributes:
        picture: What to analyse.
        outputs: Paths of what is wanted; None stands for the standard output. Empty if only the
            verdict is.
    """

    picture: Picture
    outputs: Mapping[Kind, Path | None]


def plan(
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

    A folder mirrors the tree of the inputs and keeps full names, so that `a.jpg` and `a.png` do
    not meet: `a.jpg.mask.png`. A file is for one picture alone, and what else is wanted stands
    beside it: `mask.png`, `mask.overlay.png`.

    Args:
        pictures: From `discover`.
        out: What `-o` says: a file, a folder, "-" for the standard output, or None.
        kinds: What is wanted besides the mask, which is always written where `out` is given.
        many: Whether several inputs or a folder were given, whatever number that came to.
        force: Whether existing outputs may be replaced.
        ours: Outputs that an earlier scan planned, and this one may replace.
        shard: Return only its jobs; names are compared over the whole all the same, so that no
            two parts write one file.

    Raises:
        UsageError: `out` does not suit the inputs, or is needed and not given.
        OutputError: Two outputs would have one name (on any common file system), one is an input
            (the same file, under whatever name), or one exists and `force` is not set.
    """
    if out is None:
        homeless = [kind for kind in Kind if kind in kinds and kind is not Kind.MASK]
        if homeless:
            raise UsageError(
                f"no place is given for {' and '.join(homeless)}",
                remedy="Add -o with a file or folder.",
            )
        return _part(tuple(Job(picture, {}) for picture in pictures), shard)
    if not out:
        raise UsageError("the name is empty", source="-o", remedy="Name a file or folder.")
    wanted = [kind for kind in Kind if kind is Kind.MASK or kind in kinds]
    if out == STANDARD_STREAM:
        return _to_standard_output(pictures, wanted, many=many)
    try:
        if is_folder(out, many=many):
            jobs = _into_folder(pictures, out, wanted)
            _refuse_unwritable(Path(out))
        else:
            jobs = _into_file(pictures, out, wanted)
            _refuse_unwritable(Path(out).parent)
        _refuse_long_names(jobs)
        _refuse_collisions(jobs)
        _refuse_inputs(jobs)
        jobs = _part(jobs, shard)
        _refuse_existing(jobs, force=force, ours=ours)
    except OSError as error:  # a folder on the way that may not be looked into
        raise output_error(error, f"-o {out}") from error
    return jobs


def _part(jobs: tuple[Job, ...], shard: Shard | None) -> tuple[Job, ...]:
    return tuple(job for job in jobs if shard is None or shard.holds(job.picture.name))


def is_folder(out: str | None, *, many: bool) -> bool:
    """Return whether `-o` stands for a folder of outputs, and not for one file."""
    if not out or out == STANDARD_STREAM:
        return False
    return many or out.endswith(_SEPARATORS) or Path(out).is_dir()


def is_reserved(name: str) -> bool:
    """Return whether a file is called as one that a scan keeps beside its outputs."""
    return name.startswith(_RESERVED) or _REPORTS.fullmatch(name) is not None


def report_name(name: str, shard: Shard | None) -> str:
    """Return what a report is called: of a part of a scan, ``records-2-of-8.jsonl``."""
    stem, dot, suffix = name.rpartition(".")
    return name if shard is None else f"{stem}-{shard.label}{dot}{suffix}"


def _to_standard_output(
    pictures: Sequence[Picture], wanted: Sequence[Kind], *, many: bool
) -> tuple[Job, ...]:
    if many or len(pictures) != 1 or list(wanted) != [Kind.MASK]:
        raise UsageError(
            "the standard output takes the mask of one picture and nothing else",
            source="-o -",
            remedy="Name a file or folder with -o.",
        )
    return (Job(pictures[0], {Kind.MASK: None}),)


def _into_file(pictures: Sequence[Picture], out: str, wanted: Sequence[Kind]) -> tuple[Job, ...]:
    path = Path(out)
    if path.suffix.lower() != ".png":
        raise UsageError(
            "a mask is written as PNG, which loses nothing",
            source=f"-o {out}",
            remedy="End the name in .png, or in / for a folder.",
        )
    (picture,) = pictures  # without `many` there is no other number
    beside = {kind: path.with_name(path.stem + kind.suffix) for kind in wanted}
    return (Job(picture, {**beside, Kind.MASK: path}),)


def _into_folder(pictures: Sequence[Picture], out: str, wanted: Sequence[Kind]) -> tuple[Job, ...]:
    folder = Path(out)
    if folder.suffix.lower() == ".png" and not out.endswith(_SEPARATORS) and not folder.is_dir():
        raise UsageError(
            "this looks like a file, and several pictures need a folder",
            source=f"-o {out}",
            remedy=f"Name a folder, or write {out}{os.sep} if you mean one.",
        )
    return tuple(Job(picture, _in_folder(folder, picture, wanted)) for picture in pictures)


def _in_folder(folder: Path, picture: Picture, wanted: Sequence[Kind]) -> dict[Kind, Path | None]:
    name = picture.name
    return {kind: folder / name.with_name(name.name + kind.suffix) for kind in wanted}


def _files(jobs: Iterable[Job]) -> Iterator[tuple[Path, Picture]]:
    for job in jobs:
        for path in job.outputs.values():
            if path is not None:
                yield path, job.picture


def _refuse_unwritable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before the work and not after it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError("this is not a folder", source=str(folder), remedy="Name another one.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            "you may not write to this folder", source=str(folder), remedy="Name another one."
        )


def _refuse_long_names(jobs: Sequence[Job]) -> None:
    for path, picture in _files(jobs):
        if len(os.fsencode(path.name)) > _LONGEST_NAME:
            raise OutputError(
                f"the name of its output would be longer than {_LONGEST_NAME} bytes",
                source=str(picture),
                remedy="Localize this picture alone, with -o FILE.png.",
            )


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    """Refuse outputs that are one file, or file and folder, to some common file system.

    macOS and Windows take A.png and a.png, and composed and decomposed accents, for the same.
    """
    owners: dict[str, Picture] = {}
    for path, picture in _files(jobs):
        owner = owners.setdefault(_folded(path), picture)
        if owner != picture:
            raise _collision(owner, picture, path)
    folders = {path.parent: picture for path, picture in _files(jobs)}
    for job in jobs:
        if is_reserved(job.picture.name.parts[0]) and len(job.picture.name.parts) > 1:
            raise OutputError(
                "a folder of this name would be in the way of what a scan keeps",
                source=str(job.picture),
                remedy="Localize what is in that folder in a run of its own.",
            )
    for folder, picture in folders.items():
        for parent in (folder, *folder.parents):
            if _folded(parent) in owners:
                raise _collision(owners[_folded(parent)], picture, parent)


def _folded(path: Path) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", str(path)).casefold())


def _collision(first: Picture, second: Picture, path: Path) -> OutputError:
    return OutputError(
        f"the outputs of {first} and {second} would both be called so (or differ only in case)",
        source=str(path),
        remedy="Localize them in two runs, with two output folders.",
    )


def _refuse_inputs(jobs: Sequence[Job]) -> None:
    """Refuse to write onto an input, compared as files and not as names (forensic rule 1)."""
    inputs = {}
    for job in jobs:
        identity = _identity(job.picture.path) if job.picture.path else None
        if identity:
            inputs[identity] = job.picture
    for path, _ in _files(jobs):
        identity = _identity(path)
        if identity in inputs:
            raise OutputError(
                f"this output is the input {inputs[identity]} itself",
                source=str(path),
                remedy="An input is never overwritten; choose another name.",
            )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:  # missing or out of reach: whoever opens it will say so
        return None
    return status.st_dev, status.st_ino


def _refuse_existing(jobs: Sequence[Job], *, force: bool, ours: Container[Path]) -> None:
    def may_be_replaced(path: Path) -> bool:
        return (force or path in ours) and (path.is_file() or path.is_symlink())

    taken = [p for p, _ in _files(jobs) if os.path.lexists(p) and not may_be_replaced(p)]
    if not taken:
        return
    more = f" (and {len(taken) - 1} more outputs)" if len(taken) > 1 else ""
    raise OutputError(
        f"this output is already there{more}",
        source=str(taken[0]),
        remedy="It is not a regular file; choose another name."
        if force
        else "Choose another name, or add --force to replace it, or --resume to go on with"
        " a scan that was interrupted.",
    )
