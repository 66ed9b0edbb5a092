"""What a fresh process costs: seconds and memory, seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_OURS = "from imlctl.cli import main; main()"
# Between us and the process that is watched stands a small one: a process begins with the peak of
# the one that started it, and ours is large.
_WATCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def own_command(*words: str) -> list[str]:
    """Our own command line, by the interpreter that runs us."""
    return [sys.executable, "-c", _OURS, *words]


def program(code: str) -> list[str]:
    """A command line that runs some Python."""
    return [sys.executable, "-c", code]


def runs(command: Sequence[str]) -> Callable[[], object]:
    """Return what runs a command to its end and wants it to succeed."""
    return lambda: subprocess.run(  # noqa: S603 - our own interpreter and words
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def most_memory(command: Sequence[str]) -> int | None:
    """Run a command, and return the most bytes it held; None where the system does not say."""
    if os.name != "posix":
        return None
    done = subprocess.run(  # noqa: S603 - likewise
        [*program(_WATCH), *command], check=True, stdout=subprocess.PIPE, text=True
    )
    peak = int(done.stdout)
    return peak if sys.platform == "darwin" else 1024 * peak
