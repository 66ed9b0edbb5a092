"""Printing that is safe for a terminal, and survives one that goes away."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import textwrap
from contextlib import suppress
from typing import Any, TextIO

from imlctl.errors import OutputError

_ERROR = "imlctl: error:"
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # of a pipe, of a terminal, of a closed stream
_STYLES = {"manipulated": "1;31", "inconclusive": "1;33", "error": "31"}


class ReaderGoneError(Exception):
    """Nobody reads the standard output any more."""


def printable(text: object) -> str:
    """Escape control characters and bad bytes, so that no file name can drive a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def echo(line: str) -> None:
    """Print a line; ReaderGoneError if nobody reads it, OutputError if it cannot be written."""
    if sys.stdout is None:
        return
    try:
        _write(sys.stdout, line)
    except OSError as error:
        if error.errno in _GONE:
            raise ReaderGoneError from error
        what = f"cannot be written: {error.strerror or error}"
        raise OutputError(what, source="standard output") from error


def complain(message: str, details: tuple[str, ...] = ()) -> None:
    """Print an error to standard error, and its details below it."""
    _remark(f"{_ERROR} {printable(message)}")
    for detail in details:
        _remark(f"  {printable(detail)}")


def note(message: str) -> None:
    """Print a remark to standard error."""
    _remark(f"imlctl: {printable(message)}")


def _remark(line: str) -> None:
    if is_terminal(sys.stderr) and len(line) >= columns():
        line = wrapped(line, "", "  ")
    if line.startswith(_ERROR):
        line = styled(_ERROR, "error", sys.stderr) + line.removeprefix(_ERROR)
    with suppress(OSError, ValueError):  # nobody is there to be told
        if sys.stderr is not None:
            _write(sys.stderr, line)


def wrapped(text: str, first: str, others: str) -> str:
    """Break a text for the terminal between words, with these in front of its lines."""
    width, whole = max(20, columns() - 1), {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=others, **whole)  # type: ignore[arg-type]


def _write(stream: TextIO, line: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


class Indestructible:
    """Stream that goes on when its terminal has gone; what is written then is lost."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write, if anybody is there."""
        with suppress(OSError, ValueError, AttributeError):  # of None, where there is no stream
            self._stream.write(text)  # type: ignore[union-attr]

    def flush(self) -> None:
        """Flush, likewise."""
        with suppress(OSError, ValueError, AttributeError):
            self._stream.flush()  # type: ignore[union-attr]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def styled(text: str, style: str, stream: TextIO | None) -> str:
    """Colour a text on terminals that show colours, unless NO_COLOR is set."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if style not in _STYLES or plain or not is_terminal(stream):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def columns() -> int:
    """Return the width of the terminal."""
    return shutil.get_terminal_size().columns


def plural(count: int, noun: str) -> str:
    """Return a number and its noun: "1 picture", "2 pictures"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
