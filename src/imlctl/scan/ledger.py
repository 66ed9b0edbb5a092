"""The ledger of a scan, kept beside its outputs: what was planned, what was left out, what is done.

A row is written only after its outputs have their names; outputs without one are made again.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shlex
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import fsdecode, fsencode
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from imlctl import __version__, atomic
from imlctl.errors import OutputError, UsageError
from imlctl.report.preview import Preview
from imlctl.scan.custody import now
from imlctl.scan.find import LeftOut
from imlctl.scan.naming import LEDGER, Shard, files_of

if TYPE_CHECKING:
    from imlctl.scan.naming import Job

_SUFFIX = ".sqlite"
_FORMAT = 3
_SCHEMA = (
    "CREATE TABLE meta (tag TEXT NOT NULL)",
    "CREATE TABLE planned (output BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE pictures (name BLOB PRIMARY KEY, path BLOB) WITHOUT ROWID",  # that were planned
    "CREATE TABLE left_out (path BLOB PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE runs (
        began TEXT NOT NULL, ended TEXT,  -- UTC; NULL where it was killed
        command TEXT NOT NULL, folder TEXT NOT NULL, imlctl TEXT NOT NULL
    )""",
    """CREATE TABLE done (
        name BLOB PRIMARY KEY,   -- of the picture in the tree of the outputs
        path BLOB,               -- of the input, absolute; NULL for the standard input
        sha256 TEXT,             -- of the input as it was analysed; NULL if it was not decoded
        weights TEXT NOT NULL,   -- sha256
        settings TEXT NOT NULL,  -- JSON, sorted: everything else that the outputs depend on
        verdict TEXT NOT NULL,
        outputs TEXT NOT NULL,   -- JSON: name below the folder, in hexadecimal, to sha256
        record TEXT NOT NULL,    -- JSON
        preview BLOB             -- what a report shows; NULL where none was kept
    ) WITHOUT ROWID""",
    f"PRAGMA user_version = {_FORMAT}",
)
# A preview that an earlier scan kept of the same content, weights and settings is as good as new.
_ADD = """INSERT OR REPLACE INTO done SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,
    coalesce(?9, preview) FROM (SELECT 1)
    LEFT JOIN done ON name = ?1 AND (sha256, weights, settings) = (?3, ?4, ?5)"""
_STEM = re.compile(rf"{LEDGER}(-\d+(-of-\d+))?")


@dataclass(frozen=True, slots=True)
class Key:
    """Weights and settings: outputs depend on them and on the picture alone."""

    weights: str  # sha256
    settings: str  # JSON, sorted


@dataclass(frozen=True, slots=True)
class Row:
    """Outcome for one picture."""

    path: Path | None  # of the input; None for the standard input
    sha256: str | None  # of the input as it was analysed; None if it could not be decoded
    outputs: Mapping[Path, str]  # files that were written, with their sha256
    record: Mapping[str, Any]  # as `Record.to_dict` gives it
    preview: Preview | None = None  # for a report, if it was kept


