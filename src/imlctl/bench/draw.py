"""PNG pictures of what was measured: line charts, and a contact sheet of the worst and best cases.

Drawn with Pillow: a plot is not worth another dependency.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from imlctl.evaluate.metrics import Mask, Probability

    _At = Callable[[float, float], tuple[float, float]]

_WIDTH, _HEIGHT, _COLUMNS, _SCALE = 420, 280, 3, 2  # of a panel; drawn larger, then reduced
_LEFT, _TOP, _RIGHT, _BOTTOM = 52, 38, 18, 44
_PAPER, _INK, _SOFT, _RULE = (255, 255, 255), (22, 24, 29), (105, 112, 122), (224, 227, 232)
_LINE, _BAND = (0, 92, 175), (170, 200, 228)
_SIDE, _GAP, _CAPTION, _HEADING = 200, 8, 20, 34
_GROUND = (250, 250, 250)


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart.

    Attributes:
        title: What it shows.
        across: What the places across are, in words.
        places: Their labels.
        values: One for each place; None leaves a gap.
        bands: Lower and upper limit of each value, or None.
        level: A value to compare with, drawn as a dashed line; None for none.
        top: End of the upward axis, which starts at 0.
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
    """Draw panels in rows of three.

    Returns:
        A PNG.
    """
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (columns * _WIDTH * _SCALE, rows * _HEIGHT * _SCALE)
    image = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(image)
    for number, panel in enumerate(panels):
        corner = ((number % columns) * _WIDTH, (number // columns) * _HEIGHT)
        _draw(draw, panel, *corner)
    buffer = io.BytesIO()
    reduced = image.resize((columns * _WIDTH, rows * _HEIGHT), Image.Resampling.LANCZOS)
    reduced.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


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


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One case of the sheet.

    Attributes:
        pixels: (H, W, 3) uint8 or uint16, upright.
        truth: (H, W).
        probability: (H, W).
    """

    pixels: NDArray[np.unsignedinteger[Any]]
    truth: Mask
    probability: Probability


def extremes(scores: Sequence[Mapping[str, Any]], count: int) -> tuple[list[int], list[int]]:
    """Places of the tampered pictures with the lowest and the highest F1, none in both.

    Args:
        scores: Of all pictures.
        count: At most so many of each.

    Returns:
        The worst, worst first; and the best, best first.
    """
    places = [i for i, s in enumerate(scores) if s["tampered"]]
    ranked = sorted(places, key=lambda i: (scores[i]["f1"], i))
    worst = ranked[: min(count, (len(ranked) + 1) // 2)]
    best = ranked[: len(worst) - 1 : -1][:count]
    return worst, best


def contact_sheet(
    scores: Sequence[Mapping[str, Any]], show: Callable[[int], Shown], *, count: int = 6
) -> bytes | None:
    """Draw the worst and the best cases by pixel F1 as a PNG.

    Args:
        scores: Of all pictures.
        show: Place of a picture to what is drawn of it.
        count: At most so many of each.

    Returns:
        The PNG; None where no picture is tampered.
    """
    worst, best = extremes(scores, count)
    if not worst:
        return None
    columns = [("Worst", worst), *([("Best", best)] if best else [])]
    width = 3 * _SIDE + 2 * _GAP
    height = _HEADING + max(len(places) for _, places in columns) * (_SIDE + _CAPTION + _GAP)
    sheet = Image.new("RGB", (len(columns) * (width + 3 * _GAP) + _GAP, height + _GAP), _GROUND)
    draw = ImageDraw.Draw(sheet)
    for number, (title, places) in enumerate(columns):
        left = _GAP + number * (width + 3 * _GAP)
        heading = f"{title} by pixel F1: picture, truth, probability (black 0, white 1)"
        draw.text((left, _GAP), heading, fill=_INK, font=ImageFont.load_default(15))
        for row, place in enumerate(places):
            top = _HEADING + row * (_SIDE + _CAPTION + _GAP)
            _draw_case(sheet, left, top, show(place))
            score = scores[place]
            caption = _short(f"{score['f1']:.3f}  {score['set']}/{score['image']}", 82)
            spot = (left, top + _SIDE + 2)
            draw.text(spot, caption, fill=_SOFT, font=ImageFont.load_default(13))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _draw_case(sheet: Image.Image, left: int, top: int, case: Shown) -> None:
    pixels = case.pixels if case.pixels.dtype == np.uint8 else (case.pixels >> 8).astype(np.uint8)
    views = (
        pixels,
        case.truth.astype(np.uint8) * 255,
        np.rint(case.probability * 255).astype(np.uint8),
    )
    for number, view in enumerate(views):
        height, width = view.shape[:2]
        scale = _SIDE / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
        small = Image.fromarray(np.asarray(cv2.resize(view, size, interpolation=method)))
        sheet.paste(small.convert("RGB"), (left + number * (_SIDE + _GAP), top))


def _short(text: str, length: int) -> str:
    printed = "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in text)
    return printed if len(printed) <= length else f"{printed[: length - 3]}..."
