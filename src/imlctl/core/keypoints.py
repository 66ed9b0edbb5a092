"""Keypoints of a picture and what it looks like around them, after SIFT (Lowe 2004).

Places that stand out at their own scale, each with a size and a turn, so that the picture around
one can be described in the same way however it was moved, turned or scaled. Descriptors are those
of RootSIFT (Arandjelovic and Zisserman 2012). It is all made of tensors, where the picture is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

DIMENSIONS = 128  # of a descriptor
LEAST_SIDE = 32  # pixels; a smaller picture has no keypoints

_MOST = 2000  # keypoints, those of most contrast
_LEAST_CONTRAST = 0.8  # grey levels, of a difference of Gaussians
_LEAST_ROUND = 0.06  # det / trace^2 of the curvature there; along an edge it is less
_SIGMA = 0.8  # pixels, of the finest scale; small copies have little else
_BEGUN = 0.5  # pixels, blur that a photograph comes with
_INTERVALS = 3  # scales to an octave
_OCTAVES = 4
_BORDER = 5  # pixels of an octave, at whose edge nothing is sought

# Gradients are looked at on a grid of so many samples a side, so many sigmas apart.
_TURN_SIDE, _TURN_STEP, _TURN_SPREAD, _TURN_BINS = 11, 0.9, 2.0, 36
_SIDE, _STEP = 16, 0.75
_CELLS, _BINS = 4, 8  # a side, and directions, of a descriptor's histograms
_CLIP = 0.2  # of a descriptor's length, for one of its numbers


class Keypoints(NamedTuple):
    """Places of a picture that stand out, the clearest first."""

    place: Tensor  # row and column in pixels, (K, 2)
    size: Tensor  # sigma, in pixels, (K,)
    turn: Tensor  # radians, (K,)
    described: Tensor  # descriptors of length 1, (K, 128)


class _Found(NamedTuple):
    """Keypoints as the octave sees them that they were found in."""

    place: Tensor  # row and column, (K, 2)
    sigma: Tensor  # (K,)
    octave: Tensor  # (K,) int64
    start: Tensor  # of their scale among all gradients, (K,) int64
    rows: Tensor  # of the octave, (K,) int64
    columns: Tensor  # (K,) int64


def find_keypoints(grey: Tensor) -> Keypoints:
    """Find and describe up to 2,000 keypoints in grey levels (H, W); none if a side is under 32."""
    image = _blurred(grey, math.sqrt(_SIGMA**2 - _BEGUN**2))
    strengths, found, gradients, begun = [], [], [], 0
    for octave in range(_OCTAVES):
        if min(image.shape) < LEAST_SIDE:
            break
        scales = _scales(image)  # (6, h, w)
        strength, place = _extremes(scales.diff(dim=0))  # (N,), (N, 3)
        number = place[:, 0].round().long().clamp(1, _INTERVALS)
        rows, columns = (number * 0 + side for side in image.shape)
        start = begun + (number - 1) * image.numel()
        sigma = _SIGMA * 2 ** (place[:, 0] / _INTERVALS)
        strengths.append(strength)
        found.append(_Found(place[:, 1:], sigma, number * 0 + octave, start, rows, columns))
        gradients.append(_gradients(scales[1 : _INTERVALS + 1]))
        begun += _INTERVALS * image.numel()
        image = scales[_INTERVALS, ::2, ::2]  # blurred enough by now
    if not found:
        none = grey.new_zeros(0)
        return Keypoints(none.view(0, 2), none, none, none.view(0, DIMENSIONS))
    clearest = torch.cat(strengths)
    best = clearest.topk(min(_MOST, len(clearest))).indices
    chosen = _Found(*(torch.cat(each)[best] for each in zip(*found, strict=True)))
    slopes = torch.cat(gradients, dim=1)
    turn = _turns(chosen, slopes)
    factor = 2.0**chosen.octave
    described = _descriptors(chosen, slopes, turn)
    return Keypoints(chosen.place * factor[:, None], chosen.sigma * factor, turn, described)


def _scales(image: Tensor) -> Tensor:
    """Blur an image (h, w) further and further, (6, h, w): an octave, and one scale around it."""
    scales = [image]
    for step in range(_INTERVALS + 2):
        before, after = (_SIGMA * 2 ** (k / _INTERVALS) for k in (step, step + 1))
        scales.append(_blurred(scales[-1], math.sqrt(after**2 - before**2)))
    return torch.stack(scales)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (h, w)."""
    reach = max(1, math.ceil(3 * sigma))
    taps = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(reach + 1)]
    total = taps[0] + 2 * sum(taps[1:])
    for dim in (0, 1):
        frame = (0, 0, reach, reach) if dim == 0 else (reach, reach, 0, 0)
        framed = F.pad(image[None, None], frame, mode="replicate")[0, 0]
        # Sum by sum: of a single channel, convolutions are slower.
        around = [framed.narrow(dim, start, image.shape[dim]) for start in range(2 * reach + 1)]
        image = around[reach] * (taps[0] / total)
        for step, tap in enumerate(taps[1:], 1):
            image.add_(around[reach - step], alpha=tap / total)
            image.add_(around[reach + step], alpha=tap / total)
    return image


