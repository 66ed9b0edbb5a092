"""How well LightVAE gives masks back, and whether its latents suit diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imlctl.train.mask_maps import HELD_OUT, as_maps, held_out

if TYPE_CHECKING:
    from imlctl.core.light_vae import LightVAE
    from imlctl.forge.shapes import EdgeKind

_NOISE = 0.2  # standard deviation in scaled latents for the figure `f1_noisy`


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """When and on what to look.

    Attributes:
        every: Steps between looks; also between checkpoints.
        masks: Held-out masks of each kind: shapes, thin strokes, small shapes.
        size: Their side in pixels.
    """

    every: int = 500
    masks: int = 32
    size: int = 512

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if min(self.every, self.masks) < 1:
            raise ValueError("every and masks must be positive")
        if self.size < 64 or self.size % 8:
            raise ValueError(f"size must be a multiple of 8 and at least 64, not {self.size}")


@torch.inference_mode()
def round_trip(
    model: LightVAE, judge: JudgeConfig, edges: EdgeKind, device: torch.device
) -> dict[str, Any]:
    """Encode and decode held-out masks and their edge maps.

    Returns:
        ``f1``: F1 at 0.5, the mean over all masks; ``f1_noisy``: the same with noise of deviation
        0.2 on the latents; ``worst``: the least of any mask; ``masks`` and ``edges``: F1 by kind;
        ``latents``: mean and deviation by channel and largest magnitude, of masks and of edge maps.
    """
    model.eval()
    scores: dict[str, dict[str, list[float]]] = {
        what: {kind: [] for kind in HELD_OUT} for what in ("masks", "edges")
    }
    latents: dict[str, list[Tensor]] = {"masks": [], "edges": []}
    noisy, chance = [], torch.Generator().manual_seed(0)
    for kind in HELD_OUT:
        for pair in held_out(kind, judge.masks, judge.size, edges):
            for what, mask in zip(scores, pair, strict=True):
                maps = as_maps([mask]).to(device)
                z = model.encode(maps)
                scores[what][kind].append(f1(model.decode(z) > 0, maps > 0))
                latents[what].append(z.float().cpu())
                if what == "masks":
                    noise = torch.randn(z.shape, generator=chance).to(device) * _NOISE
                    noisy.append(f1(model.decode(z + noise) > 0, maps > 0))
    every = [score for values in scores["masks"].values() for score in values]
    return {
        "f1": _mean(every),
        "f1_noisy": _mean(noisy),
        "worst": round(min(every), 5),
        **{w: {k: _mean(v) for k, v in kinds.items()} for w, kinds in scores.items()},
        "latents": {what: _statistics(torch.cat(values)) for what, values in latents.items()},
    }


def f1(found: Tensor, truth: Tensor) -> float:
    """F1 of two boolean maps; 1 when both are empty."""
    sizes = int(found.sum() + truth.sum())
    return 2 * int((found & truth).sum()) / sizes if sizes else 1.0


def _statistics(latents: Tensor) -> dict[str, Any]:
    """Of (N, C, h, w): mean and deviation by channel, and the largest magnitude."""
    return {
        "mean": [round(v, 3) for v in latents.mean((0, 2, 3)).tolist()],
        "deviation": [round(v, 3) for v in latents.std((0, 2, 3)).tolist()],
        "largest": round(float(latents.abs().max()), 2),
    }


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 5)
