"""Write masks as PNG, and pictures with a strip of words under the evidence, never over it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from imlctl.mask.decide import DEFAULT_THRESHOLD, check_probability, check_threshold

if TYPE_CHECKING:
    from imlctl.mask.decide import Decision

    Pixels = NDArray[np.unsignedinteger[Any]]  # (H, W, 3) uint8 or uint16, upright
    Picture = NDArray[np.uint8]  # (H, W, 3)
    Map = NDArray[np.floating[Any]]  # (H, W) in [0, 1]

_KEYWORD = "imlctl"  # of the text chunk by which a scan knows its own outputs

# Of pictures for the eye only; masks are always written at the size of the photograph.
_MAX_PIXELS = 32_000_000
_PANEL_PIXELS = 6_000_000  # of each of several pictures in one file
_MAX_SIDE = 12_000
_MIN_SIDE = 480  # the longer side of a smaller picture is enlarged to at least this

# Magenta is rare in photographs; black beside yellow shows on every ground and to every eye.
_TINT, _TINT_STRENGTH = (255, 0, 170), 0.22
_VEIL, _VEIL_STRENGTH = (30, 90, 255), 0.85
_OVERLAY_LINE, _HEAT_LINE = (255, 230, 0), (255, 255, 255)

_GROUND, _INK, _SOFT_INK = (24, 26, 30), (242, 243, 245), (176, 182, 191)
_EDGE = (92, 98, 108)  # parts the strip from a picture that is as dark as the strip
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MIN_WIDTH = 400  # a narrower picture stands in the middle of a wider canvas
_MIN_TEXT = 15
_SMOOTH_TEXT = 60  # smaller text is drawn larger and reduced: at its own size it is badly spaced
_SMALL = 0.82  # of the headline's size
_EXPLAINED = "p: estimated probability that a pixel was manipulated"


def binary_png(mask: NDArray[np.bool_]) -> bytes:
    """Encode an (H, W) bool mask as 8-bit grey PNG: 255 where marked, 0 elsewhere."""
    return _png(mask.astype(np.uint8) * 255, "mask")


def soft_png(probability: Map) -> bytes:
    """Encode a map in [0, 1] as 16-bit grey PNG, `round(p * 65535)`; else NumericalError."""
    check_probability(probability)
    levels = np.empty(probability.shape, np.uint16)
    for row, values in zip(levels, probability, strict=True):  # by row: no float64 copy of all
        row[:] = np.rint(values.astype(np.float64) * 65535)
    return _png(levels, "probability map")


def overlay_png(pixels: Pixels, decision: Decision) -> bytes:
    """Draw the photograph with what is marked tinted and outlined, and a legend under it.

    A small photograph is enlarged, one of over 32 million pixels reduced, and the legend says so.
    """
    size = _Size(pixels.shape)
    picture, mask = size.photo(pixels), size.mask(decision.mask)
    text = text_size(*picture.shape[:2])
    _mark(picture, mask, _line_width(picture, text / 8))
    sample = None
    if mask.any():
        sample = np.full((2 * text, 2 * text, 3), 128, np.uint8)
        line = round(text / 8)
        inside = np.zeros(sample.shape[:2], np.uint8)
        inside[line + 1 : -line - 1, line + 1 : -line - 1] = 1
        _mark(sample, inside, line)
    share = f"{percent(decision.share)} of pixels" if decision.share else "no pixel"
    headline = f"{decision.verdict}: {share} marked, at p >= {number(decision.threshold)}"
    strip = key_strip(picture.shape[1], text, [headline, _EXPLAINED, *size.note()], sample)
    return _png(stack(picture, strip), "overlay")


def heatmap_png(pixels: Pixels, probability: Map, *, threshold: float = DEFAULT_THRESHOLD) -> bytes:
    """Draw the probabilities in colour over the photograph in dim grey, and a scale under it.

    The scale runs from 0 to 1 and is drawn with the blend of the picture, over a middle grey. A
    line marks where the threshold is reached. Sized as `overlay_png` does; errors as of `decide`.
    """
    check_threshold(threshold)
    check_probability(probability)
    size = _Size(probability.shape)
    over = probability >= threshold
    picture = _heat(size.photo(pixels), size.levels(probability))
    text = text_size(*picture.shape[:2])
    _outline(picture, size.mask(over), _line_width(picture, text / 14), _HEAT_LINE)

    share, peak = float(over.mean()), rounded_down(float(probability.max()))
    found = f"{percent(share)} of pixels" if share else "nothing"
    headline = f"{found} at p >= {number(threshold)}, highest p {peak}"
    grey = np.full((1, 256, 3), 128, np.uint8)
    scale = _heat(grey, np.arange(256, dtype=np.uint8)[None])[0]
    lines = [headline, _EXPLAINED, *size.note()]
    strip = scale_strip(picture.shape[1], text, lines, scale, threshold)
    return _png(stack(picture, strip), "heat map")


def captioned_png(panels: Iterable[tuple[Picture, Sequence[str]]]) -> bytes:
    """Put pictures of one size below each other, each with a headline and lines under it."""
    parts = []
    for pixels, lines in panels:
        size = _Size(pixels.shape, _PANEL_PIXELS)
        picture = size.photo(pixels)
        text = text_size(*picture.shape[:2])
        parts.append(stack(picture, key_strip(picture.shape[1], text, [*lines, *size.note()])))
    return _png(np.concatenate(parts), "views")


def marked(picture: Picture, mask: NDArray[np.bool_], *, tint: bool = True) -> Picture:
    """Return a copy of a picture with what is marked outlined, and tinted unless told not to."""
    copy = picture.copy()
    _mark(copy, mask.astype(np.uint8), _line_width(copy, max(copy.shape) / 400), tint=tint)
    return copy


def heated(picture: Picture, levels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Picture:
    """Return a picture dim under the colours of a map, 255 for 1, outlined."""
    heat = _heat(picture, levels)
    _outline(heat, mask.astype(np.uint8), _line_width(heat, max(heat.shape) / 700), _HEAT_LINE)
    return heat


def veiled(pixels: Pixels, reliability: Map) -> Picture:
    """Return a picture, the bluer the less its map can be believed; as it is from one half on."""
    veil = np.clip(1 - 2 * reliability, 0, 1)[..., None].astype(np.float32) * _VEIL_STRENGTH
    mixed = _eight_bit(pixels) * (1 - veil) + np.array(_VEIL, np.float32) * veil
    return np.asarray(np.rint(mixed), np.uint8)


def kind_of_output(head: bytes) -> str:
    """Return the kind of output, such as "mask", by a file's first 256 bytes; "" if not ours."""
    at = head.find(b"tEXt" + _KEYWORD.encode() + b"\0", 0, 256)
    if at < 4 or not head.startswith(b"\x89PNG"):
        return ""
    length = int.from_bytes(head[at - 4 : at])
    return head[at + 4 : at + 4 + length].partition(b"\0")[2].decode("latin-1")


