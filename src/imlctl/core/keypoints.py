"""Keypoints of a picture and what it looks like around them, after SIFT (Lowe 2004).

Places that stand out at their own scale, each with a size and a turn, so that the picture around
one can be described in the same way however it was moved, turned or scaled. Descriptors are those
of RootSIFT (Arandjelovic and Zisserman 2012). It is all made of tensors, where the picture is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

DIMENSIONS = 128  # of a descriptor
LEAST_SIDE = 32  # pixels; a smaller picture has no keypoints
AT_ONCE = 250  # keypoints worked on together: what they take stays in a processor's cache

_MOST = 2000  # keypoints, those of most contrast
_LEAST_CONTRAST = 0.8  # grey levels, of a difference of Gaussians
_LEAST_ROUND = 0.06  # det / trace^2 of the curvature there; along an edge it is less
_SIGMA = 0.8  # pixels, of the finest scale; small copies have little else
_BEGUN = 0.5  # pixels, blur that a photograph comes with
_INTERVALS = 3  # scales to an octave
_OCTAVES = 4
_BORDER = 5  # pixels of an octave, at whose edge nothing is sought

# Gradients are looked at on a grid of so many samples a side, so many sigmas apart.
_TURN_SIDE, _TURN_STEP, _TURN_SPREAD, _TURN_BINS = 11, 0.9, 2.0, 24
_SIDE, _STEP = 10, 1.2
_CELLS, _BINS = 4, 8  # a side, and directions, of a descriptor's histograms
_CLIP = 0.2  # of a descriptor's length, for one of its numbers


class Keypoints(NamedTuple):
    """Places of a picture that stand out, octave by octave, the finest first."""

    place: Tensor  # row and column in pixels, (K, 2)
    size: Tensor  # sigma, in pixels, (K,)
    turn: Tensor  # radians, (K,)
    described: Tensor  # descriptors of length 1, (K, 128)


class _Found(NamedTuple):
    """Keypoints as the octave sees them that they were found in."""

    place: Tensor  # row and column, (K, 2)
    sigma: Tensor  # (K,)
    number: Tensor  # of the scale that is nearest, from 0 on, (K,) int64


def find_keypoints(grey: Tensor) -> Keypoints:
    """Find and describe up to 2,000 keypoints in grey levels (H, W); none if a side is under 32."""
    octaves = list(_octaves(grey))
    if not octaves:
        none = grey.new_zeros(0)
        return Keypoints(none.view(0, 2), none, none, none.view(0, DIMENSIONS))
    clear, found = zip(*map(_extremes, octaves), strict=True)
    clearest = torch.cat(clear)
    chosen = torch.zeros_like(clearest, dtype=torch.bool)
    chosen[clearest.topk(min(_MOST, len(clearest))).indices] = True
    by_octave = torch.split(chosen, [len(each) for each in clear])
    parts = [
        part
        for number, kept in enumerate(by_octave)
        for part in _described(octaves[number], found[number], kept, 2**number)
    ]
    return Keypoints(*map(torch.cat, zip(*parts, strict=True)))


def _described(scales: Tensor, found: _Found, kept: Tensor, factor: int) -> Iterator[Keypoints]:
    """Describe those of an octave's keypoints that are kept, (K,) bool, some at a time."""
    slopes = _gradients(scales)
    split = (torch.split(each[kept], AT_ONCE) for each in found)
    for each in map(_Found._make, zip(*split, strict=True)):
        turn = _turns(each, slopes)
        described = _descriptors(each, slopes, turn)
        yield Keypoints(each.place * factor, each.sigma * factor, turn, described)


def _octaves(grey: Tensor) -> Iterator[Tensor]:
    """Yield a picture's octaves, each of half the size: six scales, (6, h, w)."""
    image = _blurred(grey, math.sqrt(_SIGMA**2 - _BEGUN**2))
    for _ in range(_OCTAVES):
        if min(image.shape) < LEAST_SIDE:
            return
        scales = _scales(image)
        yield scales
        image = scales[_INTERVALS, ::2, ::2]  # blurred enough by now


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


def _extremes(scales: Tensor) -> tuple[Tensor, _Found]:
    """Find what stands out among its 26 neighbours in the differences of scales (6, h, w).

    Returns:
        How much, (N,), and where: the peak of the parabola through the neighbours (Brown and Lowe
        2002).
    """
    difference = scales.diff(dim=0)  # (5, h, w)
    middle = difference[1:-1, 1:-1, 1:-1]
    above = (middle >= _around_each(difference, torch.maximum)) & (middle > _LEAST_CONTRAST)
    below = (middle <= _around_each(difference, torch.minimum)) & (middle < -_LEAST_CONTRAST)
    frame = _BORDER - 1
    place = (above | below)[:, frame:-frame, frame:-frame].nonzero()
    place = place + place.new_tensor((1, _BORDER, _BORDER))
    flat = difference.flatten()
    steps = difference.stride()
    index = (place * place.new_tensor(steps)).sum(1)

    def at(step: int) -> Tensor:
        return flat.index_select(0, index + step)

    centre = at(0)
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
    scale, *where = (place[kept] + torch.where(sound, offset, 0)).unbind(1)
    number = scale.round().long().clamp(1, _INTERVALS) - 1
    found = _Found(torch.stack(where, dim=1), _SIGMA * 2 ** (scale / _INTERVALS), number)
    return centre.abs()[kept], found


