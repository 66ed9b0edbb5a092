"""The chain of custody: hashes of every input and output, written once and checked later."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from imlctl import __version__, atomic
from imlctl.errors import OutputError
from imlctl.scan.naming import MANIFEST

if TYPE_CHECKING:
    from imlctl.scan.ledger import Row
    from imlctl.scan.naming import Shard

_NAMES = re.compile(rf"{MANIFEST}(\.\d+-of-\d+)?")  # which `sha256sum --check` reads as well
_REWRITTEN = b"# written again by imlctl report: "
_LINE = re.compile(rb"(\\?)([0-9a-f]{64}) [ *]([^\0\r\n]+)\r?")  # Windows may have saved it


def now() -> str:
    """Return the time, as manifests and ledgers note it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def all_match(files: Mapping[str, str]) -> bool:
    """Return whether every file, name to sha256, is there and has its hash."""
    try:
        return all(atomic.sha256_of(path) == digest for path, digest in files.items())
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Finding:
    """State of a file of a manifest: its problem, or a remark on what was done on purpose."""

    path: Path
    problem: str
    remark: str = ""


def manifest_path(folder: Path, shard: Shard | None = None) -> Path:
    """Return where the manifest of a scan into this folder lies."""
    return folder / (MANIFEST if shard is None else f"{MANIFEST}.{shard.label}")


def write_checksums(
    path: Path,
    rows: Iterable[Row],
    command: Sequence[str],
    *,
    also: Sequence[Path] = (),
    remarks: Sequence[str] = (),
) -> list[Finding]:
    """Hash every input once more, and write down all inputs, all outputs, and `also`.

    An input is listed with the hash of what was analysed; one that could not be decoded, with its
    hash now. One that cannot be read is in a comment, as are the command line and remarks. Returned
    are inputs that changed or vanished since. OutputError where a file of `also` cannot be read.
    """
    folder = path.parent.resolve()
    hashes: dict[bytes, str] = {}
    changed: list[Finding] = []
    for row in rows:
        if row.path is not None:
            found, problem = _compare(row.path, row.sha256)
            if problem in ("changed", "missing"):
                problem += " since it was analysed" + (f" (sha256 now {found})" if found else "")
            if problem:
                changed.append(Finding(row.path, problem))
            if digest := row.sha256 or found:
                hashes[_named(row.path, folder)] = digest
        hashes |= {os.fsencode(p.relative_to(path.parent)): h for p, h in row.outputs.items()}
    hashes |= _hashes(also, folder)
    program, where = f"imlctl {__version__}, {now()}", f"in folder: {Path.cwd()}"
    head = [program, f"command: {shlex.join(command)}", where, *remarks]
    head += [f"{finding.problem}: {finding.path}" for finding in changed]
    lines = [b"# " + _escaped(os.fsencode(line)) for line in head]
    lines += [_line(name, digest) for name, digest in sorted(hashes.items())]
    atomic.write(path, b"\n".join(lines) + b"\n", overwrite=True)
    return changed


def add_reports(folder: Path, files: Sequence[Path], command: Sequence[str]) -> Path | None:
    """Add reports that were written after the scan to its manifest; raises OutputError.

    The previous one becomes ``SHA256SUMS.1``, ``.2`` and so on, is listed in the new one, and is
    returned; None if the folder has none, or it lists the files as they are.
    """
    path = manifest_path(folder)
    if not _manifests(folder):
        return None  # the scan was not asked for one
    before = path.read_bytes() if path.is_file() else b""
    entries = [(line, *_parsed(line, n, path)) for n, line in enumerate(before.split(b"\n"), 1)]
    listed = {name: digest for _, name, digest in entries if name}
    hashes = _hashes(files, folder.resolve())
    new = {name: digest for name, digest in hashes.items() if listed.get(name) != digest}
    if not new:
        return None
    kept = None
    lines = [line for line, name, _ in entries if line and name not in new]
    head = f"{now()}, imlctl {__version__}: {shlex.join(command)}"
    lines.append(b"# " + _escaped(os.fsencode(head)))
    if before:
        numbers = (n for n in range(1, 10**6) if not (folder / f"{MANIFEST}.{n}").exists())
        kept = folder / f"{MANIFEST}.{next(numbers)}"
        atomic.write(kept, before)
        lines.append(_line(os.fsencode(kept.name), hashlib.sha256(before).hexdigest()))
    for name, digest in sorted(new.items()):
        if name in listed:
            lines.append(_REWRITTEN + _escaped(name))
        lines.append(_line(name, digest))
    atomic.write(path, b"\n".join(lines) + b"\n", overwrite=True)
    return kept


