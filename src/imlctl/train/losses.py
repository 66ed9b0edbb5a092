"""The objective: supervision at every level, consistency between levels, a score per picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.train.distributed import fair

if TYPE_CHECKING:
    from imlctl.core.model import Prediction


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weight of each term of `localization_loss`.

    Attributes:
        levels: Of the full map and of each coarser level, finest first.
        dice: Of the Dice term against the cross-entropy of the same level.
        edge: Of the cross-entropy near the borders of the mask (IML-ViT, Ma et al. 2023).
        consistency: Of the distance between each coarser level and the full map.
        score: Of the image-level cross-entropy.
    """

    levels: tuple[float, ...] = (1.0, 0.5, 0.25)
    dice: float = 1.0
    edge: float = 0.3
    consistency: float = 0.5
    score: float = 0.2

    def __post_init__(self) -> None:
        others = (self.dice, self.edge, self.consistency, self.score)
        if min(*self.levels, *others) < 0:
            raise ValueError("loss weights must not be negative")


def localization_loss(
    prediction: Prediction,
    mask: Tensor,
    weights: LossWeights | None = None,
    *,
    valid: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of all terms, and each term by name.

    L = sum_s w_s [ BCE(p_s, m_s) + l_d Dice(p_s, m_s) + l_c MSE(p_s, stopgrad(down(p))) ]
        + l_e BCE_edge(p, m) + l_i BCE(score)

    Args:
        prediction: Of the model, for (B, 3, H, W).
        mask: (B, 1, H, W), 0 or 1.
        weights: Of the terms.
        valid: (B, 1, H, W), 0 on padding, where nothing is to be learned; none unless given.
    """
    w = weights or LossWeights()
    mask = mask.float()
    own = torch.ones_like(mask) if valid is None else valid
    final = prediction.logits.float()
    zero = final.new_zeros(())
    terms = {"bce": zero, "dice": zero, "consistency": zero}
    settled = torch.sigmoid(final.detach())
    for weight, logits in zip(w.levels, (final, *prediction.levels), strict=False):
        logits = logits.float()
        size = (logits.shape[-2], logits.shape[-1])
        target, here = mask, own
        if logits is not final:
            here = F.adaptive_avg_pool2d(own, size)  # the share of each place that counts
            target = F.adaptive_avg_pool2d(mask * own, size) / here.clamp_min(1e-6)
        wrong = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        terms["bce"] = terms["bce"] + weight * weighted_mean(wrong, here)
        terms["dice"] = terms["dice"] + weight * w.dice * dice_loss(logits, target, here)
        if logits is not final:
            apart = (torch.sigmoid(logits) - F.adaptive_avg_pool2d(settled, size)).square()
            terms["consistency"] = terms["consistency"] + weight * w.consistency * weighted_mean(
                apart, here
            )
    near = F.binary_cross_entropy_with_logits(final, mask, reduction="none")
    terms["edge"] = w.edge * weighted_mean(near, edge_band(mask) * own)
    forged = ((mask * own).flatten(1).amax(1) > 0).float()
    verdict = F.binary_cross_entropy_with_logits(prediction.score_logits.float(), forged)
    terms["score"] = w.score * verdict
    return torch.stack(tuple(terms.values())).sum(), {k: v.detach() for k, v in terms.items()}


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of (B, C, H, W) with weights (B, 1, H, W), over the whole batch and all processes."""
    return (values * weights).sum() / (fair(weights.sum()) * values.shape[1])


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 - Dice, averaged over the pictures of the batch that hold a forgery; 0 when none does.

    All are (B, 1, H, W): logits, the target in [0, 1], and how much of each place counts.
    """
    p, m = torch.sigmoid(logits), target
    if valid is not None:
        p, m = p * valid, m * valid
    p, m = p.flatten(1), m.flatten(1)
    overlap = 2 * (p * m).sum(1) / (p.sum(1) + m.sum(1) + 1e-6)
    forged = (m.amax(1) > 0).to(overlap.dtype)
    return ((1 - overlap) * forged).sum() / fair(forged.sum())


def edge_band(mask: Tensor, width: int = 7) -> Tensor:
    """1 within `width` // 2 pixels of a border of the mask, 0 elsewhere; same shape as the mask."""
    grown = F.max_pool2d(mask, width, 1, width // 2)
    shrunk = -F.max_pool2d(-mask, width, 1, width // 2)
    return grown - shrunk
