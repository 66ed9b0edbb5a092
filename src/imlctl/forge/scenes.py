"""Authentic pictures that look edited: things on plain grounds, prints, screens, pages of text.

Drawn by code; most are photographed by a simulated camera, others left as a program makes them.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from imlctl.forge import Mask, Pixels, Rng, Shape, history

_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:-"))
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
)


def draw(shape: Shape, rng: Rng, *, thing: tuple[Pixels, Mask] | None, shown: Pixels) -> Pixels:
    """Draw one of the scenes in `shape`, height and width.

    `thing` is a photograph and the outline of a thing in it; `shown` a photograph of `shape`,
    (H, W, 3), for screens and pages to show.
    """
    which = int(rng.integers(4 if thing is not None else 3))
    if which == 3 and thing is not None:
        picture = on_plain_ground(shape, rng, *thing)
    elif which == 0:
        picture = pattern(shape, rng)
    else:
        picture = screen(shown, rng) if which == 1 else page(shown, rng)
    # What was put before a ground by code alone is a splice: these are always photographed.
    if which != 3 and rng.random() < 0.5:
        return picture
    if which != 3:
        picture = _tilted(picture, rng)
    light = 1 - _slope(shape, rng) * float(rng.uniform(0, 0.35))
    picture = np.rint(picture * light[..., None]).astype(np.uint8)
    sigma = float(np.exp(rng.uniform(np.log(1.0), np.log(8.0))))
    picture = history.camera(picture, sigma, sigma * float(rng.choice((0.0, 2.0))), rng)
    return history.sharpen(picture, 0.6) if rng.random() < 0.4 else picture


def on_plain_ground(shape: Shape, rng: Rng, photo: Pixels, outline: Mask) -> Pixels:
    """A thing before an even ground, as shops show it, with a soft shadow at times."""
    ground = _ground(shape, rng)
    ys, xs = np.nonzero(outline)
    extent = np.array((np.ptp(ys) + 1, np.ptp(xs) + 1))
    scale = float(min(np.array(shape) / extent) * rng.uniform(0.35, 0.9))
    centre = np.array(((ys.min() + ys.max()) / 2, (xs.min() + xs.max()) / 2))
    spare = np.maximum(np.array(shape) - extent * scale, 0) / 2
    to = np.array(shape) / 2 + rng.uniform(-1, 1, 2) * spare
    move = np.array([[scale, 0, to[1] - scale * centre[1]], [0, scale, to[0] - scale * centre[0]]])
    size, edge = shape[::-1], cv2.BORDER_REFLECT_101
    there = cv2.warpAffine(photo, move, size, flags=cv2.INTER_AREA, borderMode=edge)
    alpha = cv2.warpAffine(outline.astype(np.float32), move, size, flags=cv2.INTER_LINEAR)
    alpha = cv2.GaussianBlur(alpha, (0, 0), float(rng.uniform(0.5, 1.2)))
    if rng.random() < 0.5:
        shadow = cv2.GaussianBlur(alpha, (0, 0), 0.03 * max(shape))
        drop = np.array([[1, 0, 0.01 * shape[1]], [0, 1, 0.02 * shape[0]]])
        shadow = cv2.warpAffine(shadow, drop, size)
        ground = ground * (1 - 0.5 * shadow[..., None])
    mixed = ground + (there - ground) * alpha[..., None]
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def pattern(shape: Shape, rng: Rng) -> Pixels:
    """A motif that repeats, as on cloth, paper and tiles."""
    period = int(rng.integers(16, max(17, min(96, min(shape) // 2))))
    tile = np.empty((period, period, 3), np.uint8)
    tile[:] = rng.integers(40, 256, 3)
    for _ in range(int(rng.integers(1, 5))):
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            centre = tuple(int(c) for c in rng.integers(0, period, 2))
            radius = int(rng.integers(2, max(3, period // 2)))
            cv2.circle(tile, centre, radius, colour, -1 if rng.random() < 0.5 else 2, cv2.LINE_AA)
        else:
            points = rng.integers(0, period, (int(rng.integers(3, 6)), 2)).astype(np.int32)
            cv2.fillPoly(tile, [points], colour, cv2.LINE_AA)
    height, width = shape
    whole = np.tile(tile, (-(-height // period), -(-width // period), 1))[:height, :width]
    return np.ascontiguousarray(whole)


def screen(shown: Pixels, rng: Rng) -> Pixels:
    """A screen's raster over a picture: stripes of three colours, as a camera samples them."""
    height, width = shown.shape[:2]
    pitch, turn = float(rng.uniform(1.3, 4.5)), float(rng.normal(0, 0.05))
    y, x = np.mgrid[:height, :width].astype(np.float32) * np.float32(2 * np.pi / pitch)
    across = x * np.cos(turn) + y * np.sin(turn)
    down = y * np.cos(turn) - x * np.sin(turn)
    depth = float(rng.uniform(0.05, 0.4))
    rows = 1 + 0.5 * depth * np.cos(down)
    light = np.stack([(1 + depth * np.cos(across + k * 2.0944)) * rows for k in range(3)], -1)
    return np.asarray(np.clip(np.rint(shown * light), 0, 255), np.uint8)


