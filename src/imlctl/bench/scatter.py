"""Points on two axes as a PNG, the lower axis logarithmic. What was published has its own shape."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from imlctl.bench.page import amount

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WIDTH, _HEIGHT, _SCALE = 720, 460, 2  # drawn larger, then reduced
_LEFT, _TOP, _RIGHT, _BOTTOM, _LINE = 52, 62, 24, 52, 16
_GROUND, _INK, _SOFT, _RULE = (255, 255, 255), (22, 24, 29), (105, 112, 122), (224, 227, 232)
_OURS, _THEIRS = (0, 92, 175), (150, 80, 0)
_MARK = 5  # pixels from the middle of a mark to its side
_STEP = 6  # pixels by which a label is moved until it is clear of others

_Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Point:
    """One mark.

    Attributes:
        label: Written beside it.
        across: Its place on the lower axis, above 0.
        up: Its place on the upward axis, 0 to 1.
    """

    label: str
    across: float
    up: float

    def __post_init__(self) -> None:
        if not (self.across > 0 and 0 <= self.up <= 1):
            raise ValueError("a point lies above 0 on one axis and within 0 to 1 on the other")


@dataclass(frozen=True, slots=True)
class Series:
    """Marks of one kind: discs of what was measured, hollow squares of what was published.

    Attributes:
        name: In the legend.
        points: At least one.
        published: Whether the figures are somebody else's.
    """

    name: str
    points: tuple[Point, ...]
    published: bool = False

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("a series has points")


def scatter(title: str, across: str, series: Sequence[Series], notes: Sequence[str] = ()) -> bytes:
    """Draw series into one frame.

    Args:
        title: What is shown.
        across: What the lower axis is, in words.
        series: At least one.
        notes: Lines below the frame.

    Returns:
        A PNG.
    """
    height = _HEIGHT + _LINE * len(notes)
    image = Image.new("RGB", (_WIDTH * _SCALE, height * _SCALE), _GROUND)
    pen = _Pen(ImageDraw.Draw(image), [p.across for each in series for p in each.points])
    pen.write(_LEFT, 18, title, "lm", 15, _INK)
    pen.grid()
    pen.write((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 16, across, "mm", 11, _SOFT)
    legend = float(_LEFT)
    for each in series:
        pen.mark(legend + _MARK, 42, published=each.published)
        legend = 24 + pen.write(legend + 16, 42, each.name, "lm", 11, _INK)
    marks = [(pen.at(point), point.label, each) for each in series for point in each.points]
    taken = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for (x, y), _, _ in marks]
    for (x, y), label, each in marks:
        pen.mark(x, y, published=each.published)
        width = pen.width(label, 11)
        boxes = ((a, b - 6, a + width, b + 6) for a, b in _around(x, y, width))
        box = next(box for box in boxes if not any(_meet(box, other) for other in taken))
        taken.append(box)
        pen.write(box[0], box[1] + 6, label, "lm", 11, _THEIRS if each.published else _OURS)
    for number, note in enumerate(notes):
        pen.write(_LEFT, _HEIGHT + _LINE * number, note, "lm", 11, _SOFT)
    buffer = io.BytesIO()
    image.resize((_WIDTH, height), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _around(x: float, y: float, width: float) -> Iterator[tuple[float, float]]:
    """Places where a label may begin, the nearest to its mark first."""
    right, left = x + 10, x - 10 - width
    for down in range(0, _HEIGHT, _STEP):
        yield from ((right, y + down), (left, y + down), (right, y - down), (left, y - down))


def _meet(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class _Pen:
    """Draws in pixels of the finished picture."""

    def __init__(self, draw: ImageDraw.ImageDraw, across: Sequence[float]) -> None:
        self.draw = draw
        self.first = math.floor(math.log10(min(across)))
        self.last = max(self.first + 1, math.ceil(math.log10(max(across) * 1.5)))

    def at(self, point: Point) -> tuple[float, float]:
        part = (math.log10(point.across) - self.first) / (self.last - self.first)
        x = _LEFT + part * (_WIDTH - _LEFT - _RIGHT)
        return x, _TOP + (1 - point.up) * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self) -> None:
        for fifth in range(6):
            left, y = self.at(Point("", 10.0**self.first, fifth / 5))
            self.line(left, y, _WIDTH - _RIGHT, y)
            self.write(left - 8, y, f"{fifth / 5:g}", "rm", 11, _SOFT)
        for decade in range(self.first, self.last + 1):
            x, bottom = self.at(Point("", 10.0**decade, 0.0))
            self.line(x, _TOP, x, bottom)
            self.write(x, bottom + 14, amount(10.0**decade), "mm", 11, _SOFT)

    def line(self, *ends: float) -> None:
        self.draw.line([each * _SCALE for each in ends], fill=_RULE, width=_SCALE)

    def mark(self, x: float, y: float, *, published: bool) -> None:
        box = [v * _SCALE for v in (x - _MARK, y - _MARK, x + _MARK, y + _MARK)]
        if published:
            self.draw.rectangle(box, fill=_GROUND, outline=_THEIRS, width=2 * _SCALE)
        else:
            self.draw.ellipse(box, fill=_OURS)

    def write(
        self, x: float, y: float, text: str, anchor: str, size: int, ink: tuple[int, int, int]
    ) -> float:
        """Write, and return where the text ends."""
        font = ImageFont.load_default(size * _SCALE)
        place = (x * _SCALE, y * _SCALE)
        self.draw.text(place, text, fill=ink, font=font, anchor=anchor)
        return x + self.width(text, size)

    def width(self, text: str, size: int) -> float:
        return self.draw.textlength(text, font=ImageFont.load_default(size * _SCALE)) / _SCALE
