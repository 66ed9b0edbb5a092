"""Help that fits the terminal, down to about forty columns."""

from __future__ import annotations

import shutil
from typing import Any

import typer

_WIDEST, _NARROWEST = 100, 20  # columns


def width() -> int:
    """Columns for help: the terminal's, also where Click would not go below fifty."""
    return max(_NARROWEST, min(shutil.get_terminal_size().columns, _WIDEST) - 2)


def command_line(app: typer.Typer) -> Any:
    """Return the command that an application is, with help for narrow terminals.

    Names get a third of the width at most, and what is longer a line of its own: otherwise long
    ones leave a column of broken words for the explanations.
    """
    root: Any = typer.main.get_command(app)

    class Formatter(root.context_class.formatter_class):  # type: ignore[misc]
        def write_dl(self, rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
            super().write_dl(rows, min(col_max, self.width // 3), col_spacing)

    class Context(root.context_class):  # type: ignore[misc]
        formatter_class = Formatter

    waiting = [root]
    while waiting:
        command = waiting.pop()
        command.context_class = Context
        waiting += getattr(command, "commands", {}).values()
    return root
