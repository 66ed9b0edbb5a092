"""A contact sheet of the worst and the best cases: picture, truth and map side by side."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from imlctl.bench.summary import PictureScore
    from imlctl.evaluate.metrics import Mask, Probability

_SIDE, _GAP, _CAPTION, _HEADING = 200, 8, 20, 34
_GROUND, _INK, _SOFT_INK = (250, 250, 250), (20, 22, 26), (90, 96, 104)


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


def extremes(scores: Sequence[PictureScore], count: int) -> tuple[list[int], list[int]]:
    """Places of the tampered pictures with the lowest and the highest F1, none in both.

    Args:
        scores: Of all pictures.
        count: At most so many of each.

    Returns:
        The worst, worst first; and the best, best first.
    """
    places = [i for i, s in enumerate(scores) if s.tampered]
    ranked = sorted(places, key=lambda i: (scores[i].f1, i))
    worst = ranked[: min(count, (len(ranked) + 1) // 2)]
    best = ranked[: len(worst) - 1 : -1][:count]
    return worst, best


def contact_sheet(
    scores: Sequence[PictureScore], show: Callable[[int], Shown], *, count: int = 6
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
            caption = _short(f"{score.f1:.3f}  {score.set}/{score.image}", 82)
            spot = (left, top + _SIDE + 2)
            draw.text(spot, caption, fill=_SOFT_INK, font=ImageFont.load_default(13))
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
