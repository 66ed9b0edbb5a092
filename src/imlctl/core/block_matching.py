"""By how much parts of a photograph were copied: places alike vote for the shift between them.

Block matching by sorting (Fridrich, Soukal and Lukas 2003), on codes that neither compression nor
a change of brightness alters much: which points of a ring around the place are brighter than which
others (ordinal, as in BRIEF, Calonder et al. 2010). Sorted by code, and by brightness among equals,
places that look alike lie side by side, and each pair of neighbours votes for one shift. Chance
spreads its votes over all shifts; a copy puts its own on one. Even the noise of an empty wall
suffices, since no camera repeats it.

Sorting makes it n log n. Only translations are seen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.core.windows import box_mean

MIN_SHIFT = 16  # pixels; below, every smooth place resembles itself
MAX_PLACES = 1 << 24  # pixels of a picture; a place is 24 bits of a key of 57

# Area and side: a picture of up to so many pixels gets two places for each cell of so many a side.
_CELLS = ((384 * 384, 2), (2048 * 2048, 4), (MAX_PLACES, 8))
_RADIUS = 6  # pixels, of the ring of points
_POINTS = 12
_RING = tuple(
    (
        round(_RADIUS * math.sin(2 * math.pi * i / _POINTS)),
        round(_RADIUS * math.cos(2 * math.pi * i / _POINTS)),
    )
    for i in range(_POINTS)
)
_APART = (1, 5)  # points of the ring compared with each other: near ones, and across
_LEVELS = 256
_LEAST_CONTRAST = 0.75  # grey levels over the ring; flatter places all look alike
_BLOCK = 8  # shifts a side over which chance is estimated, and of which only the best counts
_FINENESS = 256  # steps of a score within a key


def find_shifts(detail: Tensor, around: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the shifts for which most pairs of places vote.

    Args:
        detail: Grey levels less their mean around each place, (B, H, W) float; at most
            `MAX_PLACES` pixels.
        around: That mean, (B, H, W) in [0, 255].
        count: How many shifts to return.

    Returns:
        Shifts (B, count, 2) int64, rows and columns, the clearest first, each standing for its
        opposite, too; and scores (B, count): votes beyond chance, in standard deviations of it.
        Where fewer shifts have votes, the score is 0.
    """
    _, height, width = detail.shape
    place, key = _sorted_places(detail, around)
    row, column = place // width, place % width
    down, right = row.diff(dim=1), column.diff(dim=1)
    upward = (down < 0) | ((down == 0) & (right < 0))
    down, right = torch.where(upward, -down, down), torch.where(upward, -right, right)
    far = down.square() + right.square() >= MIN_SHIFT**2
    alike = (key[:, 1:] == key[:, :-1]) & far
    shift = down * (2 * width) + right + width
    votes = _count(shift, alike, height * 2 * width)
    across = -(-2 * width // _BLOCK)
    block = down // _BLOCK * across + (right + width) // _BLOCK
    blocks = -(-height // _BLOCK) * across
    chance = (_count(block, alike, blocks) - votes) / (_BLOCK**2 - 1)
    score = (votes - chance) / (chance + 1).sqrt()
    # One key for score and shift: the greatest of a block then names both.
    ranked = (score * _FINENESS).long() * (height * 2 * width) + shift
    best = ranked.new_zeros(len(detail), blocks)
    best = best.scatter_reduce(1, block, torch.where(alike, ranked, 0), "amax")
    best = F.pad(best, (0, max(0, count - blocks))).topk(count, dim=1).values
    shift = best % (height * 2 * width)
    shifts = torch.stack((shift // (2 * width), shift % (2 * width) - width), dim=-1)
    scores = (best // (height * 2 * width)).to(detail.dtype) / _FINENESS
    return torch.where(scores[..., None] > 0, shifts, 0), scores


def _count(index: Tensor, counted: Tensor, size: int) -> Tensor:
    """How many of (B, N) share their index with each one, (B, N) float32."""
    total = torch.zeros(len(index), size, device=index.device)
    return total.scatter_add(1, index, counted.float()).gather(1, index)


def _sorted_places(detail: Tensor, around: Tensor) -> tuple[Tensor, Tensor]:
    """Places worth a look, sorted by code: (B, N) pixel numbers and (B, N) codes."""
    _, height, width = detail.shape
    soft = box_mean(detail, 3, 3)
    cell = next(side for area, side in _CELLS if height * width <= area)
    places = _extremes(soft, cell)
    level = around.flatten(1).gather(1, places).clamp(0, _LEVELS - 1).long()
    framed = F.pad(soft[:, None], (_RADIUS,) * 4, mode="replicate")[:, 0]
    stride = width + 2 * _RADIUS
    centre = (places // width + _RADIUS) * stride + places % width + _RADIUS
    points = torch.stack(
        [framed.flatten(1).gather(1, centre + y * stride + x) for y, x in _RING]
    )  # (12, B, N)
    brighter = torch.cat([points > points.roll(-apart, 0) for apart in _APART])  # (24, B, N)
    powers = 2.0 ** torch.arange(len(brighter), device=detail.device, dtype=torch.float32)
    code = (brighter * powers[:, None, None]).sum(0).long()  # below 2^24, so exact
    clear = points.amax(0) - points.amin(0) > _LEAST_CONTRAST
    code = torch.where(clear, code, 2 ** len(brighter) + places)  # if not, one of its own
    keys = (code * _LEVELS + level) * MAX_PLACES + places
    # One by one: sorting along a dimension takes twice as long.
    ordered = torch.stack([key.sort().values for key in keys])
    return ordered % MAX_PLACES, ordered // (MAX_PLACES * _LEVELS)


def _extremes(soft: Tensor, cell: int) -> Tensor:
    """Pixel numbers of the brightest and of the darkest place of each whole cell, (B, N).

    A copy has most of its extremes where the source has them, wherever the cells fall.
    """
    found = []
    for values in (soft, -soft):
        _, index = F.max_pool2d(values[:, None], cell, return_indices=True)
        found.append(index.flatten(1))
    return torch.cat(found, dim=1)
