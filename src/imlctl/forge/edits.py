"""Forgeries: each takes a canvas and returns it changed, with the mask of what changed."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from imlctl.forge import Mask, Pixels, Rng, history
from imlctl.forge.jpeg import jpeg, random_encoding
from imlctl.forge.shapes import feather

Points = NDArray[np.intp]  # (..., 2): row, column

_MATTE = 12.0  # pixels, the widest sigma of a soft matte
_MOVES = 48  # places tried for each piece
_PROBES = 48  # pixels of a piece, and of its surroundings, that judge a place
_FITS = 0.9  # share of them that must lie in the picture and outside the hole


def composite(host: Pixels, source: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Paste `source` over `host` inside `mask`, both (H, W, 3): hard, feathered or Poisson-blended.

    Returns the picture and the mask of what visibly comes from the source.
    """
    if rng.random() < 0.3:
        source = match_colour(source, host, mask, strength=float(rng.uniform(0.4, 1.0)))
    style = rng.random()
    if style < 0.1 and (blended := _poisson(host, source, mask)) is not None:
        return blended
    return _laid_over(host, source, mask, _softness(style, mask, rng))


def _softness(style: float, mask: Mask, rng: Rng) -> float:
    """Sigma of the border in pixels: hard, feathered, or a matte as wide as a small brush."""
    if style < 0.42:
        return 0.0
    if style < 0.88:
        return float(rng.uniform(0.5, 3.0))
    return float(rng.uniform(3.0, max(3.5, min(_MATTE, 0.12 * np.sqrt(mask.sum())))))


def blend(host: Pixels, source: Pixels, alpha: NDArray[np.float32]) -> Pixels:
    """Put `source` over `host` to the share `alpha`, (H, W) in [0, 1]."""
    touched = alpha > 0
    rows, columns = (np.flatnonzero(touched.any(axis)) for axis in (1, 0))
    if not len(rows):
        return host.copy()
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    mixed = source[window].astype(np.float32)  # in one array and where it is needed, for speed
    mixed -= host[window]
    mixed *= alpha[window][..., None]
    mixed += host[window]
    out = host.copy()
    out[window] = np.rint(mixed, out=mixed).astype(np.uint8)
    return out


def _laid_over(host: Pixels, source: Pixels, mask: Mask, sigma: float) -> tuple[Pixels, Mask]:
    """Put `source` over `host` inside a feathered mask, and mark what that changes.

    From half of its strongest place on, so that no edit vanishes.
    """
    alpha = feather(mask, sigma)
    return blend(host, source, alpha), alpha >= 0.5 * float(alpha.max())


def match_colour(source: Pixels, host: Pixels, mask: Mask, strength: float) -> Pixels:
    """Move the source's mean and spread in the mask towards the host's (Reinhard et al. 2001)."""
    inside, around = source[mask].astype(np.float32), host[mask].astype(np.float32)
    spread = np.clip((around.std(0) + 1) / (inside.std(0) + 1), 0.6, 1.6)
    gain = 1 + strength * (spread - 1)
    centre = inside.mean(0)
    shift = strength * (around.mean(0) - centre)
    return history.curves(source, (np.arange(256)[:, None] - centre) * gain + centre + shift)


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
    cut = inner.astype(np.uint8) * 255
    try:
        cloned = cv2.seamlessClone(source, host, cut, centre, cv2.NORMAL_CLONE)
    except cv2.error:
        return None
    # OpenCV shades all of the mask's bounding box anew: what is not marked stays as it was.
    return blend(host, cast("Pixels", cloned), inner.astype(np.float32)), inner


