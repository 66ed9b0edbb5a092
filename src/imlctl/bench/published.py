"""Figures of others, from ``published.toml``: shown beside ours, never among them."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from imlctl.bench.page import Block, Table, fraction

_FILE = Path(__file__).parent / "published.toml"
# Which tables belong to which document; others show all of them.
_KINDS = {
    "accuracy": ("accuracy",),
    "speed": ("speed",),
    "flops": ("speed",),
    "scan": ("speed",),
    "bars": ("speed",),
    "ablation": ("ensemble",),
    "robustness": ("accuracy",),
    "calibration": ("accuracy",),
    "peer": ("accuracy",),
    "together": ("accuracy", "speed"),
}
_ALIASES = {"casia1": "casiav1", "casia": "casiav1", "cover": "coverage", "nist": "nist16"}


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One table of a paper.

    Attributes:
        source: The paper.
        number: What it calls the table.
        what: What it shows, and under which protocol.
        kind: ``accuracy``, ``speed`` or ``ensemble``.
        hardware: That the paper names.
        settings: Under which its figures hold.
        columns: Their headings.
        rows: A method, and its figures.
        protocol: Short name of it, for accuracy.
    """

    source: str
    number: str
    what: str
    kind: str
    hardware: str
    settings: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]
    protocol: str = ""

    def __post_init__(self) -> None:
        if any(len(figures) != len(self.columns) for _, figures in self.rows):
            raise ValueError(f"{self.number}: each row has a figure for each column")

    def figure(self, method: str, column: str) -> float | None:
        """The figure of a method in the column of a data set, however its name is written."""
        for name, figures in self.rows:
            for heading, value in zip(self.columns, figures, strict=True):
                if name == method and _plain(heading) == _plain(column):
                    return value
        return None


@cache
def published_tables() -> tuple[PublishedTable, ...]:
    """Return the tables, in the paper's order."""
    document = tomllib.loads(_FILE.read_text("utf-8"))
    return tuple(
        PublishedTable(
            source=document["source"],
            number=table["number"],
            what=table["what"],
            kind=table["kind"],
            hardware=table["hardware"],
            settings=table["settings"],
            columns=tuple(table["columns"]),
            rows=tuple((row[0], tuple(row[1:])) for row in table["rows"]),
            protocol=table.get("protocol", ""),
        )
        for table in document["table"]
    )


def published_page(document: dict[str, Any]) -> list[Block]:
    """Show what was published on what a document measures, and on the same sets side by side."""
    kinds = _KINDS.get(document["kind"], ())
    tables = [t for t in published_tables() if not kinds or t.kind in kinds]
    page: list[Block] = _side_by_side(document) if document["kind"] == "accuracy" else []
    for table in tables:
        page += [
            Table(
                f"PUBLISHED, not measured here: {table.number}",
                ("method", *table.columns),
                tuple((name, *(f"{v:g}" for v in figures)) for name, figures in table.rows),
            ),
            f"{table.what}.\nHardware: {table.hardware}. {table.settings[:1].upper()}"
            f"{table.settings[1:]}.\nSource: {table.source}, {table.number}.",
        ]
    return page


def _side_by_side(document: dict[str, Any]) -> list[Block]:
    """Sets that bear the name of a published one: ours in one column, the paper's in others."""
    tables = [t for t in published_tables() if t.kind == "accuracy"]
    rows = []
    for row in document["sets"]:
        figures = [t.figure("DiffIML", row["name"]) for t in tables]
        if any(f is not None for f in figures):
            rows.append((row["name"], fraction(row["f1"]), *map(fraction, figures)))
    if not rows:
        return []
    headings = (f"published: DiffIML, {t.protocol}" for t in tables)
    return [
        Table("Sets named as in the paper", ("set", "measured here", *headings), tuple(rows)),
        "Compare only if these are the same pictures and the training protocol is the same.",
    ]


def _plain(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return _ALIASES.get(plain, plain)
