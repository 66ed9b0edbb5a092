"""What SQLite says, in words that a user can act on."""

from __future__ import annotations

import errno
import os
import sqlite3
from typing import TYPE_CHECKING

from imlctl import atomic
from imlctl.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

_FULL = "full"  # how SQLite says that the disk is


def explained(error: sqlite3.Error, path: Path) -> OutputError:
    """Turn an error of SQLite into ours.

    Args:
        error: What was raised.
        path: Of the database.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return OutputError(
            "another scan is writing to this folder",
            source=str(path.parent),
            remedy="Wait until it ends, or give each scan its own folder or --shard.",
        )
    if code == sqlite3.SQLITE_FULL or _FULL in str(error):
        return atomic.output_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), str(path))
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return OutputError(
            f"this ledger is damaged ({error})",
            source=str(path),
            remedy="Move it away; then add --force to analyse everything again.",
        )
    return OutputError(
        f"the ledger cannot be used: {error}", source=str(path), remedy="Choose another folder."
    )
