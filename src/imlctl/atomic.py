"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from imlctl.errors import OutputError

# On disks without them Windows says EINVAL.
_NO_HARD_LINKS = {
    *(errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
_TEMPORARY = ".imlctl-"
_REMEDIES = {
    errno.ENOSPC: "Free some space on that disk, then run again.",
    errno.EDQUOT: "Your quota on that disk is used up; free some space, then run again.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EROFS: "That disk is read-only; choose another.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOTDIR: "Part of the path is a file; choose another folder.",
    errno.EEXIST: "A file is where the folder should be; choose another folder.",
}


@contextmanager
def regular_file(path: str | os.PathLike[str]) -> Iterator[BufferedReader]:
    """Open a regular file to read; raises OSError for anything else, which might wait for ever."""
    names = ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
    descriptor = os.open(path, sum(getattr(os, name, 0) for name in names))  # read only is 0
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a stream would refuse folders itself
        os.close(descriptor)
        raise OSError(None, "not a regular file")
    with os.fdopen(descriptor, "rb") as stream:
        yield stream


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a regular file, read in pieces; raises as `regular_file` does."""
    with regular_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write(path: Path, data: bytes, *, overwrite: bool = False, tag: str = "") -> None:
    """Write a file so that its name only ever stands for all of `data`.

    The bytes go to a temporary file in the same folder, which is flushed to the disk and then
    renamed. Missing parent folders are made. Permissions follow the umask.

    Args:
        path: Where to write.
        data: The whole content.
        overwrite: Replace what has this name. If False, nothing is ever replaced, not even a file
            that another process makes at the same moment.
        tag: Letters or digits to know one's own temporary files by; see `sweep`.

    Raises:
        OutputError: The name is taken, or the file cannot be written; nothing is left behind.
    """
    with opened(path, overwrite=overwrite, tag=tag) as file:
        file.write(data)


@contextmanager
def opened(path: Path, *, overwrite: bool = False, tag: str = "") -> Iterator[BinaryIO]:
    """Open a file to write piece by piece, as `write` does; named only once all is written."""
    with replacing(path, overwrite=overwrite, tag=tag) as free, free.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path, *, overwrite: bool = False, tag: str = "") -> Iterator[Path]:
    """Yield a free name beside `path`; the file that is written there takes its place.

    For writers that want a name and not bytes, and that flush what they write to the disk; whatever
    stops them leaves `path` as it was. Arguments and errors as for `write`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, str(path.parent)) from error
    if overwrite and path.exists() and not path.is_file():
        raise OutputError(
            "it is there and not a regular file", source=str(path), remedy="Choose another name."
        )
    # A short name of its own: the target's name may already be as long as names can be.
    temporary = path.parent / f"{_TEMPORARY}{tag}-{secrets.token_hex(8)}.tmp"
    try:
        if not overwrite and os.path.lexists(path):  # known before a long file is written
            raise FileExistsError
        yield temporary
        if overwrite:
            temporary.replace(path)
        else:
            _rename_to_free_name(temporary, path)
        sync_folder(path.parent)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        raise output_error(error, str(path)) from error
    finally:
        with suppress(OSError):  # gone already where all went well; not after an interrupt
            temporary.unlink()


def refuse_taken(path: Path) -> None:
    """Raise OutputError if a name is taken: before long work whose result goes there."""
    if os.path.lexists(path):
        raise _taken(path)


def _taken(path: Path) -> OutputError:
    remedy = "Choose another name, or add --force to replace it."
    return OutputError("this output is already there", source=str(path), remedy=remedy)


def sweep(folders: Iterable[Path], tag: str) -> None:
    """Remove the temporary files that a killed process left when it wrote with this tag."""
    for folder in folders:
        with suppress(OSError):  # a folder that is not there yet has nothing to remove
            for leftover in list(folder.glob(f"{_TEMPORARY}{tag}-*.tmp")):
                leftover.unlink()


def output_error(error: OSError, source: str) -> OutputError:
    """Say what kept an output from being written, and what to do about it."""
    return OutputError(
        f"cannot be written: {error.strerror or error}",
        source=source,
        remedy=_REMEDIES.get(error.errno or 0, "Choose another place for the output."),
    )


def _rename_to_free_name(temporary: Path, path: Path) -> None:
    """Rename, or raise FileExistsError if the name is taken; `os.rename` would replace it."""
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    else:
        temporary.unlink()
        return
    # FAT and some network disks have no hard links: claim the name, then replace our own claim.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Flush a folder, so that a new name in it survives a power cut."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot, and does not need to
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
