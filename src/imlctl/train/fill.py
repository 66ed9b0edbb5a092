"""What fills the hole when something is taken out of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from imlctl.train import augment

if TYPE_CHECKING:
    from imlctl.train.masks import Mask

Pixels = NDArray[np.uint8]
Rng = np.random.Generator

_MOVES = 48  # places tried for each piece
_PROBES = 48  # pixels of a piece, and of its surroundings, that judge a place
_FITS = 0.9  # share of them that must lie in the picture and outside the hole


def diffuse(host: Pixels, hole: Mask, rng: Rng) -> Pixels:
    """Continue the surroundings inwards: Telea 2004, or Bertalmio et al. 2001; slow on large holes.

    Args:
        host: (H, W, 3).
        hole: (H, W).
        rng: Chooses.
    """
    method = cv2.INPAINT_TELEA if rng.random() < 0.5 else cv2.INPAINT_NS
    return cv2.inpaint(host, hole.astype(np.uint8), 3, method)  # type: ignore[return-value]


def smooth(host: Pixels, hole: Mask, rng: Rng) -> Pixels:
    """Low frequencies interpolated across the hole, high frequencies from elsewhere."""
    keep = (~hole).astype(np.float32)
    sigma = max(4.0, float(np.sqrt(hole.sum())) / 3)
    height, width = hole.shape
    # blurring a reduced picture gives the same low frequencies, faster
    step = max(1, int(sigma / 4))
    size = (max(2, width // step), max(2, height // step))
    weight = cv2.resize(keep, size, interpolation=cv2.INTER_AREA)
    weight = cv2.GaussianBlur(weight, (0, 0), sigma / step)
    colour = cv2.resize(host * keep[..., None], size, interpolation=cv2.INTER_AREA)
    coarse = cv2.GaussianBlur(colour, (0, 0), sigma / step) / np.maximum(weight, 1e-3)[..., None]
    low = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    texture = host.astype(np.float32) - cv2.GaussianBlur(host, (0, 0), 3.0)
    down, across = (int(rng.integers(n // 4, 3 * n // 4)) for n in (height, width))
    texture = np.roll(texture, (down, across), axis=(0, 1)) * float(rng.choice((0.0, 1.0, 0.7)))
    return np.clip(np.rint(low + texture), 0, 255).astype(np.uint8)


def piecewise(host: Pixels, hole: Mask, rng: Rng) -> Pixels:
    """Copy each piece of the hole from the place that continues its surroundings best.

    What exemplar-based filling leaves (Criminisi et al. 2004, and "content-aware" tools since):
    genuine texture in coherent pieces, sometimes a little smoothed where several were averaged.
    """
    filled = smooth(host, hole, rng)  # where no place fits
    inside = np.argwhere(hole)
    rim = np.argwhere(cv2.dilate(hole.astype(np.uint8), np.ones((9, 9), np.uint8)) > hole)
    if not len(inside) or not len(rim):
        return filled
    seeds = inside[rng.integers(len(inside), size=int(rng.integers(1, 7)))]
    piece, beside = _nearest(inside, seeds), _nearest(rim, seeds)
    source = augment.blur(host, float(rng.uniform(0.4, 0.8))) if rng.random() < 0.3 else host
    moves = np.rint(rng.uniform(-0.6, 0.6, (_MOVES, 1, 2)) * hole.shape).astype(int)
    for number in range(len(seeds)):
        target, around = inside[piece == number], rim[beside == number]
        if not len(target):  # of two equal seeds
            continue
        around = around if len(around) else rim
        move = _best(host, hole, _some(target, rng), _some(around, rng), moves)
        if move is not None:
            there = target + move
            fits = _usable(there, hole)
            filled[tuple(target[fits].T)] = source[tuple(there[fits].T)]
    return filled


def _best(
    host: Pixels,
    hole: Mask,
    target: NDArray[np.intp],
    around: NDArray[np.intp],
    moves: NDArray[np.intp],
) -> NDArray[np.intp] | None:
    """Return the move after which the surroundings change least; None if none fits."""
    fits = _usable(target + moves, hole).mean(1) >= _FITS  # (moves,)
    there = around + moves  # (moves, probes, 2)
    known = _usable(there, hole)
    fits &= known.mean(1) >= _FITS
    if not fits.any():
        return None
    there, known = there[fits], known[fits]
    rows, columns = (np.clip(there[..., i], 0, hole.shape[i] - 1) for i in (0, 1))
    apart = np.abs(host[rows, columns].astype(np.int16) - host[tuple(around.T)]).mean(-1)
    best: NDArray[np.intp] = moves[fits][int(np.argmin((apart * known).sum(1) / known.sum(1)))]
    return best


def _usable(points: NDArray[np.intp], hole: Mask) -> NDArray[np.bool_]:
    """Say which points (..., 2) lie in the picture and outside the hole."""
    limits = np.array(hole.shape)
    usable = np.asarray(((points >= 0) & (points < limits)).all(-1))
    usable[usable] = ~hole[tuple(points[usable].T)]
    return usable


def _nearest(points: NDArray[np.intp], seeds: NDArray[np.intp]) -> NDArray[np.intp]:
    """Index of the nearest seed of each point."""
    apart = np.square(points[:, None].astype(np.float32) - seeds).sum(-1)
    nearest: NDArray[np.intp] = apart.argmin(1)
    return nearest


def _some(points: NDArray[np.intp], rng: Rng) -> NDArray[np.intp]:
    return points[rng.integers(len(points), size=_PROBES)]
