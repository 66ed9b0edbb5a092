"""What is printed, made safe for a terminal."""

from __future__ import annotations

import sys


def printable(text: object) -> str:
    """Escape control characters and bad bytes, so that no file name can drive a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def complain(message: str) -> None:
    """Print an error to standard error."""
    _print_error(f"imlctl: error: {printable(message)}")


def note(message: str) -> None:
    """Print a remark to standard error."""
    _print_error(f"imlctl: {printable(message)}")


def _print_error(line: str) -> None:
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stderr.flush()
