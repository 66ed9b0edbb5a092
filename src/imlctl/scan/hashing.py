"""Hash files as they lie on the disk, and nothing but files."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


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
