"""Self-similarity: evidence of copy-moves, where a photograph repeats itself, in closed form.

A copy and its source share one history, so no noise residual tells them apart; what gives a
copy-move away is that two places agree pixel for pixel. Shifts worth a look are found by block
matching. Each of the strongest is then checked everywhere at once: the normalised correlation of
the picture with itself, shifted.

Block matching is by sorting (Fridrich, Soukal and Lukas 2003), on codes that neither compression
nor a change of brightness alters much: which points of a ring around the place are brighter than
which others (ordinal, as in BRIEF, Calonder et al. 2010). Sorted by code, and by brightness among
equals, places that look alike lie side by side, and each pair of neighbours votes for one shift.
Chance spreads its votes over all shifts; a copy puts its own on one. Even the noise of an empty
wall suffices, since no camera repeats it.

Only translations are seen. Windows and tiles repeat too: it is evidence for the network to weigh.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.core.layers import bands, block_mean, box_mean, full_precision, grey_levels

CHANNELS = 3
STRIDE = 4  # of the maps against the picture
CANDIDATES = 5  # shifts looked at
_PLACES = 1 << 24  # of a picture at most; a place is 24 bits of a key of 57
MAX_AREA = _PLACES  # pixels searched; a larger picture is reduced

_AROUND = 17  # pixels; detail is what differs from the mean over so many a side
_WINDOW = 5  # cells of STRIDE pixels over which two places are compared
_FLOOR = 0.3  # grey levels squared; where the picture is flatter, agreement says nothing
_LEAST_SCORE = 3.5  # four pairs of places alike; chance among millions of shifts brings three

MIN_SHIFT = 16  # pixels; below, every smooth place resembles itself

# Area and side: a picture of up to so many pixels gets two places for each cell of so many a side.
_CELLS = ((384 * 384, 2), (2048 * 2048, 4), (_PLACES, 8))
_RADIUS = 6  # pixels, of the ring of points
_POINTS = 12
_TURNS = tuple(2 * math.pi * i / _POINTS for i in range(_POINTS))
_RING = tuple((round(_RADIUS * math.sin(a)), round(_RADIUS * math.cos(a))) for a in _TURNS)
_APART = (1, 5)  # points of the ring compared with each other: near ones, and across
_LEVELS = 256
_LEAST_CONTRAST = 0.75  # grey levels over the ring; flatter places all look alike
_BLOCK = 8  # shifts a side over which chance is estimated, and of which only the best counts
_FINENESS = 256  # steps of a score within a key


@torch.no_grad()
def self_similarity(image: Tensor) -> Tensor:
    """Look for places that repeat elsewhere in a picture (B, 3, H, W) in [0, 1].

    Returns:
        (B, 3, ceil(H / 4), ceil(W / 4)) float32: how well a place agrees with another (0 to 1), how
        far the shift between them stands out from chance, as far as they agree (0 to about 2), and
        how much texture there is to compare (0 to about 1).
    """
    size = tuple(-(-side // STRIDE) for side in image.shape[-2:])
    with full_precision(image.device):
        grey = grey_levels(image.float())  # (B, H, W)
        factor = math.ceil(math.sqrt(grey[0].numel() / MAX_AREA))
        if factor > 1:
            grey = F.avg_pool2d(grey[:, None], factor)[:, 0]
        below, right = (-side % STRIDE for side in grey.shape[1:])
        if below or right:  # the edge, repeated to whole cells
            grey = F.pad(grey[:, None], (0, right, 0, below), mode="replicate")[:, 0]
        around = box_mean(grey, _AROUND, _AROUND)
        detail = grey - around
        shifts, scores = find_shifts(detail, around, CANDIDATES)
        maps = _compare(detail, shifts, scores)  # (B, 3, h / 4, w / 4)
        if factor > 1:
            maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        return maps


def _compare(detail: Tensor, shifts: Tensor, scores: Tensor) -> Tensor:
    """Best agreement of each place with a shifted one, (B, 3, H / 4, W / 4)."""
    energy = box_mean(block_mean(detail.square(), STRIDE), _WINDOW, _WINDOW)
    best = torch.zeros_like(energy)
    standing = torch.zeros_like(energy)
    for k in range(shifts.shape[1]):
        shift, score = shifts[:, k], scores[:, k, None, None]  # (B, 2), (B, 1, 1)
        pair = _products(detail, shift)
        product, other = box_mean(pair, _WINDOW, _WINDOW).chunk(2)
        agreement = product / torch.sqrt((energy + _FLOOR) * (other + _FLOOR))  # (B, H / 4, W / 4)
        cells = torch.round(shift / STRIDE).long()
        there = _within(energy, cells) & (score >= _LEAST_SCORE)
        agreement = torch.where(there, agreement, 0).clamp_min(0)
        # The same agreement seen from the other end: at x + d what was found at x.
        back = torch.where(_within(energy, -cells), _moved(agreement, -cells), 0)
        agreement = torch.maximum(agreement, back)
        better = agreement > best
        best = torch.where(better, agreement, best)
        standing = torch.where(better, score * agreement.square(), standing)
    # Agreement lies near 1 or means little; the square root spreads out the upper end.
    clear = 1 - torch.sqrt((1 - best).clamp_min(0))
    return torch.stack((clear, torch.log1p(standing) / 4, torch.log1p(energy) / 8), dim=1)


def _products(detail: Tensor, shift: Tensor) -> Tensor:
    """Means over cells of y(x) y(x + d), then of y(x + d)^2: (B, H, W) to (2 B, H / 4, W / 4)."""
    parts = []
    for top, end in bands(detail, STRIDE):
        moved = _moved(detail, shift, top, end)
        both = (detail[:, top:end] * moved, moved.square())
        parts.append(torch.cat([block_mean(each, STRIDE) for each in both]))
    return torch.cat(parts, dim=1)


def _moved(values: Tensor, shift: Tensor, top: int = 0, end: int | None = None) -> Tensor:
    """Value at x + d for each place x of (B, H, W), or of some rows; outside, the nearest one."""
    height, width = values.shape[-2:]
    down, across = _targets(values, shift)
    rows = down[:, top:end, 0].clamp(0, height - 1)
    columns = across[:, 0].clamp(0, width - 1)
    pictures = zip(values, rows, columns, strict=True)
    return torch.stack([v.index_select(0, y).index_select(1, x) for v, y, x in pictures])


def _within(values: Tensor, shift: Tensor) -> Tensor:
    """Tell whether x + d lies in the picture, for each place x of (B, H, W)."""
    height, width = values.shape[-2:]
    down, across = _targets(values, shift)
    return (down >= 0) & (down < height) & (across >= 0) & (across < width)


def _targets(values: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, H, 1) and columns (B, 1, W) of x + d, for each place x of (B, H, W)."""
    height, width = values.shape[-2:]
    down = torch.arange(height, device=values.device) + shift[:, :1]
    across = torch.arange(width, device=values.device) + shift[:, 1:]
    return down[:, :, None], across[:, None, :]


