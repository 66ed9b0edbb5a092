"""Write a long file piece by piece, and give it its name only when it is whole."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from imlctl.atomic import output_error
from imlctl.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def whole_file(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its name once all went well.

    Args:
        path: What the file shall be called; missing folders are made.
        overwrite: Replace what has this name.

    Raises:
        OutputError: The name is taken, or the file cannot be written; nothing is left behind.
    """
    temporary = path.parent / f".imlctl-{secrets.token_hex(8)}.tmp"
    try:
        if os.path.lexists(path) and not (overwrite and path.is_file()):
            raise FileExistsError(errno.EEXIST, "it is already there")
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if overwrite or not _linked(temporary, path):
            temporary.replace(path)
        sync_folder(path.parent)
    except FileExistsError as error:
        raise OutputError(
            "this output is already there",
            source=str(path),
            remedy="Choose another name, or add --force to replace it.",
        ) from error
    except OSError as error:
        raise output_error(error, str(path)) from error
    finally:
        with suppress(OSError):  # gone already where all went well
            temporary.unlink()


def _linked(temporary: Path, path: Path) -> bool:
    """Take a name that is still free; False where the file system has no hard links to do it by."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:  # by another process, while this one wrote
        raise
    except OSError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Flush a folder, so that a new name in it survives a power cut."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot, and does not need to
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network disks cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
