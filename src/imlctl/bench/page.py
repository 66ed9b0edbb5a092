"""Tables and sentences, before they are drawn on a terminal or written as Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Document = dict[str, Any]


class Table(NamedTuple):
    """A table of printable cells; the first column holds names, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block = Table | str


def tabulate(title: str, rows: Iterable[Document], columns: str) -> Table:
    """Make a table of the values of rows.

    Columns are parted by bars. Each is a heading, behind ``=`` the value's key where it is another
    (dots lead deeper), and behind ``:`` one of `STYLES` or a format; by default texts and counts
    stand as they are, and numbers as fractions.
    """
    columns = " ".join(columns.split())
    parts = [column.partition(":")[::2] for column in columns.split(" | ")]
    named = [(*heading.partition("=")[::2], style) for heading, style in parts]
    cells = [tuple(_cell(row, key or name, style) for name, key, style in named) for row in rows]
    return Table(title, tuple(name for name, _, _ in named), tuple(cells))


def _cell(row: Document, place: str, style: str) -> str:
    if style == "interval":
        return interval(row, place)
    value: Any = row
    for key in place.split("."):
        value = None if value is None else value[key]
    return STYLES[style](value) if style in STYLES else format(value, style)


def to_markdown(blocks: Iterable[Block]) -> str:
    """Write a page as GitHub's Markdown."""
    return "\n\n".join(_as_markdown(block) for block in blocks) + "\n"


def _as_markdown(block: Block) -> str:
    if isinstance(block, str):
        return _escaped(block)
    rule = ["---", *["---:"] * (len(block.columns) - 1)]
    head, *rows = (
        [_escaped(" ".join(cell.split())) for cell in row] for row in (block.columns, *block.rows)
    )
    lines = (f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
    return "\n".join([f"**{_escaped(block.title)}**", "", *lines])


def _escaped(text: str) -> str:
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return text


def headline(document: Document) -> str:
    """Name the model, its weights and the device, if there is only one."""
    device = f" on {document['device']}" if "device" in document else ""
    return f"{document['model']} (weights {document['weights_sha256'][:12]}){device}"


def fraction(value: float | None) -> str:
    """Three decimals, or a dash for no value; what is less than 1 does not become 1.000."""
    if value is None:
        return "-"
    return f"{min(value, 0.9994) if value < 1 else value:.3f}"


def proportion(value: Document) -> str:
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


def amount(value: float | None) -> str:
    """A number with three digits that count: 1.93 M, 0.167; nothing for no value."""
    if value is None:
        return ""
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {letter}"
    return f"{value:.3g}"


def megabytes(value: float | None) -> str:
    """Bytes as MB."""
    return "unknown" if value is None else f"{value / 1e6:.1f} MB"


def interval(row: Document, key: str) -> str:
    """A value with its interval: 0.512 [0.43, 0.60]."""
    bounds = row.get("intervals", {}).get(key)
    value = fraction(row[key])
    return value if bounds is None else f"{value} [{bounds[0]:.2f}, {bounds[1]:.2f}]"


def plain(value: float | str | None) -> str:
    """A text or count as it is, another number as a fraction."""
    return str(value) if isinstance(value, str | int) else fraction(value)


STYLES: Mapping[str, Callable[[Any], str]] = {
    "": plain,
    **{each.__name__: each for each in (amount, duration, megabytes, percentage, proportion)},
}


def sampling_line(settings: Document) -> str:
    """Steps, members and flips in words, as far as the model has them."""
    parts = [
        f"{settings[key]} {word}{'' if settings[key] == 1 else 's'}"
        for key, word in (("steps", "step"), ("ensemble", "member"))
        if key in settings
    ]
    tta = settings.get("tta", "none")
    return ", ".join([*parts, "no flips" if tta == "none" else f"flips fused by {tta}"])


def without_nan(document: Document) -> Document:
    """The same as JSON can hold it: null where there is no value."""
    return dict(json.loads(json.dumps(document), parse_constant=lambda _: None))
