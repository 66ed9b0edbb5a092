"""The strip of words and scales that stands under a rendered picture, never over the evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_GROUND = (24, 26, 30)
_INK = (242, 243, 245)
_SOFT_INK = (176, 182, 191)
_EDGE = (92, 98, 108)  # parts the strip from a picture that is as dark as the strip
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MIN_WIDTH = 400  # a narrower picture stands in the middle of a wider canvas
_MIN_TEXT = 15
_SMOOTH_TEXT = 60  # smaller text is drawn larger and reduced: at its own size it is badly spaced
_SMALL = 0.82  # of the headline's size


def text_size(height: int, width: int) -> int:
    """Return the size of the legend's text, in pixels, for a picture of height x width.

    It grows with the picture, so that it reads the same when the whole is fitted to a screen; a
    very long picture counts as at most 8 : 1, and a line of text fits the width.
    """
    width = max(width, _MIN_WIDTH)
    short, long = sorted((height, width))
    by_area = 0.022 * math.sqrt(long * max(short, long / 8))
    return round(max(_MIN_TEXT, min(by_area, width / 28)))


def stack(picture: NDArray[np.uint8], strip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put the strip under the picture, both (H, W, 3) uint8; a narrow picture is centred."""
    height, width = picture.shape[:2]
    canvas = np.empty((height + strip.shape[0], strip.shape[1], 3), np.uint8)
    canvas[:height] = _GROUND
    left = (strip.shape[1] - width) // 2
    canvas[:height, left : left + width] = picture
    canvas[height:] = strip
    return canvas


def key_strip(
    width: int, size: int, lines: Sequence[str], sample: NDArray[np.uint8] | None
) -> NDArray[np.uint8]:
    """Draw a headline, smaller lines below it, and to their left a sample of the marking.

    Args:
        width: Of the picture, in pixels.
        size: Of the headline's text, in pixels, as `text_size` gives it.
        lines: Headline first.
        sample: (S, S, 3) uint8 that shows how marked pixels look, or None.

    Returns:
        (H, W, 3) uint8; W is the picture's width or more.
    """
    side = 0 if sample is None else sample.shape[0]
    indent = size + (side + size if side else 0)
    text = _lines_height(lines, size)
    height = 2 * size + max(text, side)
    sheet = _Sheet.blank(max(width, _MIN_WIDTH), height, size)
    sheet.write(indent, (height - text) // 2, lines)
    strip = sheet.finished()
    if sample is not None:  # pasted last, at its own size: it shows the very pixels of a marking
        top = (height - side) // 2
        strip[top : top + side, size : size + side] = sample
    return strip


def scale_strip(
    width: int,
    size: int,
    lines: Sequence[str],
    colours: NDArray[np.uint8],
    threshold: float,
) -> NDArray[np.uint8]:
    """Draw a headline, a colour bar from 0 to 1 with the threshold on it, and smaller lines.

    Args:
        width: See `key_strip`.
        size: See `key_strip`.
        lines: Headline first; the others follow the bar.
        colours: (256, 3) uint8, of the probabilities 0 to 1.
        threshold: Marked on the bar.
    """
    head = _lines_height(lines[:1], size)
    bar_top = size + head + 2 * size
    below = bar_top + size + 2 * size
    height = below + _lines_height(lines, size) - head + size
    sheet = _Sheet.blank(max(width, _MIN_WIDTH), height, size)
    sheet.write(size, size, lines[:1])
    sheet.bar(bar_top, colours, threshold)
    sheet.write(size, below, lines, first=1)
    return sheet.finished()


def number(value: float) -> str:
    """Say a threshold with two digits, or with as many as it needs."""
    return f"{value:.2f}" if round(value, 2) == value else f"{value:g}"


def _line_height(index: int, size: int) -> int:
    return round(size * (1.35 if index == 0 else 1.25))


def _lines_height(lines: Sequence[str], size: int) -> int:
    return sum(_line_height(index, size) for index in range(len(lines)))


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A strip in the making; lengths are in its final pixels, and drawn `zoom` times as large."""

    image: Image.Image
    draw: ImageDraw.ImageDraw
    size: int
    zoom: int

    @classmethod
    def blank(cls, width: int, height: int, size: int) -> _Sheet:
        zoom = math.ceil(_SMOOTH_TEXT / size)
        image = Image.new("RGB", (width * zoom, height * zoom), _GROUND)
        sheet = cls(image, ImageDraw.Draw(image), size, zoom)
        sheet.box(0, 0, width, max(1, size // 12), _EDGE)
        return sheet

    def finished(self) -> NDArray[np.uint8]:
        return np.array(self.image.reduce(self.zoom))

    def box(
        self, left: float, top: float, right: float, bottom: float, colour: tuple[int, ...]
    ) -> None:
        """Fill from (left, top) up to and without (right, bottom)."""
        corners = [round(length * self.zoom) for length in (left, top, right, bottom)]
        self.draw.rectangle((*corners[:2], corners[2] - 1, corners[3] - 1), fill=colour)

    def text(self, x: float, y: float, words: str, anchor: str, *, headline: bool) -> None:
        """Write one line; it is made smaller where it would leave the sheet."""
        size = self.size * self.zoom * (1.0 if headline else _SMALL)
        room = self.image.width - (x + self.size) * self.zoom if anchor[0] == "l" else math.inf
        font = ImageFont.load_default(size)
        while size > 1 and font.getlength(words) > room:
            size *= 0.95
            font = ImageFont.load_default(size)
        ink = _INK if headline else _SOFT_INK
        self.draw.text((x * self.zoom, y * self.zoom), words, ink, font, anchor=anchor)

    def write(self, left: int, top: int, lines: Sequence[str], *, first: int = 0) -> None:
        """Write the lines from `first` on; line 0 is the headline."""
        for index in range(first, len(lines)):
            advance = _line_height(index, self.size)
            self.text(left, top + advance / 2, lines[index], "lm", headline=index == 0)
            top += advance

    def bar(self, top: int, colours: NDArray[np.uint8], threshold: float) -> None:
        """Draw the colour bar with ticks below it and the threshold above it."""
        size, zoom, width = self.size, self.zoom, self.image.width // self.zoom
        left, length, line = 1.5 * size, min(width - 3 * size, 30 * size), max(1.0, size / 12)
        self.box(left - line, top - line, left + length + line, top + size + line, _EDGE)
        ramp = Image.fromarray(np.ascontiguousarray(colours[None]))
        self.image.paste(
            ramp.resize((round(length * zoom), size * zoom), Image.Resampling.BILINEAR),
            (round(left * zoom), top * zoom),
        )
        for value in _TICKS:
            x = left + value * length
            self.box(x - line / 2, top + size + line, x + line / 2, top + 1.35 * size, _SOFT_INK)
            self.text(x, top + 1.5 * size, f"{value:g}", "ma", headline=False)
        x = left + threshold * length
        self.box(x - 1.5 * line, top, x + 1.5 * line, top + size, (0, 0, 0))
        self.box(x - line / 2, top, x + line / 2, top + size, (255, 255, 255))
        tip, half = top - 1.5 * line, 0.35 * size
        corners = ((x, tip), (x - half, tip - half), (x + half, tip - half))
        self.draw.polygon([(cx * zoom, cy * zoom) for cx, cy in corners], fill=_INK)
        label = f"threshold {number(threshold)}"
        reach = ImageFont.load_default(_SMALL * size).getlength(label) / 2
        centre = min(max(x, size + reach), width - size - reach)
        self.text(centre, top - 0.7 * size, label, "ms", headline=False)
