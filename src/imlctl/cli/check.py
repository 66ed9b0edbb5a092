"""What one check of `imlctl doctor` found."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """How a thing is."""

    WELL = "ok"
    NOTE = "note"  # worth knowing; all that was asked for works
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Check:
    """What was found of one thing.

    Attributes:
        group: ``packages``, ``machine``, ``weights``, ``storage`` or ``extras``.
        name: Of the thing, unique in its group.
        state: How it is.
        says: What was found, as a clause.
        remedy: What to do about it; empty where nothing needs doing.
        facts: The same for machines, JSON-serialisable.
    """

    group: str
    name: str
    state: State
    says: str
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