def page(shown: Pixels, rng: Rng) -> Pixels:
    """Lines of letters on paper or in a window, often with a picture between them."""
    shape = cast("Shape", shown.shape[:2])
    paper = _ground(shape, rng).astype(np.uint8)
    dark = paper.mean() > 110
    ink = tuple(int(c) for c in (rng.integers(0, 80, 3) if dark else rng.integers(190, 256, 3)))
    font, size = int(rng.choice(_FONTS)), float(np.exp(rng.uniform(np.log(0.35), np.log(1.4))))
    weight, step = 1 + int(rng.random() < 0.3), round(34 * size)
    left = int(rng.integers(2, max(3, shape[1] // 6)))
    inset = rng.random() < 0.5
    if inset:
        tall, wide = (int(n * rng.uniform(0.25, 0.6)) for n in shape)
        y, x = int(rng.integers(shape[0] - tall)), int(rng.integers(shape[1] - wide))
    for base in range(step, shape[0], step):
        if rng.random() < 0.12:
            continue
        letters = rng.choice(_LETTERS, int(rng.integers(4, max(5, int(shape[1] / (15 * size))))))
        text = "".join(np.where(rng.random(len(letters)) < 0.16, " ", letters))
        cv2.putText(paper, text, (left, base), font, size, ink, weight, cv2.LINE_AA)
    if inset:
        paper[y : y + tall, x : x + wide] = shown[y : y + tall, x : x + wide]
    return paper


def _ground(shape: Shape, rng: Rng) -> NDArray[np.float32]:
    """White, grey or a colour, even or fading a little; (H, W, 3)."""
    draw = rng.random()
    if draw < 0.4:
        colour = np.full(3, 255.0)
    elif draw < 0.7:
        colour = np.full(3, float(rng.uniform(20, 250)))
    else:
        colour = rng.uniform(20, 250, 3)
    fading = float(rng.choice((0.0, rng.uniform(0, 0.4))))
    light = 1 - fading * _slope(shape, rng)
    return np.asarray(np.clip(light[..., None] * colour, 0, 255), np.float32)


def _slope(shape: Shape, rng: Rng) -> NDArray[np.float64]:
    """From 0 to 1 across the picture, in a random direction."""
    turn = rng.uniform(0, 2 * np.pi)
    y, x = (np.linspace(-1, 1, n) for n in shape)
    slope = np.sin(turn) * y[:, None] + np.cos(turn) * x[None]
    return np.asarray((slope + 1.4143) / 2.8286)


def _tilted(picture: Pixels, rng: Rng) -> Pixels:
    """The picture as of a flat thing that is not quite square to the camera."""
    height, width = picture.shape[:2]
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    moved = corners + rng.uniform(-0.08, 0.08, (4, 2)).astype(np.float32) * (width, height)
    turn = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    size, edge = (width, height), cv2.BORDER_REFLECT_101
    return cast("Pixels", cv2.warpPerspective(picture, turn, size, borderMode=edge))
