"""The augmentations that the field trains with, as MVSS-Net and IMDL-BenCo describe them.

Flips and quarter turns, brightness and contrast, blur, compression, and two that forge: a square
copied elsewhere without any care, and a square filled by OpenCV's inpainting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from imlctl.forge import history
from imlctl.forge.jpeg import jpeg

if TYPE_CHECKING:
    from imlctl.forge.history import Pixels, Rng
    from imlctl.forge.shapes import Mask

_CHANCE = {"copy": 0.1, "inpaint": 0.1, "tone": 0.2, "jpeg": 0.2, "blur": 0.2}


def paper_augment(pixels: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Augment a picture (S, S, 3) and its mask (S, S); what is forged here is marked too."""
    turns = int(rng.integers(4))
    pixels, mask = np.rot90(pixels, turns), np.rot90(mask, turns)
    if rng.random() < 0.5:
        pixels, mask = pixels[::-1], mask[::-1]
    pixels, mask = np.ascontiguousarray(pixels), np.ascontiguousarray(mask)
    chance = {name: rng.random() < p for name, p in _CHANCE.items()}
    if chance["copy"]:
        pixels, mask = copy_paste(pixels, mask, rng)
    if chance["inpaint"]:
        pixels, mask = inpaint(pixels, mask, rng)
    if chance["tone"]:
        contrast, brightness = float(rng.uniform(0.9, 1.1)), float(rng.uniform(-25, 25))
        pixels = history.tone(pixels, 1.0, contrast, brightness)
    if chance["jpeg"]:
        pixels = jpeg(pixels, int(rng.integers(70, 101)))
    if chance["blur"]:
        side = int(rng.choice((3, 5, 7)))
        pixels = cast("Pixels", cv2.GaussianBlur(pixels, (side, side), 0))
    return pixels, mask


def copy_paste(pixels: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Copy a box of the picture over another place of it; only the copy is marked."""
    rows, columns = _box(mask.shape, rng)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    y, x = (int(rng.integers(n - m + 1)) for n, m in zip(mask.shape, (height, width), strict=True))
    if (y, x) == (rows.start, columns.start):
        return pixels, mask
    pixels, mask = pixels.copy(), mask.copy()
    pixels[y : y + height, x : x + width] = pixels[rows, columns].copy()
    mask[y : y + height, x : x + width] = True
    return pixels, mask


def inpaint(pixels: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Fill a box from around it (Telea, or Bertalmio et al.)."""
    hole = np.zeros(mask.shape, np.uint8)
    hole[_box(mask.shape, rng, largest=0.25)] = 1
    method = cv2.INPAINT_TELEA if rng.random() < 0.5 else cv2.INPAINT_NS
    return cast("Pixels", cv2.inpaint(pixels, hole, 3, method)), mask | (hole > 0)


def _box(shape: tuple[int, ...], rng: Rng, largest: float = 0.4) -> tuple[slice, slice]:
    """A random box; its sides are 5 % to `largest` of the picture's."""
    sides = [max(2, round(n * float(rng.uniform(0.05, largest)))) for n in shape]
    starts = [int(rng.integers(n - side + 1)) for n, side in zip(shape, sides, strict=True)]
    y, x = (slice(a, a + b) for a, b in zip(starts, sides, strict=True))
    return y, x