def manifests(folder: Path) -> list[Path]:
    """Return the manifests in a folder; raises OutputError if there is none."""
    if not (found := _manifests(folder)):
        what = f"there is no {MANIFEST} in this folder"
        remedy = "It is written by localize with --manifest."
        raise OutputError(what, source=str(folder), remedy=remedy)
    return found


def check(manifest: Path) -> Iterator[Finding]:
    """Hash all that a manifest lists, and compare; raises OutputError if it is not one."""
    try:
        lines = manifest.read_bytes().split(b"\n")
    except OSError as error:
        raise OutputError(f"cannot be read: {error.strerror}", source=str(manifest)) from error
    if not any(lines):
        raise OutputError("it is empty", source=str(manifest), remedy="Restore it from a copy.")
    again = {line[len(_REWRITTEN) :].rstrip(b"\r") for line in lines if line.startswith(_REWRITTEN)}
    for number, line in enumerate(lines, 1):
        name, digest = _parsed(line, number, manifest)
        if name:
            path = manifest.parent / os.fsdecode(name)
            remark = "written again by imlctl report" if _escaped(name) in again else ""
            yield Finding(path, _compare(path, digest)[1], remark)


def _manifests(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob(f"{MANIFEST}*") if _NAMES.fullmatch(p.name))


def _hashes(files: Sequence[Path], folder: Path) -> dict[bytes, str]:
    hashes = {}
    for file in files:
        try:
            hashes[_named(file, folder)] = atomic.sha256_of(file)
        except OSError as error:
            raise OutputError(f"cannot be read: {error.strerror}", source=str(file)) from error
    return hashes


def _compare(path: Path, digest: str | None) -> tuple[str, str]:
    """Return the hash of a file now, if it has one, and what is wrong with it."""
    try:
        found = atomic.sha256_of(path)
    except FileNotFoundError:
        return "", "missing"
    except OSError as error:
        return "", f"cannot be read ({error.strerror or error})"
    return found, "" if digest in (None, found) else "changed"


def _named(path: Path, folder: Path) -> bytes:
    """Name a file from the manifest's folder, so that both can be moved together."""
    whole = path.parent.resolve() / path.name
    try:
        return os.fsencode(os.path.relpath(whole, folder))
    except ValueError:  # another drive
        return os.fsencode(whole)


def _line(name: bytes, digest: str) -> bytes:
    mark = b"\\" if _escaped(name) != name else b""
    return mark + digest.encode() + b"  " + _escaped(name)


def _escaped(name: bytes) -> bytes:
    return name.replace(b"\\", rb"\\").replace(b"\n", rb"\n").replace(b"\r", rb"\r")


def _parsed(line: bytes, number: int, manifest: Path) -> tuple[bytes, str]:
    """Return the name and the hash on a line of a manifest, nothing for a comment."""
    if not line.strip() or line.startswith(b"#"):
        return b"", ""
    match = _LINE.fullmatch(line)
    if match is None:
        what = f"line {number} is not a hash and a name"
        remedy = "The manifest was changed after it was written."
        raise OutputError(what, source=str(manifest), remedy=remedy)
    escaped, digest, name = match.groups()
    meaning = {rb"\n": b"\n", rb"\r": b"\r", rb"\\": b"\\"}
    if escaped:
        name = re.sub(rb"\\[nr\\]", lambda found: meaning[found[0]], name)
    return name, digest.decode()
