"""Edge maps: the second thing that DiffIML learns to denoise, made from the mask alone."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
EdgeKind = Literal["canny", "band"]

WIDTH = 7  # pixels


def edge_map(mask: Mask, kind: EdgeKind = "canny", *, width: int = WIDTH) -> Mask:
    """Mark the border of a mask, (H, W) to (H, W); the frame's own border is none.

    Args:
        mask: True inside.
        kind: ``canny``: Canny's line, one pixel wide, dilated by a square (Eq. 7 of DiffIML).
            ``band``: what a cross reaches both from inside and from outside, the morphological
            band of its authors' code.
        width: Side of the square or the cross in pixels, odd. A straight border is marked `width`
            pixels wide, or `width - 1` by ``band``.

    Raises:
        ValueError: The kind is unknown, or the width is even or below 1.
    """
    if kind not in get_args(EdgeKind):
        raise ValueError(f"unknown edge map {kind!r}; known: {', '.join(get_args(EdgeKind))}")
    if width < 1 or width % 2 == 0:
        raise ValueError(f"the width of an edge map must be odd and positive, not {width}")
    inside = mask.astype(np.uint8)
    if kind == "canny":
        line = cv2.Canny(inside * 255, 100, 200)
        kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (width, width))
        return np.asarray(cv2.dilate(line, kernel) > 0)
    kernel = cv2.getStructuringElement(cv2.MORPH_CROSS, (width, width))
    near = cv2.dilate(inside, kernel) > 0
    return np.asarray(near & (cv2.dilate(1 - inside, kernel) > 0))
