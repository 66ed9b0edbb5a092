"""The forgeries: each takes a canvas and changes it inside a mask.

Every kind returns the changed canvas and the mask of what changed. Compositing (feathering, colour
transfer, Poisson blending) is shared by the kinds that paste.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from imlctl.train import augment, fill
from imlctl.train.masks import Mask, feather

Pixels = NDArray[np.uint8]
Rng = np.random.Generator


def composite(host: Pixels, source: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Paste `source` over `host` inside `mask`, both (H, W, 3): hard, feathered or Poisson-blended.

    Returns the picture and the mask of what visibly comes from the source.
    """
    if rng.random() < 0.3:
        source = match_colour(source, host, mask, strength=float(rng.uniform(0.4, 1.0)))
    style = rng.random()
    if style < 0.12:
        blended = _poisson(host, source, mask)
        if blended is not None:
            return blended
    sigma = 0.0 if style < 0.45 else float(rng.uniform(0.5, 3.0))
    alpha = feather(mask, sigma)
    return blend(host, source, alpha), _changed(alpha)


def blend(host: Pixels, source: Pixels, alpha: NDArray[np.float32]) -> Pixels:
    """Put `source` over `host` to the share `alpha`, (H, W) in [0, 1]; in one array, for speed."""
    mixed = source.astype(np.float32)
    mixed -= host
    mixed *= alpha[..., None]
    mixed += host
    return np.rint(mixed, out=mixed).astype(np.uint8)


def _changed(alpha: NDArray[np.float32]) -> Mask:
    """Where a feathered edit counts: from half of its strongest place on, so no edit vanishes."""
    return alpha >= 0.5 * float(alpha.max())


def match_colour(source: Pixels, host: Pixels, mask: Mask, strength: float) -> Pixels:
    """Move the source's mean and spread inside the mask towards the host's.

    Reinhard et al. 2001, in RGB; `strength` 1 goes all the way.
    """
    inside, around = source[mask].astype(np.float32), host[mask].astype(np.float32)
    spread = np.clip((around.std(0) + 1) / (inside.std(0) + 1), 0.6, 1.6)
    gain = 1 + strength * (spread - 1)
    shift = strength * (around.mean(0) - inside.mean(0))
    centre = inside.mean(0)
    moved = (source - centre) * gain + centre + shift
    levels: Pixels = np.clip(np.rint(moved), 0, 255).astype(np.uint8)
    return levels