def _around_each(values: Tensor, choose: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Extreme over 3 x 3 x 3 of (N, h, w), without the outermost; pooling takes far longer."""
    for dim in range(3):
        length = values.shape[dim] - 2
        before, here, after = (values.narrow(dim, start, length) for start in range(3))
        values = choose(choose(before, here), after)
    return values


def _gradients(scales: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of an octave's scales (6, h, w), down and across, (3, h, w) each."""
    framed = F.pad(scales[1 : _INTERVALS + 1, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    down = framed[:, 2:, 1:-1] - framed[:, :-2, 1:-1]
    across = framed[:, 1:-1, 2:] - framed[:, 1:-1, :-2]
    return down, across


def _turns(found: _Found, gradients: tuple[Tensor, Tensor]) -> Tensor:
    """Direction of most gradients around each keypoint, in radians, (K,)."""
    level = torch.zeros_like(found.sigma)
    down, across, weight = _around(found, gradients, level, _TURN_SIDE, _TURN_STEP, _TURN_SPREAD)
    bins = _histograms(down, across, weight[:, None], _TURN_BINS).squeeze(2)  # (K, bins)
    top = bins.argmax(1, keepdim=True)
    before, here, after = (bins.gather(1, (top + step) % _TURN_BINS) for step in (-1, 0, 1))
    offset = 0.5 * (before - after) / (before - 2 * here + after).clamp_max(-1e-12)
    return (top + offset.clamp(-0.5, 0.5))[:, 0] * (2 * math.pi / _TURN_BINS)


def _descriptors(found: _Found, gradients: tuple[Tensor, Tensor], turn: Tensor) -> Tensor:
    """Histograms of gradients in 4x4 cells around each keypoint, (K, 128)."""
    down, across, weight = _around(found, gradients, turn, _SIDE, _STEP, _SIDE * _STEP / 2)
    c, s = torch.cos(turn)[:, None], torch.sin(turn)[:, None]
    turned = (c * down - s * across, c * across + s * down)
    histograms = _histograms(*turned, (_cells(weight) * weight).T, _BINS).flatten(1)
    unit = F.normalize(histograms).clamp_max(_CLIP)  # a strong light changes few of them
    return torch.sqrt(unit / unit.sum(1, keepdim=True).clamp_min(1e-12))


def _around(
    found: _Found,
    gradients: tuple[Tensor, Tensor],
    turn: Tensor,
    side: int,
    step: float,
    spread: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients down and across on a turned grid, (K, side^2) each, and weights (side^2,).

    The weight is a Gaussian of `spread` sigmas.
    """
    line = (torch.arange(side, device=turn.device) - (side - 1) / 2) * step
    down, across = (each.flatten() for each in torch.meshgrid(line, line, indexing="ij"))
    weight = torch.exp(-(down**2 + across**2) / (2 * spread**2))
    c, s = ((f(turn) * found.sigma)[:, None] for f in (torch.cos, torch.sin))
    # In floating point, which is faster, and exact for the pixels of an octave.
    _, rows, columns = gradients[0].shape
    row = (found.place[:, :1] + c * down + s * across).round_().clamp_(0, rows - 1)
    column = (found.place[:, 1:] - s * down + c * across).round_().clamp_(0, columns - 1)
    at = row.mul_(columns).add_(column).long() + found.number[:, None] * (rows * columns)
    y, x = (each.flatten().index_select(0, at.flatten()).view(at.shape) for each in gradients)
    return y, x, weight


def _histograms(down: Tensor, across: Tensor, weights: Tensor, bins: int) -> Tensor:
    """Histograms of directions of gradients (K, N), weighted in C ways (N, C): (K, bins, C).

    One of length r counts r (cos(d) - cos(b)) in a bin that is d away, where bins are b apart,
    and in no further ones: two products of matrices, where shares of two bins each, as Lowe has
    them, take several times as long.
    """
    apart = 2 * math.pi / bins
    turn = torch.arange(bins, device=down.device) * apart
    axes = torch.stack((torch.cos(turn), torch.sin(turn), torch.full_like(turn, -math.cos(apart))))
    length = torch.sqrt(across * across + down * down)
    lobes = (axes.T @ torch.stack((across, down, length)).flatten(1)).relu_()  # (bins, K N)
    sums = lobes.view(-1, len(weights)) @ weights  # (bins K, C)
    return sums.view(bins, len(down), weights.shape[1]).transpose(0, 1)


def _cells(like: Tensor) -> Tensor:
    """Share that each of 4x4 cells has of each of 10x10 samples, bilinear, (16, 100)."""
    place = (torch.arange(_SIDE, device=like.device) + 0.5) * _CELLS / _SIDE - 0.5
    centre = torch.arange(_CELLS, device=like.device)
    line = (1 - (place - centre[:, None]).abs()).clamp_min(0).to(like.dtype)  # (4, 10)
    return torch.einsum("ay,bx->abyx", line, line).reshape(_CELLS**2, _SIDE**2)
