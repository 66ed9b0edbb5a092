"""What happens before the sensor: depth of field and uneven light, then one camera for all of it.

A subject in focus before a soft background, or a lit corner of a dark room, has two kinds of detail
in one frame and one history. Without such pictures among the authentic ones a network learns that
a change of sharpness or brightness is a seam.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from imlctl.train.augment import random_camera
from imlctl.train.masks import Mask, feather, random_mask
from imlctl.train.segments import segment

Pixels = NDArray[np.uint8]
Field = NDArray[np.float32]
Rng = np.random.Generator

_LEAST = 0.5  # pixels; every lens blurs that much, and with it goes the noise that was there
_STOPS = (0.0, 0.25, 0.5, 1.0)  # of the strongest blur: what lies between is blended


def retake(pixels: Pixels, rng: Rng) -> Pixels:
    """Photograph what a picture shows anew, (H, W, 3) to the same.

    The scene gets a depth of field or none, uneven light or none, and then, all over the frame, the
    noise, colour filter array and processing of one camera: it is authentic whatever it shows.
    """
    depth = _depth(pixels, rng)
    strongest = float(np.exp(rng.uniform(np.log(1.0), np.log(8.0))))
    scene = defocus(pixels, depth, strongest)
    if rng.random() < 0.5:
        scene *= _light(rng, *depth.shape)[..., None]
    return random_camera(rng)(np.clip(np.rint(scene), 0, 255).astype(np.uint8))


def defocus(pixels: Pixels, depth: Field, strongest: float) -> Field:
    """Blur each place as far as it lies out of focus, (H, W, 3) in grey levels.

    Args:
        pixels: (H, W, 3).
        depth: (H, W), 0 in focus to 1.
        strongest: Standard deviation of the blur at depth 1, in pixels.
    """
    sharp = pixels.astype(np.float32)
    out = np.zeros_like(sharp)
    for n, stop in enumerate(_STOPS):
        weight = np.ones_like(depth)
        if n > 0:
            weight = np.minimum(weight, (depth - _STOPS[n - 1]) / (stop - _STOPS[n - 1]))
        if n + 1 < len(_STOPS):
            weight = np.minimum(weight, (_STOPS[n + 1] - depth) / (_STOPS[n + 1] - stop))
        sigma = max(_LEAST, stop * strongest)
        out += np.clip(weight, 0, 1)[..., None] * cv2.GaussianBlur(sharp, (0, 0), sigma)
    return out


def _depth(pixels: Pixels, rng: Rng) -> Field:
    """How far each place lies out of focus, 0 to 1: a subject, a plane that recedes, or nothing."""
    height, width = pixels.shape[:2]
    kind = rng.random()
    if kind < 0.25:
        return np.zeros((height, width), np.float32)
    if kind < 0.5:
        ramp = _ramp(rng, height, width)
        away: Field = np.abs(ramp - np.float32(rng.uniform(-0.1, 1.1)))
        return away / max(float(away.max()), 1e-6)
    outline: Mask | None = segment(pixels, rng) if rng.random() < 0.5 else None
    if outline is None:
        outline = random_mask(rng, height, width)
    soft = feather(outline, float(rng.choice((0.7, rng.uniform(1.0, 6.0)))))
    return 1 - soft if rng.random() < 0.7 else soft


def _light(rng: Rng, height: int, width: int) -> Field:
    """A factor for each place, 0.25 to 1: light that falls off, or a lamp's circle."""
    darkest = float(np.exp(rng.uniform(np.log(0.25), 0)))
    if rng.random() < 0.5:
        share = _ramp(rng, height, width)
    else:
        y, x = np.mgrid[:height, :width].astype(np.float32)
        centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
        reach = float(rng.uniform(0.2, 0.6)) * max(height, width)
        squares = np.square(y - centre_y) + np.square(x - centre_x)
        share = np.exp(-squares / (2 * reach * reach))
    return darkest + (1 - darkest) * share


def _ramp(rng: Rng, height: int, width: int) -> Field:
    """0 to 1 across the frame in some direction."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    turn = float(rng.uniform(0, 2 * math.pi))
    along = math.cos(turn) * x + math.sin(turn) * y
    across: Field = (along - along.min()) / max(float(np.ptp(along)), 1e-6)
    return across
