"""How much noise at which step: the forward process of DiffIML, and the steps that sampling visits.

Ho et al. 2020 (arXiv 2006.11239) for the linear schedule; the paper's Eq. 2 and Eq. 15. Everything
here is small and stays on the CPU in float64, where 1 - abar_0 = 1e-4 keeps all its digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Spacing = Literal["leading", "trailing"]


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """A linear noise schedule.

    Attributes:
        steps: Steps of the forward process, T.
        beta_start: Variance that the first step adds, in (0, 1).
        beta_end: Variance that the last step adds, in [beta_start, 1).
    """

    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        """Refuse what is no schedule."""
        if self.steps < 1:
            raise ValueError("a schedule needs at least 1 step")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError("a schedule needs 0 < beta_start <= beta_end < 1")


def alpha_bars(config: ScheduleConfig | None = None) -> Tensor:
    """abar_t, the share of the clean latent's variance that is left at step t.

    Returns:
        (steps,) float64 on the CPU, falling, in (0, 1): abar_t = prod_{s <= t} (1 - beta_s).
    """
    config = config or ScheduleConfig()
    betas = torch.linspace(
        config.beta_start, config.beta_end, config.steps, dtype=torch.float64, device="cpu"
    )
    return torch.cumprod(1 - betas, 0)


def respaced(count: int, steps: int = 1000, spacing: Spacing = "leading") -> tuple[int, ...]:
    """Steps that a sampler of `count` steps visits, noisiest first.

    ``leading`` is what the authors' code does: multiples of steps // count, down to 0, so that 8 of
    1000 are 875, 750, ..., 125, 0. It never visits the noisiest steps, which 8 steps forgive
    (abar_875 is 4e-4) but one does not: alone, step 0 is told that pure noise is an all but clean
    latent, which a good denoiser returns as it came. ``trailing`` starts from the noisiest step
    whatever the count (Lin et al. 2024, arXiv 2305.08891, Table 2): 8 of 1000 are 999, 874, ...,
    124.

    Raises:
        ValueError: `count` does not lie in 1 to `steps`, or the spacing is unknown.
    """
    if not 1 <= count <= steps:
        raise ValueError(f"the sampler's steps must lie in 1 to {steps}, not {count}")
    if spacing not in get_args(Spacing):
        raise ValueError(f"unknown spacing {spacing!r}; known: {', '.join(get_args(Spacing))}")
    if spacing == "leading":
        return tuple(i * (steps // count) for i in reversed(range(count)))
    return tuple(round(steps * i / count) - 1 for i in range(count, 0, -1))


def diffuse(
    z0: Tensor,
    noise: Tensor,
    t: Tensor,
    bars: Tensor,
    *,
    prior: float = 0.0,
    prior_noise: Tensor | None = None,
) -> Tensor:
    """z_t = sqrt(abar_t) (z_0 + c xi) + sqrt(1 - abar_t) eps: Eq. 15, and Eq. 2 where c is 0.

    The prior c xi stands for the error that the denoiser's earlier steps made, which training never
    sees otherwise. Its targets stay clean: the loss compares with `z0`, not with z_0 + c xi.

    Args:
        z0: Clean latents, (B, C, h, w) float32.
        noise: eps, standard normal, of the shape of `z0`.
        t: Steps, (B,) int64. Best drawn on the CPU beside `bars`: on an accelerator their way back
            makes it wait.
        bars: abar, as `alpha_bars` returns them.
        prior: c, the prior rate, at least 0; the paper's is 0.1.
        prior_noise: xi, standard normal, of the shape of `z0`; needed unless `prior` is 0.

    Returns:
        z_t, of the shape, dtype and device of `z0`.

    Raises:
        ValueError: Shapes disagree, a step does not exist, or the prior is negative or lacks its
            noise.
    """
    if noise.shape != z0.shape or (prior_noise is not None and prior_noise.shape != z0.shape):
        raise ValueError("noise needs the shape of the latents")
    if t.dtype != torch.int64 or t.shape != z0.shape[:1]:
        raise ValueError("t needs one int64 step for each latent")
    t = t.to(bars.device)
    if ((t < 0) | (t >= len(bars))).any():
        raise ValueError(f"steps must lie in 0 to {len(bars) - 1}")
    if not 0 <= prior < float("inf"):
        raise ValueError(f"the prior rate must be at least 0, not {prior}")
    if prior > 0:
        if prior_noise is None:
            raise ValueError("a prior rate above 0 needs its noise")
        z0 = z0 + prior * prior_noise
    abar = bars[t]  # (B,)
    signal, spread = (
        # The dtype first: some devices know no float64.
        x.sqrt().to(z0.dtype).to(z0.device).view(-1, *(1,) * (z0.ndim - 1))
        for x in (abar, 1 - abar)
    )
    return signal * z0 + spread * noise  # (B, C, h, w)
