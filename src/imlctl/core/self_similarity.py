"""Where a photograph repeats itself: evidence of copy-moves, in closed form.

A copy and its source share one history, so no noise residual tells them apart; what gives a
copy-move away is that two places agree pixel for pixel. Places that look alike vote for the shifts
worth a look (`block_matching`). Each of the strongest is then checked everywhere at once: the
normalised correlation of the picture with itself, shifted.

It sees translations only. Repetition is no proof: windows and tiles repeat too. So this is evidence
for the network to weigh, not a verdict.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.core.block_matching import MAX_PLACES, find_shifts
from imlctl.core.layers import full_precision, grey_levels
from imlctl.core.windows import block_mean, box_mean

CHANNELS = 3
STRIDE = 4  # of the maps against the picture
CANDIDATES = 5  # shifts looked at
MAX_AREA = MAX_PLACES  # pixels searched; a larger picture is reduced

_AROUND = 17  # pixels; detail is what differs from the mean over so many a side
_WINDOW = 5  # cells of STRIDE pixels over which two places are compared
_FLOOR = 0.3  # grey levels squared; where the picture is flatter, agreement says nothing
_LEAST_SCORE = 3.5  # four pairs of places alike; chance among millions of shifts brings three


@torch.no_grad()
def self_similarity(image: Tensor) -> Tensor:
    """Look for places that repeat elsewhere in the picture.

    No gradient flows through it.

    Args:
        image: (B, 3, H, W) in [0, 1], of any size.

    Returns:
        (B, 3, ceil(H / 4), ceil(W / 4)) float32: how well a place agrees with another (0 to 1), how
        far the shift between them stands out from chance, as far as they agree (0 to about 2), and
        how much texture there is to compare (0 to about 1).
    """
    with full_precision(image.device):
        return _self_similarity(image.float())


def _self_similarity(image: Tensor) -> Tensor:
    rows, columns = (-(-side // STRIDE) for side in image.shape[-2:])
    grey = grey_levels(image)  # (B, H, W)
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
        maps = F.interpolate(maps, size=(rows, columns), mode="bilinear", align_corners=False)
    return maps


def _compare(detail: Tensor, shifts: Tensor, scores: Tensor) -> Tensor:
    """Best agreement of each place with a shifted one, (B, 3, H / 4, W / 4)."""
    energy = _cells(detail.square())
    best = torch.zeros_like(energy)
    standing = torch.zeros_like(energy)
    for k in range(shifts.shape[1]):
        shift, score = shifts[:, k], scores[:, k, None, None]  # (B, 2), (B, 1, 1)
        moved = _moved(detail, shift)
        product, other = _cells(torch.cat((detail * moved, moved.square()))).chunk(2)
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


def _cells(values: Tensor) -> Tensor:
    """Mean over windows of `_WINDOW` cells, one for each cell of `STRIDE` pixels."""
    return box_mean(block_mean(values, STRIDE), _WINDOW, _WINDOW)


def _moved(values: Tensor, shift: Tensor) -> Tensor:
    """What lies at x + d, for each place x of (B, H, W); outside, what is nearest."""
    height, width = values.shape[-2:]
    down, across = _targets(values, shift)
    index = down.clamp(0, height - 1) * width + across.clamp(0, width - 1)
    return values.flatten(1).gather(1, index.flatten(1)).view_as(values)


def _within(values: Tensor, shift: Tensor) -> Tensor:
    """Whether x + d lies in the picture, for each place x of (B, H, W)."""
    height, width = values.shape[-2:]
    down, across = _targets(values, shift)
    return (down >= 0) & (down < height) & (across >= 0) & (across < width)


def _targets(values: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, H, 1) and columns (B, 1, W) of x + d, for each place x of (B, H, W)."""
    height, width = values.shape[-2:]
    down = torch.arange(height, device=values.device) + shift[:, :1]
    across = torch.arange(width, device=values.device) + shift[:, 1:]
    return down[:, :, None], across[:, None, :]
