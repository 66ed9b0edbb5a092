"""Ctrl-C once: finish what was begun. Twice: stop at once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Self

_MESSAGE = b"\nimlctl: finishing the current picture; press Ctrl-C again to stop now\n"


class Interrupts:
    """While entered, the first interrupt, or request to terminate, only sets `requested`.

    The second is raised. A scan into a folder may ignore that its terminal is closed.
    """

    def __init__(self, message: bytes = _MESSAGE, *, ignore_hangup: bool = False) -> None:
        self.message = message
        self.requested = False
        self._handlers: dict[int, Any] = {signal.SIGINT: self._handle, signal.SIGTERM: self._handle}
        if ignore_hangup and hasattr(signal, "SIGHUP"):
            self._handlers[signal.SIGHUP] = signal.SIG_IGN

    def __enter__(self) -> Self:
        self._exchange()
        return self

    def __exit__(self, *_: object) -> None:
        self._exchange()

    def _exchange(self) -> None:
        if threading.current_thread() is threading.main_thread():  # others cannot set handlers
            self._handlers = {n: signal.signal(n, each) for n, each in self._handlers.items()}

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        with suppress(OSError):
            # not through sys.stderr, which may be in the middle of a line
            os.write(2, self.message)


def terminate_as_interrupt() -> None:
    """Have a request to terminate end the program as Ctrl-C does, with all its cleaning up."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
