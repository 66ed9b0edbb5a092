"""Random shapes for manipulated regions, not objects' outlines: a net would learn to find these."""

from __future__ import annotations

from typing import Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from imlctl.core.layers import check_choice
from imlctl.forge import Mask, Pixels, Rng

MIN_AREA, MAX_AREA = 0.005, 0.4  # of the frame

_SIDE = 128  # pixels of the longer side that regions are grown at; the border gets a pixel or two
_SPOTS = 8  # tried before giving up
_TOLERANCES = (6, 10, 16, 24, 34)  # grey levels of each colour about the spot's

EdgeKind = Literal["canny", "band"]

EDGE_WIDTH = 7  # pixels, the side of the square or the cross


def random_mask(rng: Rng, height: int, width: int) -> Mask:
    """Draw a polygon, brush stroke, ellipse, box or blob, (height, width).

    The area aimed at is log-uniform in 0.5 to 40 % of the frame.
    """
    area = float(np.exp(rng.uniform(np.log(MIN_AREA), np.log(MAX_AREA)))) * height * width
    mask = _SHAPES[rng.integers(len(_SHAPES))](rng, height, width, area)
    if not mask.any():  # a sliver can fall between pixels or off the frame
        y, x = rng.integers(height - 4), rng.integers(width - 4)
        mask[y : y + 4, x : x + 4] = True
    return mask


def fit_object(rng: Rng, mask: Mask, height: int, width: int) -> Mask:
    """Take an object's outline as a shape: scaled, mirrored, put somewhere in the frame."""
    ys, xs = np.nonzero(mask)
    cut = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].astype(np.uint8)
    side = float(np.exp(rng.uniform(np.log(0.12), np.log(0.7))))
    scale = side * min(height / cut.shape[0], width / cut.shape[1])
    tall, wide = (max(4, round(n * scale)) for n in cut.shape)
    mirrored = cut[:, :: rng.choice((-1, 1))]
    piece = cv2.resize(mirrored, (wide, tall), interpolation=cv2.INTER_NEAREST)
    out = np.zeros((height, width), bool)
    y, x = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
    out[y : y + tall, x : x + wide] = piece > 0
    return out


def feather(mask: Mask, sigma: float) -> NDArray[np.float32]:
    """Soften a mask's border: (H, W) in [0, 1]; sigma in pixels, 0 for a hard edge."""
    alpha = mask.astype(np.float32)
    soft = cv2.GaussianBlur(alpha, (0, 0), sigma) if sigma > 0 else alpha
    return cast("NDArray[np.float32]", soft)


def _centre(rng: Rng, height: int, width: int) -> tuple[float, float]:
    return float(rng.uniform(0.1, 0.9) * width), float(rng.uniform(0.1, 0.9) * height)


def _aspect(rng: Rng) -> float:
    return float(np.exp(rng.uniform(-0.7, 0.7)))


def _fill(height: int, width: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> Mask:
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, [np.round(np.stack((x, y), 1)).astype(np.int32)], 1)
    return canvas > 0


def _ellipse(rng: Rng, height: int, width: int, area: float) -> Mask:
    aspect = _aspect(rng)
    a, b = np.sqrt(area / np.pi * aspect), np.sqrt(area / np.pi / aspect)
    turn, angles = rng.uniform(0, np.pi), np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x, y = a * np.cos(angles), b * np.sin(angles)
    cx, cy = _centre(rng, height, width)
    cos, sin = np.cos(turn), np.sin(turn)
    return _fill(height, width, cx + x * cos - y * sin, cy + x * sin + y * cos)


def _box(rng: Rng, height: int, width: int, area: float) -> Mask:
    aspect = _aspect(rng)
    w, h = min(np.sqrt(area * aspect), width * 0.9), min(np.sqrt(area / aspect), height * 0.9)
    cx, cy = _centre(rng, height, width)
    x, y = np.clip((cx - w / 2, cy - h / 2), 0, (width - w, height - h))
    mask = np.zeros((height, width), bool)
    mask[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1] = True
    return mask


def _polygon(rng: Rng, height: int, width: int, area: float) -> Mask:
    count = int(rng.integers(3, 11))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    radius = np.sqrt(area / 2) * rng.uniform(0.4, 1.4, count)
    cx, cy = _centre(rng, height, width)
    aspect = np.sqrt(_aspect(rng))
    x, y = cx + radius * np.cos(angles) * aspect, cy + radius * np.sin(angles) / aspect
    return _fill(height, width, x, y)


