"""Ctrl-C once: finish what is begun. Twice: stop at once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType
    from typing import Self

_MESSAGE = b"\nimlctl: finishing what is in hand; once more stops at once\n"


class Interrupts:
    """While entered, the first interrupt only sets `requested`; the second is raised.

    A request to terminate, as a cluster sends it before it kills, counts as an interrupt.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others cannot set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        with suppress(OSError):
            os.write(2, _MESSAGE)  # not through sys.stderr, which may be in the middle of a line
