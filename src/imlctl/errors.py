"""One exception tree and one table of exit codes.

Every error that a user can cause or meet is an `ImlctlError`: it says which file, what is wrong,
and what to do about it. Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Exit(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    FOUND = 1  # --check was given and something was found
    USAGE = 2  # usage, configuration or weights: nothing was analysed
    SOME_FAILED = 3  # some inputs failed, the rest are done
    INTERNAL = 70  # a bug in imlctl: an error that it did not foresee
    INTERRUPTED = 130  # stopped by the user; can be resumed


class ImlctlError(Exception):
    """Something a user can act on.

    Args:
        what: What is wrong, as a clause without a final full stop.
        source: The file or setting concerned, as the user named it.
        remedy: What to do, as a sentence.
        details: Single findings, for a line each below the message.
    """

    exit_code: ClassVar[Exit] = Exit.USAGE

    def __init__(
        self, what: str, *, source: str = "", remedy: str = "", details: tuple[str, ...] = ()
    ) -> None:
        super().__init__(what)  # alone, so that the error survives pickling
        self.what = what
        self.source = source
        self.remedy = remedy
        self.details = details

    @property
    def message(self) -> str:
        """All but the details."""
        head = f"{self.source}: {self.what}" if self.source else self.what
        return f"{head}. {self.remedy}" if self.remedy else head

    def __str__(self) -> str:
        return "\n  ".join([self.message, *self.details])


class UsageError(ImlctlError):
    """The command line or an argument of the Python API contradicts itself."""


class ConfigError(ImlctlError):
    """A configuration file or a model configuration is not valid."""


class WeightsError(ImlctlError):
    """Weights are missing, damaged, not what was expected, or not allowed."""


class OutputError(ImlctlError):
    """A result cannot be written where it was asked for."""


class InputError(ImlctlError):
    """One picture cannot be analysed; the others still can."""

    exit_code = Exit.SOME_FAILED


class DecodeError(InputError):
    """The bytes are not a complete picture of a kind that can be read."""


class TooLargeError(InputError):
    """The picture has more pixels than the limit allows."""


class NumericalError(InputError):
    """The model returned NaN or infinity, which must never become a mask."""


def first_line(error: BaseException) -> str:
    """Return the message of a foreign error in one line, or its kind if it has none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
