"""Turn whatever went wrong with one picture into one sentence about it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from imlctl.errors import ImlctlError, InputError

_NO_MEMORY = ("out of memory", "allocate memory", "insufficient memory")


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a picture has no result.

    Attributes:
        error: What to tell the user; holds no traceback, whose frames would hold pixels.
        trace: The traceback if it is a bug of ours, otherwise "".
    """

    error: InputError
    trace: str = ""


def failed(error: Exception, source: str) -> Failed:
    """Say in plain words what an exception means for one picture.

    Args:
        error: What was raised.
        source: Name of the picture, for errors that do not know it.

    Raises:
        ImlctlError: The error itself, if it concerns more than this picture.
    """
    if isinstance(error, InputError):
        error.source = error.source or source
        error.__cause__ = error.__context__ = None
        return Failed(error.with_traceback(None))
    if isinstance(error, ImlctlError):
        raise error
    return _explained(error, source)


def _explained(error: Exception, source: str) -> Failed:
    text = " ".join(str(error).split())
    # torch raises a class of its own, or only says so; it is not imported here to find out.
    no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if no_memory or any(sign in text.lower() for sign in _NO_MEMORY):
        what = "there is not enough memory to analyse it"
        remedy = "Analyse it in smaller tiles, such as --tile 512, or in smaller batches."
        return Failed(InputError(what, source=source, remedy=remedy))
    if isinstance(error, OSError):
        what = f"it cannot be read ({error.strerror or text})"
        return Failed(InputError(what, source=source, remedy="Check the file and its disk."))
    what = f"internal error, {type(error).__name__}: {text}"
    remedy = "This is a bug in imlctl; please report it together with what -v prints."
    trace = "".join(traceback.format_exception(error))
    return Failed(InputError(what, source=source, remedy=remedy), trace)