def percent(share: float) -> str:
    """Say a fraction as a percentage that is never rounded to none or to all."""
    if 0 < share < 0.0001:
        return "less than 0.01 %"
    if 0.9995 <= share < 1:
        return "more than 99.9 %"
    return f"{100 * share:.{2 if 0 < share < 0.01 else 1}f} %".replace(".0 %", " %")


def rounded_down(value: float) -> str:
    """Say a number from 0 to 1 with two digits that do not seem to reach what was not reached."""
    return f"{math.floor(value * 100 + 1e-9) / 100:.2f}"


def number(value: float) -> str:
    """Say a threshold with two digits, or with as many as it needs."""
    return f"{value:.2f}" if round(value, 2) == value else f"{value:g}"


class _Size:
    """The size at which a photograph is shown, and how its maps are brought to it."""

    def __init__(self, shape: tuple[int, ...], most: int = 0) -> None:
        height, width = shape[:2]
        longer = max(height, width)
        self.zoom: float  # a whole number where enlarged, 1, or a fraction where reduced
        if longer < _MIN_SIDE:
            self.zoom = math.ceil(_MIN_SIDE / longer)
        else:
            fitting = math.sqrt((most or _MAX_PIXELS) / (height * width))
            self.zoom = min(1.0, _MAX_SIDE / longer, fitting)
        self.height, self.width = (max(1, int(side * self.zoom)) for side in (height, width))

    def photo(self, pixels: Pixels) -> Picture:
        """Return a fresh copy."""
        picture = self._resized(_eight_bit(pixels))
        return picture.copy() if np.may_share_memory(picture, pixels) else picture

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return (height, width) of 0 and 1; where reduced, a marked pixel is never lost."""
        # The mean of 255 over a shrunk pixel stays over 0 as long as one in 500 was marked.
        return (self._resized(mask.astype(np.uint8) * 255) > 0).astype(np.uint8)

    def levels(self, probability: Map) -> NDArray[np.uint8]:
        """Return (height, width) uint8, 0 to 255 for 0 to 1."""
        levels = np.empty(probability.shape, np.uint8)
        for row, values in zip(levels, probability, strict=True):
            row[:] = np.rint(values * 255)
        return self._resized(levels)

    def note(self) -> list[str]:
        if self.zoom > 1:
            return [f"shown enlarged {self.zoom:g} times"]
        return [f"shown at {percent(self.zoom)} of its size"] if self.zoom < 1 else []

    def _resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        image = np.ascontiguousarray(image)  # cv2 refuses a rotated view
        if self.zoom == 1:
            return image
        how = cv2.INTER_NEAREST if self.zoom > 1 else cv2.INTER_AREA
        return np.asarray(cv2.resize(image, (self.width, self.height), interpolation=how), np.uint8)


def _eight_bit(pixels: Pixels) -> Picture:
    return (pixels if pixels.dtype == np.uint8 else pixels >> 8).astype(np.uint8, copy=False)


def _line_width(picture: Picture, wanted: float) -> int:
    """Return at least one pixel, and no more than suits a long narrow picture."""
    short: int = min(picture.shape[:2])
    return max(1, round(min(wanted, short / 60)))


def _mark(picture: Picture, mask: NDArray[np.uint8], line: int, *, tint: bool = True) -> None:
    """Tint what is marked, and outline it, in place."""
    if tint:
        value = np.arange(256)[:, None] * (1 - _TINT_STRENGTH) + np.array(_TINT) * _TINT_STRENGTH
        cv2.copyTo(cv2.LUT(picture, np.rint(value).astype(np.uint8)[None]), mask, picture)
    _outline(picture, mask, line, _OVERLAY_LINE)


def _outline(
    picture: Picture, mask: NDArray[np.uint8], line: int, colour: tuple[int, int, int]
) -> None:
    """Draw a bright line just inside what is marked and a black one just outside, in place."""
    # One pixel of ground all round, so that the outline also closes along the picture's edge.
    inside = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    picture[(depth > 0) & (depth <= line + 0.5)] = colour
    if inside.any():
        depth = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        picture[(depth > 0) & (depth <= line + 0.5)] = 0


def _heat(picture: Picture, levels: NDArray[np.uint8]) -> Picture:
    """Add the colours of the levels to the grey picture, which is dimmer the higher the level."""
    ramp = np.arange(256, dtype=np.uint8)
    colours = cv2.applyColorMap(ramp[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
    keep = np.rint(ramp * (-0.35) + 0.5 * 255).astype(np.uint8)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    grey = cv2.multiply(grey, cv2.LUT(levels, keep), scale=1 / 255)
    heat = cv2.LUT(cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB), np.ascontiguousarray(colours)[None])
    return np.asarray(cv2.add(heat, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)), np.uint8)


def _png(image: NDArray[np.unsignedinteger[Any]], kind: str) -> bytes:
    note = PngImagePlugin.PngInfo()
    note.add_text(_KEYWORD, kind)
    buffer = io.BytesIO()
    level = 6 if image.ndim == 2 else 3  # pictures are for the eye, and large
    Image.fromarray(image).save(buffer, "PNG", compress_level=level, pnginfo=note)
    return buffer.getvalue()


def text_size(height: int, width: int) -> int:
    """Return the size of the strip's text, in pixels: it reads the same when fitted to a screen."""
    width = max(width, _MIN_WIDTH)
    short, long = sorted((height, width))
    # A very long picture counts as at most 8 : 1, and a line of text fits the width.
    by_area = 0.022 * math.sqrt(long * max(short, long / 8))
    return round(max(_MIN_TEXT, min(by_area, width / 28)))


