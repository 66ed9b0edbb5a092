"""What a scan has done, kept beside its outputs so that it can go on after any interruption.

One SQLite file per scan. A picture's row is written only after all its outputs have their names;
so a row stands for outputs that exist, and outputs without a row are made again.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imlctl import atomic
from imlctl.errors import OutputError, UsageError
from imlctl.report.preview import Preview
from imlctl.scan.database import explained

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Self

    from imlctl.scan.naming import Job
    from imlctl.scan.shard import Shard

STEM = "imlctl-ledger"
_SUFFIX = ".sqlite"
_FORMAT = 3  # 3: records whose verdicts have three steps
_SCHEMA = (
    "CREATE TABLE meta (tag TEXT NOT NULL)",
    "CREATE TABLE planned (output BLOB PRIMARY KEY) WITHOUT ROWID",
    """CREATE TABLE done (
        name BLOB PRIMARY KEY,   -- of the picture in the tree of the outputs
        path BLOB,               -- of the input, absolute; NULL for the standard input
        sha256 TEXT,             -- of the input as it was analysed; NULL if it was not decoded
        weights TEXT NOT NULL,   -- sha256
        settings TEXT NOT NULL,  -- JSON, sorted: everything else that the outputs depend on
        verdict TEXT NOT NULL,
        outputs TEXT NOT NULL,   -- JSON: name below the folder, in hexadecimal, to sha256
        record TEXT NOT NULL,    -- JSON
        photo BLOB, soft BLOB,   -- of the preview; NULL where none was kept
        curve TEXT               -- likewise, JSON
    ) WITHOUT ROWID""",
    f"PRAGMA user_version = {_FORMAT}",
)
# A preview that an earlier scan kept of the same content, weights and settings is as good as new.
_ADD = """INSERT OR REPLACE INTO done SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,
    coalesce(?9, photo), coalesce(?10, soft), coalesce(?11, curve) FROM (SELECT 1)
    LEFT JOIN done ON name = ?1 AND (sha256, weights, settings) = (?3, ?4, ?5)"""
_PAGE = 100  # rows read at once; a preview has some tens of kilobytes


@dataclass(frozen=True, slots=True)
class Key:
    """What outputs depend on besides the picture: another key, other outputs.

    Attributes:
        weights: sha256 of the file of weights.
        settings: Everything else, as JSON with sorted keys.
    """

    weights: str
    settings: str


@dataclass(frozen=True, slots=True)
class Row:
    """How one picture ended.

    Attributes:
        path: Of the input; None for the standard input.
        sha256: Of the input as it was analysed; None if it could not be decoded.
        outputs: Files that were written, with their sha256.
        record: The whole record, as `Record.to_dict` gives it.
        preview: What a report shows of it, if that was kept.
    """

    path: Path | None
    sha256: str | None
    outputs: Mapping[Path, str]
    record: Mapping[str, Any]
    preview: Preview | None = None


def ledger_path(folder: Path, shard: Shard | None = None) -> Path:
    """Return where the ledger of a scan into this folder lies; each shard has its own.

    Raises:
        UsageError: The folder holds the ledger of a scan that was divided in another way.
    """
    name = STEM if shard is None else f"{STEM}-{shard.label}"
    division = "" if shard is None else f"-of-{shard.count}"
    for other in ledgers(folder):
        if re.sub(r"^-\d+", "", other.stem.removeprefix(STEM)) != division:
            raise UsageError(
                "the scan into this folder was divided in another way",
                source=str(other),
                remedy="Give the same --shard as before, or another folder.",
            )
    return folder / f"{name}{_SUFFIX}"


def ledgers(folder: Path) -> list[Path]:
    """Return the ledgers in a folder, sorted."""
    return sorted(folder.glob(f"{STEM}*{_SUFFIX}"))


def rows(folder: Path, *, previews: bool = True) -> Iterator[Row]:
    """Yield what all scans into a folder have done, in byte order of the pictures' names.

    Args:
        folder: Of the outputs.
        previews: Whether to read them too; they are most of a ledger.

    Raises:
        OutputError: There is no ledger, it is damaged, or a scan is running.
    """
    found = ledgers(folder)
    if not found:
        raise OutputError(
            "there is no ledger of a scan in this folder",
            source=str(folder),
            remedy="Name the folder that was given to localize with -o.",
        )
    for path in found:
        with Ledger(path) as ledger:
            yield from ledger.rows(previews=previews)


class Ledger:
    """The ledger of one scan, open for this process alone.

    Args:
        path: From `ledger_path`; made if it is missing.

    Raises:
        OutputError: Another scan has it open, it is damaged, or it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent
        self._lock = threading.Lock()  # the writer adds rows while others look for theirs
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise atomic.output_error(error, str(self.folder)) from error
        with self._said():
            self._database = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False
            )
        try:
            with self._said():
                self._open()
        except BaseException:
            self._database.close()
            raise

    def _open(self) -> None:
        execute = self._database.execute
        # Held until the end, and by the system for a process that dies; a log without shared
        # memory, so that it works on network disks.
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")  # a row lost in a power cut is work done twice
        execute("BEGIN EXCLUSIVE")
        (version,) = execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _SCHEMA:
                execute(statement)
            execute("INSERT INTO meta VALUES (?)", (secrets.token_hex(8),))
        execute("COMMIT")
        if version not in (0, _FORMAT):
            raise OutputError(
                f"this ledger has format {version}, and this version of imlctl knows {_FORMAT}",
                source=str(self.path),
                remedy="Read it with the version that wrote it, or scan again into another folder.",
            )
        (self.tag,) = execute("SELECT tag FROM meta").fetchone()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have it."""
        with self._lock:
            self._database.close()

    def planned(self) -> frozenset[Path]:
        """Return every output that this scan was ever going to write."""
        with self._said():
            names = self._database.execute("SELECT output FROM planned").fetchall()
        return frozenset(self.folder / os.fsdecode(name) for (name,) in names)

    def begin(self, jobs: Iterable[Job]) -> None:
        """Note all outputs before the first is written, and clear away what a killed scan left."""
        outputs = [path for job in jobs for path in job.outputs.values() if path is not None]
        atomic.sweep(dict.fromkeys(path.parent for path in outputs), self.tag)
        with self._said():
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT OR IGNORE INTO planned VALUES (?)", ((self._name(p),) for p in outputs)
            )
            self._database.execute("COMMIT")

    def done(self, job: Job, key: Key) -> dict[str, str]:
        """Return the files whose hashes prove that nothing is left to do, or nothing.

        They are the input and all its outputs, as an earlier scan with the same key left them.
        """
        if job.picture.path is None:
            return {}
        with self._said():
            row = self._database.execute(
                "SELECT sha256, outputs FROM done WHERE name = ? AND weights = ? AND settings = ?"
                " AND verdict != 'failed'",
                (_raw(job.picture.name), key.weights, key.settings),
            ).fetchone()
        if row is None or row[0] is None:
            return {}
        hashes = self._hashes(row[1])
        if set(hashes) != set(job.outputs.values()):
            return {}
        return {str(path): digest for path, digest in hashes.items()} | {
            str(job.picture.path): row[0]
        }

    def record(self, job: Job) -> dict[str, Any]:
        """Return the record of a picture that is done."""
        with self._said():
            (text,) = self._database.execute(
                "SELECT record FROM done WHERE name = ?", (_raw(job.picture.name),)
            ).fetchone()
        return dict(json.loads(text))

    def add(
        self,
        job: Job,
        key: Key,
        record: Mapping[str, Any],
        outputs: Mapping[Path, str],
        preview: Preview | None = None,
    ) -> None:
        """Note that a picture is done; its outputs must have their names by now.

        Args:
            job: The picture.
            key: What its outputs depend on.
            record: As `Record.to_dict` gives it.
            outputs: What was written, with the sha256 of each.
            preview: What a report shows of it; None keeps one of the same result, if there is one.
        """
        path = job.picture.path
        names = {self._name(p).hex(): digest for p, digest in outputs.items()}
        row = (
            _raw(job.picture.name),
            None if path is None else _raw(path.parent.resolve() / path.name),
            record.get("sha256"),
            key.weights,
            key.settings,
            record["verdict"],
            json.dumps(names),
            json.dumps(record, allow_nan=False),
            preview.photo if preview else None,
            preview.soft if preview else None,
            json.dumps(preview.curve) if preview else None,
        )
        with self._said():
            self._database.execute(_ADD, row)

    def rows(self, *, previews: bool = True) -> Iterator[Row]:
        """Yield all that is done, in byte order of names; without previews, in less time."""
        columns = "photo, soft, curve" if previews else "NULL, NULL, NULL"
        query = (
            f"SELECT name, path, sha256, outputs, record, {columns} FROM done"  # noqa: S608
            " WHERE name > ? ORDER BY name LIMIT ?"
        )
        last = b""
        while True:
            with self._said():
                page = self._database.execute(query, (last, _PAGE)).fetchall()
            if not page:
                return
            for _, path, digest, outputs, record, photo, soft, curve in page:
                source = None if path is None else Path(os.fsdecode(path))
                preview = Preview(photo, soft, tuple(json.loads(curve))) if curve else None
                yield Row(source, digest, self._hashes(outputs), json.loads(record), preview)
            last = page[-1][0]

    def _name(self, path: Path) -> bytes:
        return _raw(path.relative_to(self.folder))

    def _hashes(self, text: str) -> dict[Path, str]:
        names = json.loads(text)
        return {self.folder / os.fsdecode(bytes.fromhex(n)): h for n, h in names.items()}

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Keep threads apart, and turn what SQLite raises into what a user can act on."""
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise explained(error, self.path) from error


def _raw(path: os.PathLike[str]) -> bytes:
    return os.fsencode(path)
