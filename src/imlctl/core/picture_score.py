"""The score of a whole picture, from what the network saw all over it.

TruFor (Guillaro et al. 2023) pools its map and its confidence map, four numbers each, into two
small layers. This one sees more: the decoder's own features, finest and coarsest, as means over the
picture that count each place equally, and by its probability. One layer is enough for them. Sums
and maxima of tiles make those of the whole, so a picture in tiles is scored as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SPOT = 4  # cells a side; a lone one is not a finding
_FAR = 4.0  # spreads from the mean; beyond, a picture is unlike those that taught the score
_WEIGHTINGS = 2  # equal, by probability
_STATISTICS = 9  # of the map and of its reliability


class Pooled(NamedTuple):
    """Sums and maxima over the cells of a picture, or of a tile of it."""

    sums: Tensor  # of features, by level and weighting, (B, 2, 2, C)
    weights: Tensor  # sums of the weights, (B, 2, 2)
    map_sums: Tensor  # of p, p^2, r, r^2, p r, and 1, for probability p and reliability r, (B, 6)
    # Means over spots of 4x4 cells of p, of p r, and of what copies add, which may be 0, (B, 3).
    map_largest: Tensor


def pool(
    fine: Tensor,
    finest: Tensor,
    coarsest: Tensor,
    reliability: Tensor,
    inside: Tensor,
    copied: Tensor | None = None,
) -> Pooled:
    """Pool one tile.

    Args:
        fine: Logits of the cells, (B, 1, h, w).
        finest: Features of the cells, (B, C, h, w).
        coarsest: Features at a quarter of that resolution, (B, C, ceil(h / 4), ceil(w / 4)).
        reliability: Of the cells, (B, h, w) in [0, 1].
        inside: 1 for cells of the picture, 0 for padding, (h, w); at least one is inside.
        copied: What copies added to `fine`, likewise; None where none are looked for.
    """
    p, r = torch.sigmoid(fine.float())[:, 0], reliability.float()  # (B, h, w)
    frame = (0, -inside.shape[1] % _SPOT, 0, -inside.shape[0] % _SPOT)
    told = torch.zeros_like(p) if copied is None else copied.float()[:, 0]
    spots = F.pad(torch.stack((p, p * r, told), dim=1) * inside, frame)
    spots = F.avg_pool2d(spots, _SPOT)
    share = F.avg_pool2d(F.pad(inside, frame)[None, None], _SPOT)[0]  # of each spot inside
    spots = spots / share.clamp_min(1e-6)  # (B, 3, ceil(h / 4), ceil(w / 4))
    levels = []
    for features, chance, kept in ((finest, p, inside), (coarsest, spots[:, 0], share[0])):
        weights = torch.stack((torch.ones_like(chance), chance), dim=1) * kept
        weights = weights.flatten(2)  # (B, 2, h * w)
        sums = weights @ features.float().flatten(2).transpose(1, 2)  # (B, 2, C)
        levels.append((sums, weights.sum(2)))
    sums, weights = (torch.stack(each, dim=1) for each in zip(*levels, strict=True))
    measures = torch.stack((p, p * p, r, r * r, p * r, torch.ones_like(p)), dim=1)
    whole = (spots * (share >= 0.5)).flatten(2).amax(2)
    return Pooled(sums, weights, (measures * inside).sum((2, 3)), whole)


def merge(parts: Sequence[Pooled]) -> Pooled:
    """Pool the tiles of a picture into the whole; what overlaps counts twice."""
    sums, weights, map_sums, map_largest = map(torch.stack, zip(*parts, strict=True))
    return Pooled(sums.sum(0), weights.sum(0), map_sums.sum(0), map_largest.amax(0))


class PictureScore(nn.Module):
    """From pooled features of `width` channels to log odds, which the map's own are added to.

    `mask.decide.evidence` adds them. What copies add to the map they add to these as well: it says
    how much more often such copies are made than there by nature.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        inputs = 2 * _WEIGHTINGS * width + _STATISTICS
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        self.out = nn.Linear(inputs, 1)

    def forward(self, pooled: Pooled) -> Tensor:
        """(B, ...) to (B,)."""
        # A product of few rows may round each of them in its own way; a picture has no place.
        rows = torch.split(feature_vector(pooled), 1)
        return torch.cat([self.judge(row) for row in rows]) + told_by_copies(pooled)

    def judge(self, described: Tensor) -> Tensor:
        """(B, D), as `feature_vector` returns it, to (B,)."""
        return cast("Tensor", self.out(self.standardized(described)).squeeze(1))

    def standardized(self, described: Tensor) -> Tensor:
        """(B, D) in spreads from the mean of the pictures that taught it."""
        return ((described - self.mean) / self.spread).clamp(-_FAR, _FAR)


def told_by_copies(pooled: Pooled) -> Tensor:
    """Log odds that the strongest copy of each picture adds to its score, (B,)."""
    return pooled.map_largest[:, 2]


def feature_vector(pooled: Pooled) -> Tensor:
    """Bring pooled features and statistics into one row for each picture, (B, D)."""
    means = pooled.sums / pooled.weights[..., None].clamp_min(1e-12)  # (B, 2, 2, C)
    number = pooled.map_sums[:, -1]
    p, p2, r, r2, both = (pooled.map_sums[:, :-1] / number[:, None]).unbind(1)
    peak, believed, _ = pooled.map_largest.unbind(1)
    # Log odds spread out what lies near certainty, where most pictures are.
    statistics = (
        *(_odds(each) for each in (p, p2, peak, believed)),
        r,
        r2,
        _odds(both / r.clamp_min(1e-6)),
        (p2 - p * p).clamp_min(0).sqrt(),
        torch.log(number) / math.log(2**16),
    )
    return torch.cat((means.flatten(1), torch.stack(statistics, dim=1)), dim=1)


def _odds(p: Tensor) -> Tensor:
    return torch.logit(p, eps=1e-6)
