"""Ctrl-C once: finish what was begun. Twice: stop at once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType
    from typing import Self

_MESSAGE = b"\nimlctl: finishing the current picture; press Ctrl-C again to stop now\n"


class Interrupts:
    """While entered, the first interrupt only sets `requested`; the second is raised.

    A request to terminate, as a cluster sends it before it kills, counts as an interrupt. A
    terminal that is closed does not if `ignore_hangup`: a scan into a folder goes on without it.
    """

    def __init__(self, message: bytes = _MESSAGE, *, ignore_hangup: bool = False) -> None:
        self.message = message
        self.requested = False
        self._ignore_hangup = ignore_hangup
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others cannot set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
            if self._ignore_hangup and hasattr(signal, "SIGHUP"):
                self._previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        with suppress(OSError):
            # not through sys.stderr, which may be in the middle of a line
            os.write(2, self.message)


def terminate_as_interrupt() -> None:
    """Have a request to terminate end the program as Ctrl-C does, with all its cleaning up."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)
