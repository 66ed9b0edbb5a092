"""Line charts as a PNG, drawn with Pillow: a plot is not worth another dependency."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Points = list[tuple[float, float]]

_PANEL = (880, 300)
_MARGIN = (76, 34, 200, 44)  # left, top, right (the legend), bottom
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_GREY, _LIGHT = "#444444", "#dddddd"
_FONT = 14


def draw_charts(panels: Sequence[tuple[str, str, Mapping[str, Points]]]) -> bytes | None:
    """Draw panels below each other: each a title, what is across, and curves by name.

    Curves and panels without a point are left out; None when there is no other.
    """
    shown = [(t, a, {k: c for k, c in curves.items() if c}) for t, a, curves in panels]
    shown = [panel for panel in shown if panel[2]]
    if not shown:
        return None
    width, height = _PANEL
    canvas = Image.new("RGB", (width, height * len(shown)), "white")
    for place, panel in enumerate(shown):
        canvas.paste(_panel(*panel), (0, place * height))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _panel(title: str, across: str, curves: Mapping[str, Points]) -> Image.Image:
    """One plot: round figures along both axes, and the legend beside it."""
    panel = Image.new("RGB", _PANEL, "white")
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(_FONT)
    left, top, right, bottom = _MARGIN
    box = (left, top, _PANEL[0] - right, _PANEL[1] - bottom)
    points = [point for curve in curves.values() for point in curve]
    along = _ticks(min(0.0, *(x for x, _ in points)), max(x for x, _ in points), 6)
    up = _ticks(min(y for _, y in points), max(y for _, y in points), 4)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            box[0] + (x - along[0]) / (along[-1] - along[0]) * (box[2] - box[0]),
            box[3] - (y - up[0]) / (up[-1] - up[0]) * (box[3] - box[1]),
        )

    draw.text((box[0], 8), title, fill="black", font=font)
    for y in up:
        at = place(along[0], y)
        draw.line((*at, box[2], at[1]), fill=_LIGHT)
        draw.text((at[0] - 8, at[1]), f"{y:.6g}", fill=_GREY, font=font, anchor="rm")
    for x in along:
        at = place(x, up[0])
        draw.line((*at, at[0], at[1] + 4), fill=_GREY)
        draw.text((at[0], at[1] + 8), f"{x:.6g}", fill=_GREY, font=font, anchor="mt")
    draw.text((box[2] + 36, box[3] + 8), across, fill=_GREY, font=font, anchor="lt")
    for row, ((name, curve), colour) in enumerate(zip(curves.items(), _COLOURS, strict=False)):
        line = [place(x, y) for x, y in curve]
        draw.line(line, fill=colour, width=2)
        for x, y in line if len(line) < 40 else ():
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        label = f"{name.replace('_', ' ')}  {curve[-1][1]:.4g}"
        draw.text((box[2] + 12, box[1] + 20 * row), label, fill=colour, font=font)
    return panel


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round figures, evenly spaced, that enclose `low` and `high`; at least two."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]
