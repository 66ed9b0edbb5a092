"""Tables and sentences, before they are drawn on a terminal or written as Markdown.

A page is made from the document that ``--json`` prints, so a table in the docs can be made anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Table:
    """A table of printable cells; the first column holds names, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of(
        cls, title: str, rows: Iterable[Any], columns: Mapping[str, Callable[[Any], str]]
    ) -> Table:
        """Make a table of `rows`, each cell by the function of its column."""
        cells = (tuple(cell(row) for cell in columns.values()) for row in rows)
        return cls(title, tuple(columns), tuple(cells))

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("each row has a cell for each column")


Block = Table | str


def to_markdown(blocks: Iterable[Block]) -> str:
    """Write a page as GitHub's Markdown."""
    return "\n\n".join(_as_markdown(block) for block in blocks) + "\n"


def _as_markdown(block: Block) -> str:
    if isinstance(block, str):
        return _escaped(block)
    lines = [f"**{_escaped(block.title)}**", "", _line(block.columns)]
    lines.append(_line(["---", *["---:"] * (len(block.columns) - 1)], escape=False))
    return "\n".join([*lines, *map(_line, block.rows)])


def _line(cells: Sequence[str], *, escape: bool = True) -> str:
    shown = (_escaped(" ".join(cell.split())) if escape else cell for cell in cells)
    return f"| {' | '.join(shown)} |"


def _escaped(text: str) -> str:
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return text


def headline(document: dict[str, Any]) -> str:
    """Name the model, its weights and the device."""
    sha256 = document["weights_sha256"][:12]
    return f"{document['model']} (weights {sha256}) on {document['device']}"


def fraction(value: float | None) -> str:
    """Three decimals, or a dash for no value; what is less than 1 does not become 1.000."""
    if value is None:
        return "-"
    return f"{min(value, 0.9994) if value < 1 else value:.3f}"


def proportion(value: dict[str, Any]) -> str:
    """A proportion as `mask.rates` keeps it, with its interval: 39% [17, 64]; a dash of nothing."""
    if not value["of"]:
        return "-"
    low, high = value["interval"]
    return f"{percentage(value['share'])} [{100 * low:.0f}, {100 * high:.0f}]"


def percentage(value: float | None) -> str:
    """Whole percent, or a dash for no value; some are not none, and nearly all are not all."""
    if value is None:
        return "-"
    if 0 < value < 0.005 or 0.995 <= value < 1:
        return "<1%" if value < 1 / 2 else ">99%"
    return f"{value:.0%}"


def duration(seconds: float) -> str:
    """Seconds or milliseconds with four digits that count."""
    return f"{seconds:.4g} s" if seconds >= 1 else f"{1000 * seconds:.4g} ms"


def amount(value: float) -> str:
    """A number with three digits that count: 1.93 M, 0.167."""
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {letter}"
    return f"{value:.3g}"


def megabytes(value: float | None) -> str:
    """Bytes as MB."""
    return "unknown" if value is None else f"{value / 1e6:.1f} MB"


def interval(row: dict[str, Any], key: str) -> str:
    """A value with its interval: 0.512 [0.43, 0.60]."""
    bounds = row.get("intervals", {}).get(key)
    value = fraction(row[key])
    return value if bounds is None else f"{value} [{bounds[0]:.2f}, {bounds[1]:.2f}]"


def sampling_line(settings: dict[str, Any]) -> str:
    """Steps, members and flips in words, as far as the model has them."""
    parts = [
        f"{settings[key]} {word}{'' if settings[key] == 1 else 's'}"
        for key, word in (("steps", "step"), ("ensemble", "member"))
        if key in settings
    ]
    tta = settings.get("tta", "none")
    return ", ".join([*parts, "no flips" if tta == "none" else f"flips fused by {tta}"])


def without_nan(value: Any) -> Any:
    """The same without NaN, which JSON does not have: null where there is no value."""
    if isinstance(value, float):
        return value if value == value else None
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return value