@dataclass(frozen=True, slots=True)
class ScanRun:
    """A command that wrote into this folder; times are UTC (ISO 8601), no end if it was killed."""

    began: str
    ended: str | None
    command: str
    folder: str
    version: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """Pictures that all runs planned, with and without a record, and what was left out."""

    planned: int = 0
    done: int = 0
    pending: tuple[Path, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    runs: tuple[ScanRun, ...] = ()
    absent: str = ""  # what is said of parts of a divided scan that are not in this folder

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(
            self.planned + other.planned,
            self.done + other.done,
            self.pending + other.pending,
            tuple(sorted({*self.left_out, *other.left_out}, key=lambda each: fsencode(each.path))),
            tuple(sorted((*self.runs, *other.runs), key=lambda run: run.began)),
        )

    @property
    def incomplete(self) -> str:
        """Sentence such as "INCOMPLETE: 15 of 63 pictures were analysed"; "" for a whole scan."""
        analysed = f"{self.done} of {self.planned} pictures were analysed" if self.pending else ""
        missing = "; ".join(filter(None, (analysed, self.absent)))
        return missing and f"INCOMPLETE: {missing}"


def ledger_path(folder: Path, shard: Shard | None = None) -> Path:
    """Return the path of a scan's ledger; UsageError if the folder was divided otherwise."""
    division = None if shard is None else f"-of-{shard.count}"
    for other in ledgers(folder):
        if (match := _STEM.fullmatch(other.stem)) and match[2] != division:
            what = "this folder holds a scan with a different --shard"
            remedy = "Give the same --shard as before, or another folder."
            raise UsageError(what, source=str(other), remedy=remedy)
    name = LEDGER if shard is None else f"{LEDGER}-{shard.label}"
    return folder / f"{name}{_SUFFIX}"


def ledgers(folder: Path) -> list[Path]:
    """Return the ledgers in a folder, sorted; copies under other names are none."""
    found = sorted(folder.glob(f"{LEDGER}*{_SUFFIX}"))
    return [path for path in found if _STEM.fullmatch(path.stem)]


def absent_parts(ledgers: Iterable[Ledger]) -> str:
    """Say how many parts of a divided scan are there, "" where all of them are."""
    parts = [part for each in ledgers if (part := _STEM.fullmatch(each.path.stem)) and part[2]]
    count = int(parts[0][2].rpartition("-")[2]) if parts else 0
    return f"{len(parts)} of {count} parts of the scan are here" if len(parts) < count else ""


class Ledger:
    """The ledger of one scan, open for this process alone; made if it is missing.

    To read, it may lie in a folder that is read-only. OutputError where it is in use or damaged.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.folder = path.parent
        fixed = read_only and not os.access(self.folder, os.W_OK)  # nobody else writes there either
        if fixed and path.with_name(f"{path.name}-wal").exists():
            what = "a killed scan left this ledger unfinished in a folder that is read-only"
            remedy = "Copy the folder to a place where you may write, and name that."
            raise OutputError(what, source=str(path), remedy=remedy)
        try:
            if not read_only:
                self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise atomic.output_error(error, str(self.folder)) from error
        name = f"{path.absolute().as_uri()}?immutable=1" if fixed else path
        with self._explained():
            self._database = sqlite3.connect(name, uri=fixed, timeout=0, isolation_level=None)
        try:
            with self._explained():
                self._open(fixed=fixed, read_only=read_only)
        except BaseException:
            self._database.close()
            raise

    def _open(self, *, fixed: bool, read_only: bool) -> None:
        execute = self._database.execute
        if not fixed:
            # Held until the end, and by the system for a process that dies; a log without shared
            # memory, so that it works on network disks.
            execute("PRAGMA locking_mode = EXCLUSIVE")
            execute("PRAGMA journal_mode = WAL")
            execute("PRAGMA synchronous = NORMAL")  # a row lost in a power cut is work done twice
            execute("BEGIN EXCLUSIVE")
        (version,) = execute("PRAGMA user_version").fetchone()
        if version == 0 and read_only:
            remedy = "Restore it from a copy, or scan again into another folder."
            raise OutputError("this ledger is empty", source=str(self.path), remedy=remedy)
        if version == 0:
            for statement in _SCHEMA:
                execute(statement)
            execute("INSERT INTO meta VALUES (?)", (secrets.token_hex(8),))
            version = _FORMAT
        if not fixed:
            execute("COMMIT")
        if version != _FORMAT:
            what = f"this ledger has format {version}, and this version of imlctl reads {_FORMAT}"
            remedy = "Read it with the version that wrote it, or scan again into another folder."
            raise OutputError(what, source=str(self.path), remedy=remedy)
        (self.tag,) = execute("SELECT tag FROM meta").fetchone()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def planned(self) -> frozenset[Path]:
        """Return every output that this scan was ever going to write."""
        names = self._all("SELECT output FROM planned")
        return frozenset(self.folder / fsdecode(name) for (name,) in names)

    def begin(
        self, jobs: Sequence[Job], left_out: Iterable[LeftOut] = (), command: Sequence[str] = ()
    ) -> None:
        """Note all outputs, and what is left out, and clear away what a killed scan left."""
        outputs = files_of(jobs)
        atomic.sweep(dict.fromkeys(path.parent for path in outputs), self.tag)
        pictures = [(fsencode(job.picture.name), _absolute(job)) for job in jobs]
        with self._explained():
            execute, many = self._database.execute, self._database.executemany
            execute("BEGIN")
            many("INSERT OR IGNORE INTO planned VALUES (?)", ((self._name(p),) for p in outputs))
            many("INSERT OR REPLACE INTO pictures VALUES (?, ?)", pictures)
            execute("DELETE FROM left_out")
            rows = ((fsencode(each.path), each.reason) for each in left_out)
            many("INSERT OR REPLACE INTO left_out VALUES (?, ?)", rows)
            run = (now(), shlex.join(command), str(Path.cwd()), __version__)
            execute("INSERT INTO runs VALUES (?, NULL, ?, ?, ?)", run)
            execute("COMMIT")

    def end(self) -> None:
        """Note that the run which began last came to its end."""
        self._all("UPDATE runs SET ended = ? WHERE rowid = (SELECT max(rowid) FROM runs)", now())

    def coverage(self) -> Coverage:
        """Return how much of what was planned is done."""
        ((planned,),) = self._all("SELECT count(*) FROM pictures")
        pending = self._all(
            "SELECT coalesce(path, name) FROM pictures"
            " WHERE name NOT IN (SELECT name FROM done) ORDER BY name"
        )
        left_out = self._all("SELECT path, reason FROM left_out ORDER BY path")
        runs = self._all("SELECT * FROM runs ORDER BY rowid")
        return Coverage(
            planned,
            planned - len(pending),
            tuple(Path(fsdecode(path)) for (path,) in pending),
            tuple(LeftOut(Path(fsdecode(path)), reason) for path, reason in left_out),
            tuple(ScanRun(*run) for run in runs),
        )

    def done(self, job: Job, key: Key) -> dict[str, str]:
        """Return input and outputs with the hashes that prove that nothing is left to do, or {}."""
        found = self._all(
            "SELECT sha256, outputs FROM done WHERE name = ? AND weights = ? AND settings = ?"
            " AND verdict != 'failed'",
            *(fsencode(job.picture.name), key.weights, key.settings),
        )
        for sha256, outputs in found:  # one or none
            hashes = self._hashes(outputs)
            if job.picture.path is not None and set(hashes) == set(job.outputs.values()):
                return {str(job.picture): sha256, **{str(path): h for path, h in hashes.items()}}
        return {}

    def record(self, job: Job) -> dict[str, Any]:
        """Return the record of a picture that is done."""
        name = fsencode(job.picture.name)
        ((text,),) = self._all("SELECT record FROM done WHERE name = ?", name)
        return dict(json.loads(text))

    def add(
        self,
        job: Job,
        key: Key,
        record: Mapping[str, Any],
        outputs: Mapping[Path, str],
        preview: Preview | None = None,
    ) -> None:
        """Note that a picture is done; without a preview, one of the same result is kept."""
        hashes = json.dumps({self._name(path).hex(): digest for path, digest in outputs.items()})
        self._all(
            _ADD,
            fsencode(job.picture.name),
            _absolute(job),
            record.get("sha256"),
            key.weights,
            key.settings,
            record["verdict"],
            hashes,
            json.dumps(record, allow_nan=False),
            preview.packed() if preview else None,
        )

    def rows(self, *, previews: bool = True) -> Iterator[Row]:
        """Yield all that is done, in byte order of names; without previews, in less time."""
        query = "SELECT path, sha256, outputs, record, {} FROM done ORDER BY name"
        with self._explained():
            for path, digest, outputs, record, packed in self._database.execute(
                query.format("preview" if previews else "NULL")
            ):
                source = None if path is None else Path(fsdecode(path))
                preview = Preview.unpacked(packed) if packed else None
                yield Row(source, digest, self._hashes(outputs), json.loads(record), preview)

    def _name(self, path: Path) -> bytes:
        return fsencode(path.relative_to(self.folder))

    def _hashes(self, text: str) -> dict[Path, str]:
        names = json.loads(text)
        return {self.folder / fsdecode(bytes.fromhex(n)): h for n, h in names.items()}

    def _all(self, statement: str, *values: object) -> list[Any]:
        with self._explained():
            return self._database.execute(statement, values).fetchall()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite raises into what a user can act on."""
        try:
            yield
        except sqlite3.Error as error:
            raise _explanation(error, self.path) from error


def _absolute(job: Job) -> bytes | None:
    path = job.picture.path
    return None if path is None else fsencode(path.parent.resolve() / path.name)


def _explanation(error: sqlite3.Error, path: Path) -> OutputError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or "full" in str(error):
        return atomic.output_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), str(path))
    what, remedy = f"the ledger cannot be used: {error}", "Choose another folder."
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        what, path = "another scan is writing to this folder", path.parent
        remedy = "Wait until it ends, or give each scan its own folder or --shard."
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        what = f"this ledger is damaged ({error})"
        remedy = "Move it away; then add --force to analyse everything again."
    return OutputError(what, source=str(path), remedy=remedy)
