"""Where files of weights and their records are, and which bytes they hold."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from imlctl.errors import WeightsError


def user_folder(kind: str) -> Path:
    """Return our folder below ``$XDG_CONFIG_HOME`` or ``$XDG_CACHE_HOME``.

    Args:
        kind: ``config`` or ``cache``.
    """
    base = os.environ.get(f"XDG_{kind.upper()}_HOME", "")
    # The specification says to ignore a relative path.
    root = Path(base) if Path(base).is_absolute() else Path.home() / f".{kind}"
    return root / "imlctl"


def sha256_of(path: Path, name: str = "") -> str:
    """Return the sha256 of a file, read in pieces.

    Raises:
        WeightsError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(error, name or str(path)) from error


def unreadable(error: OSError, name: str) -> WeightsError:
    """Say why a file of weights cannot be read."""
    return WeightsError(
        f"cannot be read ({error.strerror})",
        source=name,
        remedy="Check the path and that you may read it.",
    )


def mismatch(name: str, path: Path, found: str, expected: str, remedy: str) -> WeightsError:
    """Say that a file is not the one that was expected, with both hashes."""
    return WeightsError(
        f"has sha256 {found}, expected {expected}",
        source=name,
        remedy=f"It was not used and nothing was deleted; the file is {path}. {remedy}",
    )
