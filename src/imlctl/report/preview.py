"""What a report shows of a picture: a small photograph, a small map, and how much lies over p."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from imlctl.mask.decide import check_probability

if TYPE_CHECKING:
    from numpy.typing import NDArray

PHOTO_SIDE = 640  # pixels of the longer side
MAP_SIDE = 256
STEPS = 100  # of the share curve
_MAP_SHARE = MAP_SIDE / PHOTO_SIDE
_QUALITY = 78
_STRIP_PIXELS = 1 << 20


@dataclass(frozen=True, slots=True)
class Preview:
    """What a report shows of one picture; some tens of kilobytes.

    Attributes:
        photo: JPEG, upright, for the eye only.
        soft: 8-bit grey PNG of the same aspect, 255 for probability 1. Where it is smaller than
            the picture, each of its pixels holds the highest probability of those it stands for,
            so that nothing that was marked is lost.
        curve: Share of the picture's own pixels with a probability of at least 0, 0.01, ... 1.
    """

    photo: bytes
    soft: bytes
    curve: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.curve) != STEPS + 1:
            raise ValueError(f"a curve has {STEPS + 1} shares, not {len(self.curve)}")


def make_preview(
    pixels: NDArray[np.unsignedinteger[Any]], probability: NDArray[np.floating[Any]]
) -> Preview:
    """Make the preview of an analysed picture.

    Args:
        pixels: (H, W, 3) uint8 or uint16, upright.
        probability: (H, W) floating point, each value in [0, 1].

    Raises:
        NumericalError: A value is NaN, infinite or outside [0, 1].
        ValueError: The shapes differ.
    """
    check_probability(probability)
    if pixels.shape != (*probability.shape, 3):
        raise ValueError(f"pixels are {pixels.shape}, the map is {probability.shape}")
    return Preview(
        photo=photo_jpeg(pixels), soft=soft_png(probability), curve=share_curve(probability)
    )


def photo_jpeg(pixels: NDArray[np.unsignedinteger[Any]], side: int = PHOTO_SIDE) -> bytes:
    """Encode a picture as JPEG whose longer side is at most `side` pixels."""
    height, width = _fitted(pixels.shape[0], pixels.shape[1], side)
    small = np.ascontiguousarray(pixels)
    if (height, width) != pixels.shape[:2]:
        small = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA))
    eight = small if small.dtype == np.uint8 else (small >> 8).astype(np.uint8)
    return _jpeg(Image.fromarray(eight))


def soft_png(probability: NDArray[np.floating[Any]], side: int = MAP_SIDE) -> bytes:
    """Encode a map as 8-bit grey PNG whose longer side is at most `side` pixels."""
    height, width = probability.shape
    rows, columns = _fitted(height, width, side)
    tops = np.linspace(0, height, rows + 1).astype(int)[:-1]
    lefts = np.linspace(0, width, columns + 1).astype(int)[:-1]
    highest = np.maximum.reduceat(np.maximum.reduceat(probability, tops, axis=0), lefts, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(highest * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def share_curve(probability: NDArray[np.floating[Any]]) -> tuple[float, ...]:
    """Return the share of pixels with a probability of at least 0, 0.01, ... 1."""
    counts = np.zeros(STEPS + 1, np.int64)
    step = max(1, _STRIP_PIXELS // probability.shape[1])
    for top in range(0, probability.shape[0], step):
        bins = (probability[top : top + step] * STEPS).astype(np.uint8)
        counts += np.bincount(bins.ravel(), minlength=STEPS + 1)
    shares = counts[::-1].cumsum()[::-1] / probability.size
    return tuple(np.round(shares, 7).tolist())


def shrunk(preview: Preview, side: int) -> Preview:
    """Return a preview whose photograph has a longer side of at most `side`, and its map to match.

    A page of ten thousand pictures has to stay small enough to be opened.
    """
    with Image.open(io.BytesIO(preview.photo), formats=["JPEG"]) as photo:
        if max(photo.size) <= side:
            return preview
        photo.draft("RGB", (side, side))
        photo.thumbnail((side, side), reducing_gap=2)
        small = _jpeg(photo.convert("RGB"))
    with Image.open(io.BytesIO(preview.soft), formats=["PNG"]) as levels:
        soft = soft_png(np.asarray(levels, np.float32) / 255, round(side * _MAP_SHARE))
    return Preview(small, soft, preview.curve)


def _fitted(height: int, width: int, side: int) -> tuple[int, int]:
    """Return height and width reduced to a longer side of at most `side`, never enlarged."""
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
