"""Noise schedule and sampling: how much noise at which step, DDIM, and the noise of an ensemble.

Ho et al. 2020 (arXiv 2006.11239) for the linear schedule; Song et al. 2021 (arXiv 2010.02502),
Eq. 12 with sigma 0; DiffIML, Eq. 2, Eq. 15 and Algorithm 2. Schedules stay on the CPU in float64,
where 1 - abar_0 = 1e-4 keeps all its digits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from imlctl.core.layers import check_choice

# (M, C, h, w) float32 at steps (M,) int64 to the predicted clean latents (M, C, h, w).
Denoiser = Callable[[Tensor, Tensor], Tensor]

Spacing = Literal["leading", "trailing"]


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """A linear noise schedule."""

    steps: int = 1000  # of the forward process, T
    beta_start: float = 1e-4  # variance that the first step adds, in (0, 1)
    beta_end: float = 0.02  # variance that the last step adds, in [beta_start, 1)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("a schedule needs at least 1 step")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError("a schedule needs 0 < beta_start <= beta_end < 1")


def alpha_bars(config: ScheduleConfig | None = None) -> Tensor:
    """abar_t = prod_{s <= t} (1 - beta_s), what is left of the clean latent's variance at step t.

    (steps,) float64 on the CPU, falling, in (0, 1).
    """
    config = config or ScheduleConfig()
    ends = config.beta_start, config.beta_end
    betas = torch.linspace(*ends, config.steps, dtype=torch.float64, device="cpu")
    return torch.cumprod(1 - betas, 0)


def respaced(count: int, steps: int = 1000, spacing: Spacing = "leading") -> tuple[int, ...]:
    """Steps that a sampler of `count` steps visits, noisiest first.

    ``leading`` is what the authors' code does: 8 of 1000 are 875, 750, ..., 125, 0. It never visits
    the noisiest steps, which 8 steps forgive but one does not. ``trailing`` starts from them (Lin
    et al. 2024, arXiv 2305.08891, Table 2): 8 of 1000 are 999, 874, ..., 124.

    Raises a `ValueError` if `count` does not lie in 1 to `steps`, or the spacing is unknown.
    """
    if not 1 <= count <= steps:
        raise ValueError(f"the sampler's steps must lie in 1 to {steps}, not {count}")
    check_choice("spacing", spacing, get_args(Spacing))
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

    The prior c xi stands for the error of the denoiser's earlier steps; the loss still compares
    with the clean `z0`.

    Args:
        z0: Clean latents, (B, C, h, w) float32.
        noise: eps, standard normal, of the shape of `z0`.
        t: Steps, (B,) int64, best on the CPU beside `bars`.
        bars: abar, as `alpha_bars` returns them.
        prior: c, the prior rate, at least 0; the paper's is 0.1.
        prior_noise: xi, standard normal, of the shape of `z0`; none without a prior.
    """
    if prior_noise is not None:
        z0 = z0 + prior * prior_noise
    abar = bars[t.to(bars.device)]  # (B,)
    signal, spread = (
        # The dtype first: some devices know no float64.
        x.sqrt().to(z0.dtype).to(z0.device).view(-1, *(1,) * (z0.ndim - 1))
        for x in (abar, 1 - abar)
    )
    return signal * z0 + spread * noise  # (B, C, h, w)


def ddim(
    denoise: Denoiser,
    noise: Tensor,
    timesteps: Sequence[int],
    bars: Tensor,
    *,
    clip: float | None = None,
) -> Tensor:
    """Follow the deterministic reverse process (eta 0) from noise to clean latents.

    At each step, with zhat_0 the denoiser's prediction and abar' that of the next step, or 1 after
    the last one:

        eps = (z_t - sqrt(abar_t) zhat_0) / sqrt(1 - abar_t)
        z   = sqrt(abar') zhat_0 + sqrt(1 - abar') eps

    The result is therefore the last prediction itself. Gradients flow.

    Args:
        denoise: Predicts clean latents; called once for each step, with all of the batch.
        noise: Standard normal, (M, C, h, w), of any dtype.
        timesteps: Steps to visit, noisiest first, as `respaced` returns them.
        bars: abar, as `alpha_bars` returns them.
        clip: Limit each prediction to [-clip, clip], after eps is taken, as the authors' scheduler
            does to [-1, 1]; None for no limit, since true latents may lie beyond it.

    Returns:
        (M, C, h, w) float32.
    """
    abars = [float(bars[t]) for t in timesteps]
    z = noise.float()
    for t, abar, following in zip(timesteps, abars, [*abars[1:], 1.0], strict=True):
        z0 = denoise(z, torch.full((len(z),), t, dtype=torch.int64, device=z.device)).float()
        eps = (z - math.sqrt(abar) * z0) / math.sqrt(1 - abar)
        if clip is not None:
            z0 = z0.clamp(-clip, clip)
        z = math.sqrt(following) * z0 + math.sqrt(1 - following) * eps  # (M, C, h, w)
    return z


def member_noise(seed: int, key: bytes, members: int, shape: tuple[int, int, int]) -> Tensor:
    """Noise that starts each member of an ensemble, from the SHA-256 of seed, member and key alone.

    It depends neither on the number of members nor on the batch or the device. `key` is what the
    noise is for: the hash of the picture, and which part of it if there are more.

    Returns:
        (N, C, h, w) float32 on the CPU, standard normal, for N members and latents (C, h, w).
    """
    noise = []
    for member in range(members):
        # The key comes last, so that no other triple spells the same bytes.
        digest = hashlib.sha256(b"%d/%d/" % (seed, member) + key).digest()
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little"))
        noise.append(torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu"))
    return torch.stack(noise)
