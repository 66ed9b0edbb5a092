"""PNG pictures of what was measured: line charts, and a contact sheet of the worst and best cases.

Drawn with Pillow: a plot is not worth another dependency.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    _At = Callable[[float, float], tuple[float, float]]

_WIDTH, _HEIGHT, _COLUMNS, _SCALE = 420, 280, 3, 2  # of a panel; drawn larger, then reduced
_LEFT, _TOP, _RIGHT, _BOTTOM = 52, 38, 18, 44
_PAPER, _INK, _SOFT, _RULE = (255, 255, 255), (22, 24, 29), (105, 112, 122), (224, 227, 232)
_LINE, _BAND = (0, 92, 175), (170, 200, 228)
_SIDE, _GAP, _CAPTION = 200, 8, 20  # of a contact sheet


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart, upwards from 0 to `top`: for each labelled place a value and a band, or None.

    `level` is a value to compare with, drawn as a dashed line.
    """

    title: str
    across: str
    places: Sequence[str]
    values: Sequence[float | None]
    bands: Sequence[tuple[float, float] | None]
    level: float | None = None
    top: float = 1.0

    def __post_init__(self) -> None:
        if not len(self.places) == len(self.values) == len(self.bands) or not self.top > 0:
            raise ValueError("each place has a value and a band, and the axis a length")


def charts(panels: Sequence[Panel]) -> bytes:
    """Draw panels in rows of three, as a PNG."""
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (columns * _WIDTH * _SCALE, rows * _HEIGHT * _SCALE)
    image = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(image)
    for number, panel in enumerate(panels):
        corner = ((number % columns) * _WIDTH, (number // columns) * _HEIGHT)
        _draw(draw, panel, *corner)
    return _png(image.resize((columns * _WIDTH, rows * _HEIGHT), Image.Resampling.LANCZOS))


def round_top(values: Sequence[float]) -> float:
    """The next of 1, 2, 5 times a power of ten that no value exceeds."""
    highest = max(values)
    unit = 10.0 ** math.floor(math.log10(highest))
    return next(step * unit for step in (1, 2, 5, 10) if step * unit >= highest)


def _draw(draw: ImageDraw.ImageDraw, panel: Panel, left: int, top: int) -> None:
    inner = _WIDTH - _LEFT - _RIGHT
    high = _HEIGHT - _TOP - _BOTTOM
    step = inner / max(1, len(panel.places) - 1) if len(panel.places) > 1 else 0
    offset = 0 if len(panel.places) > 1 else inner / 2

    def at(place: float, value: float) -> tuple[float, float]:
        x = left + _LEFT + offset + place * step
        y = top + _TOP + high * (1 - min(value, panel.top) / panel.top)
        return x * _SCALE, y * _SCALE

    def write(x: float, y: float, text: str, anchor: str, size: int, ink: tuple[int, ...]) -> None:
        font = ImageFont.load_default(size * _SCALE)
        draw.text((x * _SCALE, y * _SCALE), text, fill=ink, font=font, anchor=anchor)

    write(left + _LEFT, top + 14, panel.title, "lm", 14, _INK)
    for quarter in range(5):
        value = panel.top * quarter / 4
        y = top + _TOP + high * (1 - quarter / 4)
        draw.line(
            [
                ((left + _LEFT) * _SCALE, y * _SCALE),
                ((left + _WIDTH - _RIGHT) * _SCALE, y * _SCALE),
            ],
            fill=_RULE,
            width=_SCALE,
        )
        write(left + _LEFT - 8, y, f"{value:.3g}", "rm", 11, _SOFT)
    for place, label in enumerate(panel.places):
        x = at(place, 0)[0] / _SCALE
        write(x, top + _HEIGHT - _BOTTOM + 12, label, "mm", 11, _SOFT)
    write(left + _LEFT + inner / 2, top + _HEIGHT - 12, panel.across, "mm", 11, _SOFT)
    _draw_level(draw, panel, at)
    for place, band in enumerate(panel.bands):
        if band is not None:
            draw.line([at(place, band[0]), at(place, band[1])], fill=_BAND, width=5 * _SCALE)
    points = [at(i, v) for i, v in enumerate(panel.values) if v is not None]
    if len(points) > 1:
        draw.line(points, fill=_LINE, width=2 * _SCALE, joint="curve")
    for x, y in points:
        r = 3 * _SCALE
        draw.ellipse([x - r, y - r, x + r, y + r], fill=_LINE)


def _draw_level(draw: ImageDraw.ImageDraw, panel: Panel, at: _At) -> None:
    if panel.level is None:
        return
    (start, y), (end, _) = at(0, panel.level), at(max(1, len(panel.places) - 1), panel.level)
    for x in range(int(start), int(end), 10 * _SCALE):
        draw.line([(x, y), (x + 5 * _SCALE, y)], fill=_SOFT, width=_SCALE)


def contact_sheet(cases: Sequence[tuple[str, Sequence[NDArray[Any]]]]) -> bytes:
    """Draw cases below each other as a PNG, each a caption over its views.

    A view is (H, W) or (H, W, 3); bool, uint8, uint16, or 0 to 1.
    """
    width = max(len(views) for _, views in cases) * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, len(cases) * (_SIDE + _CAPTION + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (caption, views) in enumerate(cases):
        top = row * (_SIDE + _CAPTION + _GAP)
        printed = "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in caption)
        font = ImageFont.load_default(13)
        draw.text((_GAP, top + 3), printed[: width // 8], fill=_INK, font=font)
        for column, view in enumerate(views):
            small = Image.fromarray(_eight_bit(view)).convert("RGB")
            small = ImageOps.contain(small, (_SIDE, _SIDE), Image.Resampling.BOX)
            sheet.paste(small, (_GAP + column * (_SIDE + _GAP), top + _CAPTION))
    return _png(sheet)


def _eight_bit(view: NDArray[Any]) -> NDArray[np.uint8]:
    if view.dtype == np.uint16:
        return (view >> 8).astype(np.uint8)
    return view if view.dtype == np.uint8 else np.rint(view * 255.0).astype(np.uint8)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
