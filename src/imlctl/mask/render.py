"""Write masks as PNG, and pictures that a person reads at a glance."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from imlctl.mask import legend
from imlctl.mask.decide import DEFAULT_THRESHOLD, check_probability, check_threshold

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from imlctl.mask.decide import Decision

_KEYWORD = "imlctl"  # of the text chunk by which a scan knows its own outputs

# Of pictures for the eye only; masks are always written at the size of the photograph.
_MAX_PIXELS = 32_000_000
_PANEL_PIXELS = 6_000_000  # of each of several pictures in one file
_MAX_SIDE = 12_000
_MIN_SIDE = 480  # the longer side of a smaller picture is enlarged to at least this

# Magenta is rare in photographs; black beside yellow shows on every ground and to every eye.
_TINT = (255, 0, 170)
_TINT_STRENGTH = 0.22
_VEIL, _VEIL_STRENGTH = (30, 90, 255), 0.85
_OVERLAY_LINE = (255, 230, 0)
_HEAT_LINE = (255, 255, 255)


def binary_png(mask: NDArray[np.bool_]) -> bytes:
    """Encode an (H, W) bool mask as 8-bit grey PNG: 255 where marked, 0 elsewhere."""
    return _png(mask.astype(np.uint8) * 255, "mask")


def soft_png(probability: NDArray[np.floating[Any]]) -> bytes:
    """Encode an (H, W) probability map as 16-bit grey PNG, `round(p * 65535)`, never stretched.

    Raises:
        NumericalError: A value is NaN, infinite or outside [0, 1].
    """
    check_probability(probability)
    levels = np.empty(probability.shape, np.uint16)
    for row, values in zip(levels, probability, strict=True):  # by row: no float64 copy of all
        row[:] = np.rint(values.astype(np.float64) * 65535)
    return _png(levels, "probability map")


def overlay_png(pixels: NDArray[np.unsignedinteger[Any]], decision: Decision) -> bytes:
    """Draw the photograph with what is marked tinted and outlined, and a legend under it.

    Args:
        pixels: (H, W, 3) uint8 or uint16, upright.
        decision: Of the same height and width.

    Returns:
        An RGB PNG. A small photograph is enlarged by a whole factor; one of more than 32 million
        pixels is reduced, and the legend says so.
    """
    size = _Size.of(*_checked(pixels, decision.mask.shape))
    picture = size.photo(pixels)
    mask = size.mask(decision.mask)
    text = legend.text_size(*picture.shape[:2])
    _mark(picture, mask, _line_width(picture, text / 8))

    sample = None
    if mask.any():
        sample = np.full((2 * text, 2 * text, 3), 128, np.uint8)
        inside = np.zeros(sample.shape[:2], np.uint8)
        edge = round(text / 8) + 1
        inside[edge:-edge, edge:-edge] = 1
        _mark(sample, inside, round(text / 8))
    lines = [_verdict_line(decision), "p: estimated probability that a pixel was manipulated"]
    strip = legend.key_strip(picture.shape[1], text, [*lines, *size.note()], sample)
    return _png(legend.stack(picture, strip), "overlay", quick=True)


def heatmap_png(
    pixels: NDArray[np.unsignedinteger[Any]],
    probability: NDArray[np.floating[Any]],
    *,
    threshold: float = DEFAULT_THRESHOLD,
) -> bytes:
    """Draw the probabilities in colour over the photograph in dim grey, and a scale under it.

    The scale runs from 0 to 1 and is drawn with the blend of the picture, over a middle grey. A
    line marks where the threshold is reached.

    Args:
        pixels: (H, W, 3) uint8 or uint16, upright; sized as `overlay_png` does.
        probability: (H, W) floating point, each value in [0, 1].
        threshold: Inside (0, 1).

    Raises:
        NumericalError: A value is NaN, infinite or outside [0, 1].
        UsageError: The threshold is not inside (0, 1).
    """
    check_threshold(threshold)
    check_probability(probability)
    size = _Size.of(*_checked(pixels, probability.shape))
    over = probability >= threshold
    mask = size.mask(over)
    picture = _heat(size.photo(pixels), size.levels(probability))
    text = legend.text_size(*picture.shape[:2])
    _outline(picture, mask, _line_width(picture, text / 14), _HEAT_LINE)

    share, peak = np.count_nonzero(over) / over.size, rounded_down(float(probability.max()))
    found = f"{percent(share)} of pixels" if share else "nothing"
    lines = [f"{found} at p >= {legend.number(threshold)}, highest p {peak}"]
    lines += ["p: estimated probability that a pixel was manipulated", *size.note()]
    grey = np.full((1, 256, 3), 128, np.uint8)
    scale = _heat(grey, np.arange(256, dtype=np.uint8)[None])[0]
    strip = legend.scale_strip(picture.shape[1], text, lines, scale, threshold)
    return _png(legend.stack(picture, strip), "heat map", quick=True)


def rounded_down(value: float) -> str:
    """Say a number from 0 to 1 with two digits that do not seem to reach what was not reached."""
    return f"{math.floor(value * 100 + 1e-9) / 100:.2f}"


def captioned_png(panels: Iterable[tuple[NDArray[np.uint8], Sequence[str]]]) -> bytes:
    """Put pictures of one size below each other, each with a headline and smaller lines under it.

    Args:
        panels: Pictures, (H, W, 3) uint8, with their lines; of more than 6 million pixels each is
            reduced, and its last line says so.
    """
    parts = []
    for pixels, lines in panels:
        size = _Size.of(pixels.shape[0], pixels.shape[1], _PANEL_PIXELS)
        picture = size.photo(pixels)
        text = legend.text_size(*picture.shape[:2])
        strip = legend.key_strip(picture.shape[1], text, [*lines, *size.note()], None)
        parts.append(legend.stack(picture, strip))
    return _png(np.concatenate(parts), "views", quick=True)


def percent(share: float) -> str:
    """Say a fraction as a percentage that is never rounded to none or to all."""
    if 0 < share < 0.0001:
        return "less than 0.01 %"
    if 0.9995 <= share < 1:
        return "more than 99.9 %"
    return f"{100 * share:.{2 if 0 < share < 0.01 else 1}f} %".replace(".0 %", " %")


def marked(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a copy of a picture, (H, W, 3), with what is marked tinted and outlined."""
    copy = picture.copy()
    _mark(copy, mask.astype(np.uint8), _line_width(copy, max(copy.shape) / 400))
    return copy


