"""Regions that follow what a picture shows: where a person would cut, without knowing what it is.

A forger cuts along borders that are there. So beside shapes drawn blindly (`masks`) some are grown
from a spot over the colours that resemble it, and closed into one piece.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from imlctl.train.masks import MAX_AREA, MIN_AREA, Mask

Pixels = NDArray[np.uint8]
Rng = np.random.Generator

_SIDE = 128  # pixels of the longer side that regions are grown at; the border gets a pixel or two
_SPOTS = 8  # tried before giving up
_TOLERANCES = (6, 10, 16, 24, 34)  # grey levels of each colour about the spot's


def segment(pixels: Pixels, rng: Rng) -> Mask | None:
    """Grow a region of like colours.

    Args:
        pixels: (H, W, 3).
        rng: Chooses the spot, and how alike is alike.

    Returns:
        (H, W), between `MIN_AREA` and `MAX_AREA` of the frame; None where nothing was found, as in
        a picture without borders.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    smooth = cv2.GaussianBlur(cv2.resize(pixels, small, interpolation=cv2.INTER_AREA), (0, 0), 1.5)
    for _ in range(_SPOTS):
        grown = _grow(smooth, rng)  # type: ignore[arg-type]
        if grown is None:
            continue
        whole = cv2.resize(grown.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        mask: Mask = cv2.GaussianBlur(whole, (0, 0), 0.5 / scale) >= 0.5
        if MIN_AREA <= mask.mean() <= MAX_AREA:
            return mask
    return None


def _grow(smooth: Pixels, rng: Rng) -> Mask | None:
    """One region from one spot, or from two close together; None where none has a fair size."""
    height, width = smooth.shape[:2]
    y, x = int(rng.integers(height)), int(rng.integers(width))
    spots = [(x, y)]
    if rng.random() < 0.4:  # things have more than one colour
        near = rng.normal(0, 0.1 * max(height, width), 2)
        spots.append(
            (int(np.clip(x + near[0], 0, width - 1)), int(np.clip(y + near[1], 0, height - 1)))
        )
    tolerance = float(rng.choice(_TOLERANCES))
    found = np.zeros((height, width), np.uint8)
    for spot in spots:
        marked = np.zeros((height + 2, width + 2), np.uint8)  # OpenCV wants a frame about it
        flags = 4 | (1 << 8) | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE
        cv2.floodFill(smooth, marked, spot, 0, (tolerance,) * 3, (tolerance,) * 3, flags)
        if marked.mean() <= MAX_AREA:
            found |= marked[1:-1, 1:-1]
    closed = cv2.morphologyEx(found, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return None
    largest = max(outlines, key=cv2.contourArea)
    region = np.zeros_like(found)
    cv2.drawContours(region, [largest], -1, 1, cv2.FILLED)  # without holes
    fair = MIN_AREA <= region.mean() <= MAX_AREA
    return region > 0 if fair else None