def _poisson(host: Pixels, source: Pixels, mask: Mask) -> tuple[Pixels, Mask] | None:
    """Seamless cloning (Perez et al. 2003) away from the frame's border, and what was cloned.

    None where OpenCV cannot place the region.
    """
    inner = mask.copy()
    inner[:2] = inner[-2:] = inner[:, :2] = inner[:, -2:] = False
    ys, xs = np.nonzero(inner)
    if len(ys) < 64 or np.ptp(ys) < 4 or np.ptp(xs) < 4:
        return None
    centre = (int(xs.min() + xs.max() + 1) // 2, int(ys.min() + ys.max() + 1) // 2)
    try:
        cloned = cv2.seamlessClone(
            source, host, inner.astype(np.uint8) * 255, centre, cv2.NORMAL_CLONE
        )
    except cv2.error:
        return None
    return cast("Pixels", cloned), inner


def copy_move(host: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Cover the mask with another part of the same picture, often turned or scaled.

    Returns the picture and what is duplicated. A copy that was only moved equals its source, and
    nothing tells the two apart, so both are marked; otherwise only the copy, whose resampling or
    other history gives it away.
    """
    return _duplicate(host, mask, _motion(mask, rng), rng)


def clone(host: Pixels, outline: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Put a second copy of what the outline holds elsewhere in the picture; see `copy_move`."""
    height, width = outline.shape
    for _ in range(8):
        motion = _motion(outline, rng)
        copy = cv2.warpAffine(
            outline.astype(np.uint8), motion.turn, (width, height), flags=cv2.INTER_NEAREST
        )
        if 2 * copy.sum() > outline.sum():  # most of it lies within the frame
            return _duplicate(host, copy > 0, motion, rng)
    return copy_move(host, outline, rng)


@dataclass(frozen=True, slots=True, eq=False)
class _Motion:
    """How a copy was moved: the affine map, and the whole-pixel shift where it is nothing else."""

    turn: NDArray[np.float64]
    shift: tuple[int, int] | None  # down, right


def _motion(mask: Mask, rng: Rng) -> _Motion:
    """Draw a motion for something of the mask's size, about its centre."""
    height, width = mask.shape
    ys, xs = np.nonzero(mask)
    cy, cx = (ys.min() + ys.max()) / 2, (xs.min() + xs.max()) / 2
    least = 0.5 * max(8.0, float(min(np.ptp(ys), np.ptp(xs))))
    for _ in range(8):
        dy, dx = rng.uniform(-0.6, 0.6) * height, rng.uniform(-0.6, 0.6) * width
        if np.hypot(dy, dx) > least:
            break
    plain = rng.random() < 0.6
    angle = 0.0 if plain else float(rng.choice((rng.uniform(-25, 25), rng.choice((90, 180, 270)))))
    scale = 1.0 if plain else float(np.exp(rng.uniform(-0.35, 0.35)))
    turn = cv2.getRotationMatrix2D((cx, cy), angle, scale)
    if plain:
        dy, dx = round(dy), round(dx)
    turn[:, 2] += (dx, dy)
    return _Motion(turn.astype(np.float64), (dy, dx) if plain else None)


def _duplicate(host: Pixels, mask: Mask, motion: _Motion, rng: Rng) -> tuple[Pixels, Mask]:
    """Cover the mask with what the motion brings there."""
    height, width = mask.shape
    plain = motion.shift is not None
    method = (
        cv2.INTER_NEAREST
        if plain
        else int(rng.choice((cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)))
    )
    moved = cv2.warpAffine(
        host, motion.turn, (width, height), flags=method, borderMode=cv2.BORDER_REFLECT_101
    )
    altered = rng.random() < 0.25
    if altered:
        moved = augment.random_history(moved, rng, untouched=0.0)  # type: ignore[arg-type]
    forged, copy = composite(host, moved, mask, rng)  # type: ignore[arg-type]
    if altered or motion.shift is None:
        return forged, copy
    source = np.zeros_like(copy)
    ys, xs = np.nonzero(copy)
    ys, xs = ys - motion.shift[0], xs - motion.shift[1]
    inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
    source[ys[inside], xs[inside]] = True
    return forged, copy | source


def remove(host: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Fill the mask from around it, in one of the ways of `fill`."""
    hole = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    way = rng.random()
    if way < 0.4:  # brings its own grain
        filled = fill.piecewise(host, hole, rng)
    else:
        small = way < 0.75 and mask.mean() < 0.12
        filled = fill.diffuse(host, hole, rng) if small else fill.smooth(host, hole, rng)
        if rng.random() < 0.5:  # a careful hand puts grain back
            filled = augment.noise(filled, float(rng.uniform(0.5, 4)), rng)
    alpha = feather(hole, float(rng.choice((0.0, 1.0))))
    return blend(host, filled, alpha), mask


def regenerate(host: Pixels, generated: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Put back a region that went through a generator, as a latent-diffusion edit leaves it."""
    if rng.random() < 0.25:
        generated = augment.random_history(generated, rng, untouched=0.0)
    alpha = feather(mask, float(rng.choice((0.0, 1.0, 2.5))))
    return blend(host, generated, alpha), _changed(alpha)


def retouch(host: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Change a region in place: soften, sharpen, denoise, recompress, recolour or lighten it."""
    steps = (
        partial(augment.blur, sigma=float(rng.uniform(0.8, 3))),
        partial(augment.sharpen, amount=float(rng.uniform(0.8, 2))),
        partial(augment.noise, sigma=float(rng.uniform(2, 8)), rng=rng),
        partial(augment.jpeg, quality=int(rng.integers(35, 85))),
        partial(
            augment.tone,
            gamma=float(np.exp(rng.choice((-1, 1)) * rng.uniform(0.2, 0.5))),
            contrast=1.0,
            brightness=0.0,
        ),
        partial(augment.colour_cast, gains=np.exp(rng.uniform(-0.3, 0.3, 3))),
        partial(cv2.medianBlur, ksize=int(rng.choice((3, 5)))),
        partial(cv2.bilateralFilter, d=7, sigmaColor=float(rng.uniform(20, 60)), sigmaSpace=3.0),
    )
    changed = steps[rng.integers(len(steps))](host)
    alpha = feather(mask, float(rng.choice((0.0, 1.0, 3.0))))
    return blend(host, cast("Pixels", changed), alpha), _changed(alpha)
