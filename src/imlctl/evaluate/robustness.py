"""Degradations of a photograph after a forgery: the papers' grid, and a social network.

The grid is that of the field's benchmark (IMDL-BenCo). Its code passes the noise's "3 to 23" as
variances, 1.7 to 4.8 grey levels; as standard deviations they are a harsher test. Both are here.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imlctl.data.masks import read_mask
from imlctl.evaluate.score import PictureAccuracy, score_picture
from imlctl.image.facts import eight_bit

if TYPE_CHECKING:
    from imlctl.data.manifest import Entry
    from imlctl.evaluate.metrics import Mask
    from imlctl.pipeline import Localizer

Pixels = NDArray[np.uint8]
Rng = np.random.Generator
# Upright pixels (H, W, 3) to the bytes of a file.
Change = Callable[[Pixels, Rng], bytes]

_SIDE, _QUALITY = 1080, 75  # of a social network

NOTES = (
    "JPEG: 4:2:0 by libjpeg. Blur: Gaussian, kernel in pixels, sigma 0.3 ((k - 1) / 2 - 1) + 0.8.",
    "Noise, variance: Gaussian of this VARIANCE in grey levels squared, as the field's benchmark"
    " passes it (standard deviation 1.7 to 4.8). Noise, std: of this STANDARD DEVIATION in grey"
    " levels.",
    f"Resize: bicubic or area, mask likewise. Social network: longer side to {_SIDE} at most,"
    f" then JPEG {_QUALITY}.",
    "All but the clean row are analysed as 8-bit pictures without metadata.",
)


@dataclass(frozen=True, slots=True)
class Degradation:
    """One thing that happens to a picture, and how much of it; no change leaves the file."""

    kind: str
    level: str
    change: Change | None

    def __call__(self, pixels: Pixels, key: bytes) -> bytes:
        """Degrade upright pixels (H, W, 3) uint8 to a file; noise depends on the key alone."""
        assert self.change is not None  # noqa: S101 - the clean file is not changed
        name = f"0/{self.kind}/{self.level}/".encode() + key
        digest = hashlib.sha256(name).digest()
        return self.change(pixels, np.random.default_rng(int.from_bytes(digest[:8], "little")))


def grid() -> tuple[Degradation, ...]:
    """All degradations, the clean file first."""
    steps = (3, 7, 11, 15, 19, 23)
    levels: dict[str, dict[str, Change]] = {
        "JPEG": {f"{q}": partial(_jpeg, quality=q) for q in (100, 90, 80, 70, 60, 50)},
        "Gaussian blur": {f"{k}": partial(_blur, kernel=k) for k in steps},
        "noise, variance": {f"{v}": partial(_noise, deviation=v**0.5) for v in steps},
        "noise, std": {f"{s}": partial(_noise, deviation=float(s)) for s in steps},
        "resize": {f"{f:g}": partial(_resize, factor=f) for f in (1.5, 0.75, 0.5)},
        "social network": {f"{_SIDE}, {_QUALITY}": _social},
    }
    changes = (
        Degradation(kind, level, change)
        for kind, each in levels.items()
        for level, change in each.items()
    )
    return Degradation("clean", "-", None), *changes


def degraded(localizer: Localizer, entry: Entry) -> Iterator[tuple[Degradation, PictureAccuracy]]:
    """Score a picture after each degradation, the clean file first."""
    truth = None if entry.mask is None else read_mask(entry.mask)
    original = localizer.localize(entry.image)
    pixels = eight_bit(original.pixels)
    for each in grid():
        answer = original
        if each.change is not None:
            data = each(pixels, bytes.fromhex(original.photo.sha256))
            answer = localizer.localize(data, name=str(entry.image))
        mask = None if truth is None else resized(truth, answer.probability.shape)
        yield each, score_picture(entry, answer, mask)


def resized(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Bring a mask to the size that its picture has now, (H, W)."""
    if mask.shape == shape:
        return mask
    size = (shape[1], shape[0])
    scaled = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.asarray(scaled >= 0.5)


def _jpeg(pixels: Pixels, _: Rng, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2)
    return buffer.getvalue()


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _blur(pixels: Pixels, _: Rng, kernel: int) -> bytes:
    return _png(np.asarray(cv2.GaussianBlur(pixels, (kernel, kernel), 0), np.uint8))


def _noise(pixels: Pixels, rng: Rng, deviation: float) -> bytes:
    noisy = pixels + deviation * rng.standard_normal(pixels.shape, np.float32)
    return _png(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def _resize(pixels: Pixels, _: Rng, factor: float) -> bytes:
    return _png(_scaled(pixels, factor))


def _social(pixels: Pixels, rng: Rng) -> bytes:
    factor = min(1.0, _SIDE / max(pixels.shape[:2]))
    return _jpeg(_scaled(pixels, factor), rng, _QUALITY)


def _scaled(pixels: Pixels, factor: float) -> Pixels:
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    method = cv2.INTER_AREA if factor <= 0.5 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=method), np.uint8)
