"""Coverage of a scan: how much of what was planned is done, and what was left out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from imlctl.scan.find import LeftOut


@dataclass(frozen=True, slots=True)
class Run:
    """One command that wrote into this folder.

    Attributes:
        began: UTC, ISO 8601.
        ended: Likewise; None if it was killed.
        command: The command line.
        folder: The current folder.
        version: Of imlctl.
    """

    began: str
    ended: str | None
    command: str
    folder: str
    version: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """Progress against the plan, and files that were left out.

    Attributes:
        planned: Pictures that all runs together were to analyse.
        done: Pictures that have a record, failed ones among them.
        pending: Pictures without a record.
        left_out: Files and folders that were found and not analysed.
        runs: Commands, oldest first.
    """

    planned: int = 0
    done: int = 0
    pending: tuple[Path, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    runs: tuple[Run, ...] = ()

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(
            self.planned + other.planned,
            self.done + other.done,
            self.pending + other.pending,
            tuple(
                sorted({*self.left_out, *other.left_out}, key=lambda each: os.fsencode(each.path))
            ),
            tuple(sorted((*self.runs, *other.runs), key=lambda run: run.began)),
        )

    @property
    def incomplete(self) -> str:
        """Sentence such as "INCOMPLETE: 15 of 63 pictures were analysed"; "" for a whole scan."""
        if not self.pending:
            return ""
        return f"INCOMPLETE: {self.done} of {self.planned} pictures were analysed"