def stack(picture: Picture, strip: Picture) -> Picture:
    """Put the strip under the picture; a picture narrower than it is centred."""
    left = (strip.shape[1] - picture.shape[1]) // 2
    above = np.full((len(picture), strip.shape[1], 3), _GROUND, np.uint8)
    above[:, left : left + picture.shape[1]] = picture
    return np.concatenate([above, strip])


def key_strip(
    width: int, size: int, lines: Sequence[str], sample: Picture | None = None
) -> Picture:
    """Draw a headline of a `text_size`, smaller lines, and on the left a sample of a marking."""
    width = max(width, _MIN_WIDTH)
    if sample is None:
        return _framed(np.concatenate(_words(width, size, size, lines)), size)
    side = len(sample)
    words = np.concatenate(_words(width, side + 2 * size, size, lines))
    lack = max(0, side - len(words))
    around = ((lack // 2, lack - lack // 2), (0, 0), (0, 0))
    strip = _framed(np.pad(words, around, mode="edge"), size)
    top = (len(strip) - side) // 2  # pasted at its own size: it shows the very pixels of a marking
    strip[top : top + side, size : size + side] = sample
    return strip


def scale_strip(
    width: int, size: int, lines: Sequence[str], colours: NDArray[np.uint8], threshold: float
) -> Picture:
    """Draw a strip with a bar of the `colours` of 0 to 1, (256, 3), and the threshold on it."""
    width = max(width, _MIN_WIDTH)
    head, *smaller = _words(width, size, size, lines)
    bar = _bar(width, size, colours, threshold)
    return _framed(np.concatenate([head, bar, *smaller]), size)


def _framed(strip: Picture, size: int) -> Picture:
    """Add room above and below, and a line that parts the strip from its picture."""
    framed = np.full((len(strip) + 2 * size, strip.shape[1], 3), _GROUND, np.uint8)
    framed[: max(1, size // 12)] = _EDGE
    framed[size:-size] = strip
    return framed


def _words(width: int, left: int, size: int, lines: Sequence[str]) -> list[Picture]:
    """Write a headline and smaller lines, each made smaller where it would leave the strip."""
    zoom = math.ceil(_SMOOTH_TEXT / size)
    parts = []
    for index, line in enumerate(lines):
        wanted, high, ink = (_SMALL, 1.25, _SOFT_INK) if index else (1.0, 1.35, _INK)
        sheet = Image.new("RGB", (width * zoom, round(size * high) * zoom), _GROUND)
        wanted *= size * zoom
        while wanted > 1:
            font = ImageFont.load_default(wanted)
            if font.getlength(line) <= (width - left - size) * zoom:
                break
            wanted *= 0.95
        ImageDraw.Draw(sheet).text((left * zoom, sheet.height / 2), line, ink, font, anchor="lm")
        parts.append(np.asarray(sheet.reduce(zoom)))
    return parts


def _bar(width: int, size: int, colours: NDArray[np.uint8], threshold: float) -> Picture:
    """Draw a colour bar with ticks below it, and the threshold across it and above it."""
    zoom = math.ceil(_SMOOTH_TEXT / size)
    unit, line = size * zoom, max(zoom, size * zoom // 12)
    left, top, length = 1.5 * unit, 2 * unit, min(width * zoom - 3 * unit, 30 * unit)
    sheet = Image.new("RGB", (width * zoom, 5 * unit), _GROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_SMALL * unit)
    border = (left - line, top - line, left + length + line, top + unit + line)
    draw.rectangle(border, outline=_EDGE, width=line)
    ramp = Image.fromarray(np.ascontiguousarray(colours[None]))
    ramp = ramp.resize((length, unit), Image.Resampling.BILINEAR)
    sheet.paste(ramp, (round(left), top))
    for value in _TICKS:
        x = left + value * length
        draw.line((x, top + unit + line, x, top + 1.35 * unit), _SOFT_INK, line)
        draw.text((x, top + 1.5 * unit), f"{value:g}", _SOFT_INK, font, anchor="ma")
    x = left + threshold * length
    for ink, thickness in (((0, 0, 0), 3 * line), ((255, 255, 255), line)):
        draw.line((x, top - unit / 2, x, top + unit), ink, thickness)
    label = f"threshold {number(threshold)}"
    reach = unit + font.getlength(label) / 2
    centre = min(max(x, reach), width * zoom - reach)
    draw.text((centre, top - 0.7 * unit), label, _SOFT_INK, font, anchor="ms")
    return np.asarray(sheet.reduce(zoom))