def find_shifts(detail: Tensor, around: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the shifts for which most pairs of places vote.

    `detail` is grey levels less their mean around each place, (B, H, W), and `around` that mean;
    at most `_PLACES` pixels.

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
    """Count how many of (B, N) share their index with each one, (B, N) float32."""
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
    ring = [framed.flatten(1).gather(1, centre + y * stride + x) for y, x in _RING]
    points = torch.stack(ring)  # (12, B, N)
    brighter = torch.cat([points > points.roll(-apart, 0) for apart in _APART])  # (24, B, N)
    powers = 2.0 ** torch.arange(len(brighter), device=detail.device, dtype=torch.float32)
    code = (powers @ brighter.flatten(1).float()).view_as(places).long()  # below 2^24, so exact
    clear = points.amax(0) - points.amin(0) > _LEAST_CONTRAST
    code = torch.where(clear, code, 2 ** len(brighter) + places)  # if not, one of its own
    keys = (code * _LEVELS + level) * _PLACES + places
    # One by one: sorting along a dimension takes twice as long.
    ordered = torch.stack([key.sort().values for key in keys])
    return ordered % _PLACES, ordered // (_PLACES * _LEVELS)


def _extremes(soft: Tensor, cell: int) -> Tensor:
    """Pixel numbers of the brightest and of the darkest place of each whole cell, (B, N).

    A copy has most of its extremes where the source has them, wherever the cells fall.
    """
    found = []
    for values in (soft, -soft):
        _, index = F.max_pool2d(values[:, None], cell, return_indices=True)
        found.append(index.flatten(1))
    return torch.cat(found, dim=1)
