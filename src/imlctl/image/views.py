"""Views of forensic suites, exact on stored pixels, for an examiner's eyes and not the verdict."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imlctl.image.facts import DARK, decode_thumbnail, eight_bit, picture_within
from imlctl.resources import read_toml

if TYPE_CHECKING:
    Pixels = NDArray[np.uint8]  # (H, W, 3)

ELA_QUALITY, ELA_GAIN = 90, 20
GHOST_QUALITIES = tuple(range(40, 96, 5))
GHOST_BLOCK = 16  # pixels
NOISE_GAIN = 12
THUMBNAIL_GAIN = 4


@dataclass(frozen=True, slots=True)
class View:
    """A view and how to read it."""

    title: str  # with every number that it depends on
    look_for: str  # effects of manipulation
    ignore: str  # what shows likewise, and means nothing

    @property
    def lines(self) -> tuple[str, str, str]:
        """All of it as sentences."""
        return self.title, f"Look for {self.look_for}.", f"Ignore {self.ignore}."


@cache
def how_to_read() -> dict[str, View]:
    """Return the words of `views.toml` on each view, by name."""
    every = read_toml(Path(__file__).with_name("views.toml"))
    return {name: View(**words) for name, words in every.items()}


def views_of(
    pixels: NDArray[np.unsignedinteger[Any]], thumbnail: bytes = b""
) -> Iterator[tuple[str, Pixels]]:
    """Yield the name of each view that there is and its picture, (H, W, 3) uint8.

    Pixels are as stored, since compression has a grid; the thumbnail is a JPEG, or empty.
    """
    eight = eight_bit(pixels)
    yield "error-levels", error_levels(eight)
    yield "ghost", ghost(eight)
    yield "noise", noise_residual(eight)
    yield "gradient", gradient(eight)
    small = decode_thumbnail(thumbnail)
    if small is not None:
        framed = _framed(small, eight)
        yield "thumbnail", _enlarged(framed, eight)
        reduced = cv2.resize(eight, framed.shape[1::-1], interpolation=cv2.INTER_AREA)
        apart = _times(cv2.absdiff(framed, np.asarray(reduced, np.uint8)), THUMBNAIL_GAIN)
        yield "thumbnail-difference", _enlarged(apart, eight)


def error_levels(pixels: Pixels) -> Pixels:
    """Return how much a picture changes when it is saved again (Krawetz 2007), times a gain."""
    return _times(cv2.absdiff(pixels, _resaved(pixels, ELA_QUALITY)), ELA_GAIN)


def ghost(pixels: Pixels) -> Pixels:
    """Return where a JPEG of another quality was pasted in (Farid 2009); light is suspicious.

    A block changes little when it is saved again at its old quality. Its squared differences are
    divided by their mean over the qualities, so that texture does not decide, and at each quality
    by their median over the picture; what is shown is the depth of the deepest dip that is left,
    white for a thirty-second or less. Blocks that hardly change are black.
    """
    height, width = pixels.shape[:2]
    tops, lefts = (np.arange(0, side, GHOST_BLOCK) for side in (height, width))
    sums = []
    for quality in GHOST_QUALITIES:
        difference = cv2.absdiff(pixels, _resaved(pixels, quality)).astype(np.float32)
        square = np.square(difference).mean(2)
        sums.append(np.add.reduceat(np.add.reduceat(square, tops, axis=0), lefts, axis=1))
    changes = np.stack(sums) + 1e-3  # (qualities, rows, columns)
    mean = changes.mean(0)
    relative = changes / mean
    dips = relative / np.median(relative, axis=(1, 2), keepdims=True)
    depth = np.clip(-np.log2(dips.min(0)) / 5, 0, 1)
    depth[mean < GHOST_BLOCK**2 / 2] = 0  # under half a squared level for each pixel
    levels = np.rint(255 * depth).astype(np.uint8)
    whole = np.repeat(np.repeat(levels, GHOST_BLOCK, 0), GHOST_BLOCK, 1)[:height, :width]
    return np.repeat(whole[..., None], 3, 2)


def noise_residual(pixels: Pixels) -> Pixels:
    """Return luminance without its 3 x 3 median, times a gain, around middle grey."""
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    residual = grey.astype(np.int16) - np.asarray(cv2.medianBlur(grey, 3)).astype(np.int16)
    shown = np.clip(128 + NOISE_GAIN * residual, 0, 255).astype(np.uint8)
    return np.repeat(shown[..., None], 3, 2)


def gradient(pixels: Pixels) -> Pixels:
    """Return luminance's slope (Sobel): across in red, down in green, 0 at 128; both in blue."""
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *order, ksize=3) / 4 for order in ((1, 0), (0, 1)))
    shown = np.empty(pixels.shape, np.uint8)
    for channel, values in enumerate((128 + across, 128 + down, 2 * np.hypot(across, down))):
        shown[..., channel] = np.clip(np.rint(values), 0, 255)
    return shown


def _framed(small: Pixels, pixels: Pixels) -> Pixels:
    """Give a thumbnail the picture's proportions: without bars at its sides, or with black ones."""
    (height, width), (tall, wide) = small.shape[:2], pixels.shape[:2]
    within = picture_within(small.shape, pixels.shape)
    outside = np.ones((height, width), bool)
    outside[within] = False
    if not outside.any() or small[outside].mean() <= DARK:
        return np.ascontiguousarray(small[within])
    scale = max(width / wide, height / tall)
    lacking = max(0, round(tall * scale) - height), max(0, round(wide * scale) - width), 0
    return np.pad(small, [(each // 2, each - each // 2) for each in lacking])


def _enlarged(small: Pixels, pixels: Pixels) -> Pixels:
    size = pixels.shape[1::-1]
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _times(difference: NDArray[Any], gain: int) -> Pixels:
    return np.asarray(cv2.multiply(difference, np.full(4, gain, np.float64)), np.uint8)


def _resaved(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    with Image.open(buffer, formats=["JPEG"]) as image:
        return np.asarray(image)