def _extremes(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Find what stands out among its 26 neighbours in differences of Gaussians (5, h, w).

    Returns:
        Strength (N,) and place (N, 3): scale (0 to 4), row and column, where the parabola through
        the neighbours has its peak (Brown and Lowe 2002).
    """
    middle = difference[1:-1, 1:-1, 1:-1]
    above = (middle >= _greatest(difference)) & (middle > _LEAST_CONTRAST)
    below = (middle <= -_greatest(-difference)) & (middle < -_LEAST_CONTRAST)
    stands = above | below
    frame = _BORDER - 1
    place = stands[:, frame:-frame, frame:-frame].nonzero()
    place = place + torch.tensor((1, _BORDER, _BORDER), device=place.device)
    steps = torch.eye(3, dtype=torch.int64, device=place.device)

    def at(step: Tensor) -> Tensor:
        return difference[tuple((place + step).unbind(1))]

    centre = at(0 * steps[0])
    slope = torch.stack([(at(step) - at(-step)) / 2 for step in steps], dim=1)  # (N, 3)
    curve = slope.new_empty(len(place), 3, 3)
    for n, one in enumerate(steps):
        curve[:, n, n] = at(one) + at(-one) - 2 * centre
        for m, other in enumerate(steps[:n]):
            mixed = at(one + other) + at(-one - other) - at(one - other) - at(other - one)
            curve[:, n, m] = curve[:, m, n] = mixed / 4
    down, across, both = curve[:, 1, 1], curve[:, 2, 2], curve[:, 1, 2]
    kept = (down * across - both**2 > _LEAST_ROUND * (down + across) ** 2).nonzero()[:, 0]
    offset, singular = torch.linalg.solve_ex(curve[kept], -slope[kept])
    sound = (singular == 0)[:, None] & (offset.abs() < 1).all(1, keepdim=True)
    return centre.abs()[kept], place[kept] + torch.where(sound, offset, 0)


def _greatest(values: Tensor) -> Tensor:
    """Maximum over 3 x 3 x 3 of (N, h, w), without the outermost; pooling takes far longer."""
    for dim in range(3):
        length = values.shape[dim] - 2
        before, here, after = (values.narrow(dim, start, length) for start in range(3))
        values = torch.maximum(torch.maximum(before, here), after)
    return values


def _gradients(scales: Tensor) -> Tensor:
    """Gradients of (N, h, w) along rows and columns, one scale after the other, (2, N h w)."""
    framed = F.pad(scales[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    down = framed[:, 2:, 1:-1] - framed[:, :-2, 1:-1]
    across = framed[:, 1:-1, 2:] - framed[:, 1:-1, :-2]
    return torch.stack((down.flatten(), across.flatten()))


def _turns(found: _Found, gradients: Tensor) -> Tensor:
    """Direction of most gradients around each keypoint, in radians, (K,)."""
    level = torch.zeros_like(found.sigma)
    size, direction = _around(found, gradients, level, _TURN_SIDE, _TURN_STEP, _TURN_SPREAD)
    bins = size.new_zeros(len(size), _TURN_BINS)
    for number, share in _shared(direction, _TURN_BINS):
        bins.scatter_add_(1, number, size * share)
    for _ in range(2):
        bins = (bins.roll(1, 1) + bins + bins.roll(-1, 1)) / 3
    top = bins.argmax(1, keepdim=True)
    before, here, after = (bins.gather(1, (top + step) % _TURN_BINS) for step in (-1, 0, 1))
    offset = 0.5 * (before - after) / (before - 2 * here + after).clamp_max(-1e-12)
    return (top + offset.clamp(-0.5, 0.5))[:, 0] * (2 * math.pi / _TURN_BINS)


def _descriptors(found: _Found, gradients: Tensor, turn: Tensor) -> Tensor:
    """Histograms of gradients in 4x4 cells around each keypoint, (K, 128)."""
    spread = _SIDE * _STEP / 2
    size, direction = _around(found, gradients, turn, _SIDE, _STEP, spread)
    spread_out = size.new_zeros(*size.shape, _BINS)  # (K, 256, 8)
    for number, share in _shared(direction - turn[:, None], _BINS):
        spread_out.scatter_(2, number[..., None], (size * share)[..., None])
    histograms = (_cells(size) @ spread_out).flatten(1)
    unit = F.normalize(histograms).clamp_max(_CLIP)  # a strong light changes few of them
    return torch.sqrt(unit / unit.sum(1, keepdim=True).clamp_min(1e-12))


def _around(
    found: _Found, gradients: Tensor, turn: Tensor, side: int, step: float, spread: float
) -> tuple[Tensor, Tensor]:
    """Length, weighted, and direction of gradients on a turned grid, each (K, side^2).

    The weight is a Gaussian of `spread` sigmas.
    """
    line = (torch.arange(side, device=turn.device) - (side - 1) / 2) * step
    down, across = (each.flatten() for each in torch.meshgrid(line, line, indexing="ij"))
    weight = torch.exp(-(down**2 + across**2) / (2 * spread**2))
    c, s = ((f(turn) * found.sigma)[:, None] for f in (torch.cos, torch.sin))
    rows, columns = (each[:, None].float() for each in (found.rows, found.columns))
    # In floating point, which is faster, and exact for the pixels of an octave.
    row = (found.place[:, :1] + c * down + s * across).round_().clamp_min_(0).minimum(rows - 1)
    column = (found.place[:, 1:] - s * down + c * across).round_().clamp_min_(0)
    at = found.start[:, None] + row.mul_(columns).add_(column.minimum(columns - 1)).long()
    y, x = gradients[0][at], gradients[1][at]
    return torch.hypot(y, x) * weight, torch.atan2(y, x)


def _shared(direction: Tensor, bins: int) -> list[tuple[Tensor, Tensor]]:
    """Numbers of the two bins nearest to each direction in radians, and the share of each."""
    place = direction * (bins / (2 * math.pi))
    first = place.floor()
    share = place - first
    # Directions lie within two turns of 0; remainders of whole numbers are slow.
    number = torch.where(first < 0, first + bins, first)
    number = torch.where(number < 0, number + bins, number)
    number = torch.where(number >= bins, number - bins, number)
    after = torch.where(number >= bins - 1, 0, number + 1)
    return [(number.long(), 1 - share), (after.long(), share)]


def _cells(like: Tensor) -> Tensor:
    """Share that each of 4x4 cells has of each of 16x16 samples, bilinear, (16, 256)."""
    place = (torch.arange(_SIDE, device=like.device) + 0.5) * _CELLS / _SIDE - 0.5
    centre = torch.arange(_CELLS, device=like.device)
    line = (1 - (place - centre[:, None]).abs()).clamp_min(0).to(like.dtype)  # (4, 16)
    return torch.einsum("ay,bx->abyx", line, line).reshape(_CELLS**2, _SIDE**2)