def _brush(rng: Rng, height: int, width: int, area: float) -> Mask:
    """A stroke that wanders, as a retoucher's does."""
    thickness = max(2, int(np.sqrt(area) * rng.uniform(0.15, 0.6)))
    length = area / thickness
    count = int(rng.integers(3, 9))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.8, count))
    steps = np.stack((np.cos(heading), np.sin(heading)), 1) * length / count
    points = np.array(_centre(rng, height, width)) + np.cumsum(steps, 0) - steps[0]
    canvas = np.zeros((height, width), np.uint8)
    cv2.polylines(canvas, [np.round(points).astype(np.int32)], False, 1, thickness)
    return canvas > 0


def _blob(rng: Rng, height: int, width: int, area: float) -> Mask:
    """Smooth outline, sometimes in several pieces: low-frequency noise above a quantile."""
    grid = int(rng.integers(4, 8))
    coarse = rng.standard_normal((grid, grid)).astype(np.float32)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    cx, cy = _centre(rng, height, width)
    y, x = np.ogrid[:height, :width]
    reach = 2.5 * np.sqrt(area / np.pi)
    away = ((x - cx) ** 2 + (y - cy) ** 2) / reach**2
    field = field - 3 * away.astype(np.float32)  # near one place
    share = min(area / (height * width), MAX_AREA)
    rank = int((1 - share) * (field.size - 1))
    return np.asarray(field > np.partition(field, rank, axis=None)[rank])


_SHAPES = (_ellipse, _box, _polygon, _brush, _blob, _blob)


def segment(pixels: Pixels, rng: Rng) -> Mask | None:
    """Grow a region of like colours in (H, W, 3); None without one of `MIN_AREA` to `MAX_AREA`."""
    height, width = pixels.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    smooth = cast("Pixels", cv2.GaussianBlur(small, (0, 0), 1.5))
    for _ in range(_SPOTS):
        grown = _grow(smooth, rng)
        if not fair_size(grown):
            continue
        whole = cv2.resize(grown.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        mask = np.asarray(cv2.GaussianBlur(whole, (0, 0), 0.5 / scale) >= 0.5)
        if fair_size(mask):
            return mask
    return None


def fair_size(mask: Mask) -> bool:
    """Tell whether a region is neither too small nor too large to be a forgery."""
    return bool(MIN_AREA <= mask.mean() <= MAX_AREA)


def _grow(smooth: Pixels, rng: Rng) -> Mask:
    """One region from one spot, or from two close together."""
    height, width = smooth.shape[:2]
    y, x = int(rng.integers(height)), int(rng.integers(width))
    spots = [(x, y)]
    if rng.random() < 0.4:  # things have more than one colour
        dx, dy = rng.normal(0, 0.1 * max(height, width), 2)
        spots += [(int(np.clip(x + dx, 0, width - 1)), int(np.clip(y + dy, 0, height - 1)))]
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
    region = np.zeros_like(found)
    if outlines:
        largest = max(outlines, key=cv2.contourArea)
        cv2.drawContours(region, [largest], -1, 1, cv2.FILLED)  # without holes
    return region > 0


def edge_map(mask: Mask, kind: EdgeKind = "canny") -> Mask:
    """Mark the border of a mask, (H, W) to (H, W); the frame's own border is none.

    ``canny`` is Canny's line dilated by a square (Eq. 7 of DiffIML); ``band`` what a cross reaches
    both from inside and from outside, as the authors' code. Raises ValueError for another kind.
    """
    check_choice("edge map", kind, get_args(EdgeKind))
    inside, size = mask.astype(np.uint8), (EDGE_WIDTH, EDGE_WIDTH)
    if kind == "canny":
        line = cv2.Canny(inside * 255, 100, 200)
        kernel = cv2.getStructuringElement(cv2.MORPH_RECT, size)
        return np.asarray(cv2.dilate(line, kernel) > 0)
    kernel = cv2.getStructuringElement(cv2.MORPH_CROSS, size)
    near = cv2.dilate(inside, kernel) > 0
    return np.asarray(near & (cv2.dilate(1 - inside, kernel) > 0))
