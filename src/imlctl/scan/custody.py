"""The chain of custody: hashes of every input and output, written once and checked later."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from imlctl import __version__, atomic
from imlctl.errors import OutputError
from imlctl.scan.naming import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from imlctl.scan.ledger import Row
    from imlctl.scan.naming import Shard

_NAMES = re.compile(rf"{MANIFEST}(\.\d+-of-\d+)?")  # which `sha256sum --check` reads as well
_REWRITTEN = b"# written again by imlctl report: "
_LINE = re.compile(rb"(\\?)([0-9a-f]{64}) [ *](.+)", re.DOTALL)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a regular file in hexadecimal, read in pieces and never written to.

    Raises:
        OSError: It is missing, cannot be read, or is no regular file.
    """
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):  # a pipe would wait for ever
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(None, "not a regular file")
        return hashlib.file_digest(stream, "sha256").hexdigest()


def all_match(files: Mapping[str, str]) -> bool:
    """Return whether every file, name to sha256, is there and has its hash."""
    try:
        return all(sha256_of(path) == digest for path, digest in files.items())
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


def write_manifest(
    path: Path,
    rows: Iterable[Row],
    command: Sequence[str],
    *,
    also: Sequence[Path] = (),
    remarks: Sequence[str] = (),
) -> list[Finding]:
    """Hash every input once more, and write down all inputs and outputs.

    An input is listed with the hash of what was analysed; one that could not be decoded, with its
    hash now. One that cannot be read is in a comment.

    Args:
        path: From `manifest_path`.
        rows: From the ledger.
        command: The command line, with the name of the program.
        also: More files to list, such as a report.
        remarks: Sentences to put at its head, such as what was left out.

    Returns:
        The inputs that changed or vanished since they were analysed.

    Raises:
        OutputError: It cannot be written, or a file in `also` cannot be read.
    """
    folder = path.parent.resolve()
    hashes: dict[bytes, str] = {}
    changed: list[Finding] = []
    for row in rows:
        if row.path is not None:
            digest, problem = _input(row.path, row.sha256)
            if problem:
                changed.append(Finding(row.path, problem))
            if digest:
                hashes[_named(row.path, folder)] = digest
        hashes |= {os.fsencode(p.relative_to(path.parent)): h for p, h in row.outputs.items()}
    for file in also:
        hashes[_named(file, folder)] = _hash_or_fail(file)
    head = [
        f"imlctl {__version__}, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        f"command: {shlex.join(command)}",
        f"in folder: {Path.cwd()}",
        *remarks,
        *(f"{finding.problem}: {finding.path}" for finding in changed),
    ]
    lines = [b"# " + _escaped(os.fsencode(line)) for line in head]
    lines += [_line(name, digest) for name, digest in sorted(hashes.items())]
    atomic.write(path, b"\n".join(lines) + b"\n", overwrite=True)
    return changed


def add_reports(folder: Path, files: Sequence[Path], command: Sequence[str]) -> Path | None:
    """Add reports that were written after the scan to its manifest.

    The previous one becomes ``SHA256SUMS.1``, ``.2`` and so on, and is listed in the new one.

    Returns:
        The manifest that was kept; None if the folder has none, or it lists the files as they are.

    Raises:
        OutputError: It cannot be written, or a file cannot be read.
    """
    path = manifest_path(folder)
    hashes = {_named(file, folder.resolve()): _hash_or_fail(file) for file in files}
    before = path.read_bytes() if path.is_file() else b""
    if not before and not any(_NAMES.fullmatch(each.name) for each in folder.glob(f"{MANIFEST}*")):
        return None  # the scan was not asked for one
    listed = {name: digest for name, digest in _listed(before.split(b"\n"), path) if name}
    new = {name: digest for name, digest in hashes.items() if listed.get(name) != digest}
    if not new:
        return None
    kept = None
    lines = [line for line in before.split(b"\n") if line and _name_on(line) not in new]
    head = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}, imlctl {__version__}: {shlex.join(command)}"
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


def _hash_or_fail(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError as error:
        raise OutputError(f"cannot be read: {error.strerror}", source=str(file)) from error


def _input(path: Path, analysed: str | None) -> tuple[str | None, str]:
    """Return the hash to list for an input, and what is wrong with it now."""
    try:
        now = sha256_of(path)
    except OSError as error:
        return analysed, f"cannot be read any more ({error.strerror or error})"
    if analysed not in (None, now):
        return analysed, f"changed since it was analysed (sha256 now {now})"
    return now, ""


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


def _unescaped(name: bytes) -> bytes:
    meaning = {rb"\n": b"\n", rb"\r": b"\r", rb"\\": b"\\"}
    return re.sub(rb"\\[nr\\]", lambda match: meaning[match[0]], name)


def manifests(folder: Path) -> list[Path]:
    """Return the manifests in a folder.

    Raises:
        OutputError: There is none.
    """
    found = sorted(p for p in folder.glob(f"{MANIFEST}*") if _NAMES.fullmatch(p.name))
    if not found:
        raise OutputError(
            f"there is no {MANIFEST} in this folder",
            source=str(folder),
            remedy="It is written by localize with --manifest.",
        )
    return found


def check(manifest: Path) -> Iterator[Finding]:
    """Hash every file that a manifest lists, and compare.

    Raises:
        OutputError: The manifest cannot be read, or is not one.
    """
    try:
        lines = manifest.read_bytes().split(b"\n")
    except OSError as error:
        raise OutputError(f"cannot be read: {error.strerror}", source=str(manifest)) from error
    again = {line[len(_REWRITTEN) :] for line in lines if line.startswith(_REWRITTEN)}
    for name, digest in _listed(lines, manifest):
        path = manifest.parent / os.fsdecode(name)
        remark = "written again by imlctl report" if _escaped(name) in again else ""
        yield Finding(path, _compare(path, digest), remark)


def _listed(lines: Iterable[bytes], manifest: Path) -> Iterator[tuple[bytes, str]]:
    """Yield the name and the hash on each line; raise OutputError for one that is no such."""
    for number, line in enumerate(lines, 1):
        if not line or line.startswith(b"#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise OutputError(
                f"line {number} is not a hash and a name",
                source=str(manifest),
                remedy="The manifest was changed after it was written.",
            )
        escaped, digest, name = match.groups()
        yield _unescaped(name) if escaped else name, digest.decode()


def _name_on(line: bytes) -> bytes | None:
    match = _LINE.fullmatch(line)
    return match and (_unescaped(match[3]) if match[1] else match[3])


def _compare(path: Path, digest: str) -> str:
    try:
        now = sha256_of(path)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return "" if now == digest else "changed"


def digest_of(manifest: Path) -> str:
    """Return the sha256 of a manifest itself, to be kept where it cannot be changed with it."""
    return hashlib.sha256(manifest.read_bytes()).hexdigest()