def veiled(
    pixels: NDArray[np.unsignedinteger[Any]], reliability: NDArray[np.floating[Any]]
) -> NDArray[np.uint8]:
    """Return a picture, (H, W, 3) uint8, the bluer the less its map can be believed there.

    Args:
        pixels: (H, W, 3) uint8 or uint16.
        reliability: (H, W) in [0, 1]; one half and more leaves the picture as it is.
    """
    eight = _eight_bit(pixels)
    veil = np.clip(1 - 2 * reliability, 0, 1)[..., None].astype(np.float32) * _VEIL_STRENGTH
    mixed = eight * (1 - veil) + np.array(_VEIL, np.float32) * veil
    return np.asarray(np.rint(mixed), np.uint8)


def heated(
    picture: NDArray[np.uint8], levels: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return a picture, (H, W, 3), dim under the colours of a map, 255 for 1, outlined."""
    heat = _heat(picture, levels)
    _outline(heat, mask.astype(np.uint8), _line_width(heat, max(heat.shape) / 700), _HEAT_LINE)
    return heat


def _verdict_line(decision: Decision) -> str:
    marked = f"{percent(decision.share)} of pixels" if decision.share else "no pixel"
    threshold = legend.number(decision.threshold)
    return f"{decision.verdict}: {marked} marked, at p >= {threshold}"


def _checked(pixels: NDArray[np.unsignedinteger[Any]], shape: tuple[int, ...]) -> tuple[int, int]:
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.shape != (*shape, 3):
        raise ValueError(f"pixels are {pixels.shape} {pixels.dtype}, the map is {shape}")
    return pixels.shape[0], pixels.shape[1]


@dataclass(frozen=True, slots=True)
class _Size:
    """The size at which a photograph is shown, and how its maps are brought to it."""

    height: int
    width: int
    zoom: float  # a whole number where enlarged, 1, or a fraction where reduced

    @classmethod
    def of(cls, height: int, width: int, most: int = 0) -> _Size:
        longer = max(height, width)
        if longer < _MIN_SIDE:
            factor = math.ceil(_MIN_SIDE / longer)
            return cls(height * factor, width * factor, factor)
        zoom = min(1.0, _MAX_SIDE / longer, math.sqrt((most or _MAX_PIXELS) / (height * width)))
        return cls(max(1, int(height * zoom)), max(1, int(width * zoom)), zoom)

    def photo(self, pixels: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.uint8]:
        """Return a fresh (height, width, 3) uint8 copy."""
        picture = self._resized(_eight_bit(pixels))
        return picture.copy() if np.may_share_memory(picture, pixels) else picture

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return (height, width) of 0 and 1; where reduced, a marked pixel is never lost."""
        # The mean of 255 over a shrunk pixel stays over 0 as long as one in 500 was marked.
        return (self._resized(mask.astype(np.uint8) * 255) > 0).astype(np.uint8)

    def levels(self, probability: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
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


def _eight_bit(pixels: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.uint8]:
    return (pixels if pixels.dtype == np.uint8 else pixels >> 8).astype(np.uint8, copy=False)


def _line_width(picture: NDArray[np.uint8], wanted: float) -> int:
    """Return at least one pixel, and no more than suits a long narrow picture."""
    short: int = min(picture.shape[0], picture.shape[1])
    return max(1, round(min(wanted, short / 60)))


def _mark(picture: NDArray[np.uint8], mask: NDArray[np.uint8], line: int) -> None:
    """Tint what is marked, and outline it, in place."""
    value = np.arange(256)[:, None] * (1 - _TINT_STRENGTH) + np.array(_TINT) * _TINT_STRENGTH
    tinted = cv2.LUT(picture, np.rint(value).astype(np.uint8)[None])
    cv2.copyTo(tinted, mask, picture)
    _outline(picture, mask, line, _OVERLAY_LINE)


def _outline(
    picture: NDArray[np.uint8], mask: NDArray[np.uint8], line: int, colour: tuple[int, int, int]
) -> None:
    """Draw a bright line just inside what is marked and a black one just outside, in place."""
    # One pixel of ground all round, so that the outline also closes along the picture's edge.
    inside = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    picture[(depth > 0) & (depth <= line + 0.5)] = colour
    if inside.any():
        depth = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        picture[(depth > 0) & (depth <= line + 0.5)] = 0


def _heat(picture: NDArray[np.uint8], levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Add the colours of the levels to the grey picture, which is dimmer the higher the level."""
    ramp = np.arange(256, dtype=np.uint8)
    colours = cv2.applyColorMap(ramp[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
    keep = np.rint(ramp * (-0.35) + 0.5 * 255).astype(np.uint8)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    grey = cv2.multiply(grey, cv2.LUT(levels, keep), scale=1 / 255)
    heat = cv2.LUT(cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB), np.ascontiguousarray(colours)[None])
    return np.asarray(cv2.add(heat, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)), np.uint8)


def _png(image: NDArray[np.unsignedinteger[Any]], kind: str, *, quick: bool = False) -> bytes:
    note = PngImagePlugin.PngInfo()
    note.add_text(_KEYWORD, kind)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=3 if quick else 6, pnginfo=note)
    return buffer.getvalue()


def kind_of_output(head: bytes) -> str:
    """Return the kind of output, such as "mask", by a file's first 256 bytes; "" if not ours."""
    at = head.find(b"tEXt" + _KEYWORD.encode() + b"\0", 0, 256)
    if at < 4 or not head.startswith(b"\x89PNG"):
        return ""
    length = int.from_bytes(head[at - 4 : at])
    return head[at + 4 : at + 4 + length].partition(b"\0")[2].decode("latin-1")