def copy_move(host: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Cover the mask with another part of the same picture, often turned or scaled.

    A copy that was only moved equals its source, so both are marked; otherwise the copy alone.
    """
    return _duplicate(host, mask, _motion(mask, rng), rng)


def clone(host: Pixels, outline: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Put a second copy of what the outline holds elsewhere in the picture; see `copy_move`."""
    height, width = outline.shape
    drawn = outline.astype(np.uint8)
    for _ in range(8):
        motion = _motion(outline, rng)
        copy = cv2.warpAffine(drawn, motion.turn, (width, height), flags=cv2.INTER_NEAREST)
        if 2 * copy.sum() > outline.sum():  # most of it lies within the frame
            return _duplicate(host, copy > 0, motion, rng)
    return copy_move(host, outline, rng)


class _Motion(NamedTuple):
    """Motion of a copy: the affine map, and the whole-pixel shift where it is nothing else."""

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
    smooth = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
    method = int(rng.choice(smooth)) if motion.shift is None else cv2.INTER_NEAREST
    size, edge = (width, height), cv2.BORDER_REFLECT_101
    warped = cv2.warpAffine(host, motion.turn, size, flags=method, borderMode=edge)
    moved = cast("Pixels", warped)
    altered = rng.random() < 0.25
    if altered:
        moved = history.random_history(moved, rng, untouched=0.0)
    forged, copy = composite(host, moved, mask, rng)
    if altered or motion.shift is None:
        return forged, copy
    source = np.zeros_like(copy)
    places = np.argwhere(copy) - motion.shift
    places = places[((places >= 0) & (places < copy.shape)).all(1)]
    source[tuple(places.T)] = True
    return forged, copy | source


def remove(host: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Fill the mask from around it, as an eraser does."""
    hole = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    way = rng.random()
    if way < 0.4:  # brings its own grain
        filled = fill_piecewise(host, hole, rng)
    else:
        small = way < 0.75 and mask.mean() < 0.12
        filled = fill_by_diffusion(host, hole, rng) if small else fill_smoothly(host, hole, rng)
        if rng.random() < 0.5:  # a careful hand puts grain back
            filled = history.noise(filled, float(rng.uniform(0.5, 4)), rng)
    alpha = feather(hole, float(rng.choice((0.0, 1.0))))
    return blend(host, filled, alpha), mask


def regenerate(host: Pixels, generated: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Put back a region that went through a generator, as a latent-diffusion edit leaves it."""
    if rng.random() < 0.25:
        generated = history.random_history(generated, rng, untouched=0.0)
    return _laid_over(host, generated, mask, float(rng.choice((0.0, 1.0, 2.5))))


def retouch(host: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
    """Change a region in place: soften, sharpen, denoise, recompress, recolour or lighten it."""
    steps = (
        partial(history.blur, sigma=float(rng.uniform(0.8, 3))),
        partial(history.sharpen, amount=float(rng.uniform(0.8, 2))),
        partial(history.noise, sigma=float(rng.uniform(2, 8)), rng=rng),
        partial(jpeg, encoding=random_encoding(rng, 35, 85)),
        partial(history.tone, gamma=np.exp(rng.choice((-1, 1)) * rng.uniform(0.2, 0.5))),
        partial(history.colour_cast, gains=np.exp(rng.uniform(-0.3, 0.3, 3))),
        partial(cv2.medianBlur, ksize=int(rng.choice((3, 5)))),
        partial(cv2.bilateralFilter, d=7, sigmaColor=float(rng.uniform(20, 60)), sigmaSpace=3.0),
    )
    changed = steps[rng.integers(len(steps))](host)
    return _laid_over(host, cast("Pixels", changed), mask, float(rng.choice((0.0, 1.0, 3.0))))


def fill_by_diffusion(host: Pixels, hole: Mask, rng: Rng) -> Pixels:
    """Continue the surroundings inwards: Telea 2004, Bertalmio et al. 2001; slow on large holes."""
    method = cv2.INPAINT_TELEA if rng.random() < 0.5 else cv2.INPAINT_NS
    return cast("Pixels", cv2.inpaint(host, hole.astype(np.uint8), 3, method))


def fill_smoothly(host: Pixels, hole: Mask, rng: Rng) -> Pixels:
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


def fill_piecewise(host: Pixels, hole: Mask, rng: Rng) -> Pixels:
    """Copy each piece of the hole from the place that continues its surroundings best.

    What exemplar-based filling leaves (Criminisi et al. 2004): genuine texture in coherent pieces.
    """
    filled = fill_smoothly(host, hole, rng)  # where no place fits
    inside = np.argwhere(hole)
    rim = np.argwhere(cv2.dilate(hole.astype(np.uint8), np.ones((9, 9), np.uint8)) > hole)
    if not len(inside) or not len(rim):
        return filled
    seeds = inside[rng.integers(len(inside), size=int(rng.integers(1, 7)))]
    piece, beside = (_nearest(points, seeds) for points in (inside, rim))
    source = history.blur(host, float(rng.uniform(0.4, 0.8))) if rng.random() < 0.3 else host
    moves = np.rint(rng.uniform(-0.6, 0.6, (_MOVES, 1, 2)) * hole.shape).astype(int)
    for number in range(len(seeds)):
        target, around = inside[piece == number], rim[beside == number]
        if not len(target):  # of two equal seeds
            continue
        around = around if len(around) else rim
        inner, outer = (p[rng.integers(len(p), size=_PROBES)] for p in (target, around))
        move = _best(host, hole, inner, outer, moves)
        if move is not None:
            there = target + move
            fits = _usable(there, hole)
            filled[tuple(target[fits].T)] = source[tuple(there[fits].T)]
    return filled


def _best(host: Pixels, hole: Mask, target: Points, around: Points, moves: Points) -> Points | None:
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
    best: Points = moves[fits][int(np.argmin((apart * known).sum(1) / known.sum(1)))]
    return best


def _usable(points: Points, hole: Mask) -> NDArray[np.bool_]:
    """Say which points (..., 2) lie in the picture and outside the hole."""
    limits = np.array(hole.shape)
    usable = np.asarray(((points >= 0) & (points < limits)).all(-1))
    usable[usable] = ~hole[tuple(points[usable].T)]
    return usable


def _nearest(points: Points, seeds: Points) -> Points:
    """Index of the nearest seed of each point."""
    apart = np.square(points[:, None].astype(np.float32) - seeds).sum(-1)
    return np.asarray(apart.argmin(1))
