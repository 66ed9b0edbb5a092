"""The chain of custody: hashes of every input and output, written once and checked later."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from imlctl import __version__, atomic
from imlctl.errors import OutputError
from imlctl.scan.hashing import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imlctl.scan.ledger import Row
    from imlctl.scan.shard import Shard

STEM = "SHA256SUMS"  # what `sha256sum --check` reads as well
_LINE = re.compile(rb"(\\?)([0-9a-f]{64}) [ *](.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one file of a manifest.

    Attributes:
        path: As the manifest names it, made absolute.
        problem: What is wrong with it, or "".
    """

    path: Path
    problem: str


def manifest_path(folder: Path, shard: Shard | None = None) -> Path:
    """Return where the manifest of a scan into this folder lies."""
    return folder / (STEM if shard is None else f"{STEM}.{shard.label}")


def write_manifest(
    path: Path, rows: Iterable[Row], command: Sequence[str], *, also: Sequence[Path] = ()
) -> list[Finding]:
    """Hash every input once more, and write down all inputs and outputs.

    An input is listed with the hash of what was analysed; one that could not be decoded, with its
    hash now. One that cannot be read is in a comment.

    Args:
        path: From `manifest_path`.
        rows: From the ledger.
        command: The command line, with the name of the program.
        also: More files to list, such as a report.

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
        try:
            hashes[_named(file, folder)] = sha256_of(file)
        except OSError as error:
            raise OutputError(f"cannot be read: {error.strerror}", source=str(file)) from error
    head = [
        f"imlctl {__version__}, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        f"command: {shlex.join(command)}",
        f"in folder: {Path.cwd()}",
        *(f"{finding.problem}: {finding.path}" for finding in changed),
    ]
    lines = [b"# " + _escaped(os.fsencode(line)) for line in head]
    lines += [_line(name, digest) for name, digest in sorted(hashes.items())]
    atomic.write(path, b"\n".join(lines) + b"\n", overwrite=True)
    return changed


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
    found = sorted(folder.glob(f"{STEM}*"))
    if not found:
        raise OutputError(
            f"there is no {STEM} in this folder",
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
        path = manifest.parent / os.fsdecode(_unescaped(name) if escaped else name)
        yield Finding(path, _compare(path, digest.decode()))


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
