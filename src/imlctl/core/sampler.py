"""Noise schedule and sampling: how much noise at which step, DDIM, and the mean of an ensemble.

Free functions over any denoiser. Ho et al. 2020 (arXiv 2006.11239) for the linear schedule; Song et
al. 2021, "Denoising Diffusion Implicit Models" (arXiv 2010.02502), Eq. 12 with sigma 0; DiffIML,
Eq. 2, Eq. 15 and Algorithm 2. Schedules are small and stay on the CPU in float64, where
1 - abar_0 = 1e-4 keeps all its digits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

# (M, C, h, w) float32 at steps (M,) int64 to the predicted clean latents (M, C, h, w).
Denoiser = Callable[[Tensor, Tensor], Tensor]

Spacing = Literal["leading", "trailing"]
Fusion = Literal["mean", "max"]


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

    The result is therefore the last prediction itself. Gradients flow; callers who want none say
    so, and it is for them to refuse NaN and infinity.

    Args:
        denoise: Predicts clean latents; called once for each step, with all of the batch.
        noise: Standard normal, (M, C, h, w); computed in float32 on its device, whatever its dtype
            and that of the predictions.
        timesteps: Steps to visit, noisiest first, as `respaced` returns them.
        bars: abar, as `alpha_bars` returns them.
        clip: Limit each prediction to [-clip, clip]; eps is taken before that, as the authors'
            scheduler does. None, the default, limits nothing: their scheduler clips to [-1, 1], but
            latents scaled by 0.18215 are not confined to it, and where a mask's true latent lies
            beyond, clipping makes it unreachable at every step.

    Returns:
        (M, C, h, w) float32.

    Raises:
        ValueError: Steps do not fall or do not exist, or `clip` is not positive.
    """
    falls = all(a > b for a, b in pairwise(timesteps))
    if not timesteps or not falls or timesteps[-1] < 0 or timesteps[0] >= len(bars):
        raise ValueError(
            f"timesteps must fall, and lie in 0 to {len(bars) - 1}, not {tuple(timesteps)}"
        )
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be positive, not {clip}")
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
    """Noise that starts each member of an ensemble, the same wherever and whenever it is asked for.

    Every member has its own generator, seeded from the SHA-256 of seed, member and key. Its noise
    depends on nothing else: not on how many members there are, on what was drawn before, on the
    batch or on the device. So members are a prefix of any larger ensemble.

    Args:
        seed: The user's, any integer.
        key: What the noise is for: the hash of the picture, and which part of it if there are more.
        members: N, at least 1.
        shape: (C, h, w) of one latent.

    Returns:
        (N, C, h, w) float32 on the CPU, standard normal.

    Raises:
        ValueError: There is no member, or nothing in one.
    """
    if members < 1 or len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"noise needs members and a shape (C, h, w), not {members} of {shape}")
    return torch.stack([_noise(seed, key, member, shape) for member in range(members)])


def _noise(seed: int, key: bytes, member: int, shape: tuple[int, int, int]) -> Tensor:
    # The key comes last, so that no other triple spells the same bytes.
    digest = hashlib.sha256(b"%d/%d/" % (seed, member) + key).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little"))
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def sample_mean(
    denoise: Denoiser,
    noise: Tensor,
    timesteps: Sequence[int],
    bars: Tensor,
    *,
    clip: float | None = None,
    pictures: int = 1,
) -> Tensor:
    """Run the members of an ensemble as one batch and average them, as latents.

    The average comes before the decoder (Algorithm 2), which therefore runs once whatever N is.

    Args:
        denoise: As for `ddim`; it sees all N members of all pictures at once. What it knows of a
            single picture broadcasts over them.
        noise: One row for each member, (N, C, h, w), as `member_noise` returns them; those of the
            next picture follow.
        timesteps: As for `ddim`.
        bars: As for `ddim`.
        clip: As for `ddim`.
        pictures: B, each with as many members.

    Returns:
        (B, C, h, w) float32.

    Raises:
        ValueError: There is no member, pictures have not equally many, or as `ddim` does.
    """
    if not len(noise):
        raise ValueError("an ensemble needs at least one member")
    if len(noise) % pictures:
        raise ValueError(f"{len(noise)} members cannot be shared out among {pictures} pictures")
    latents = ddim(denoise, noise, timesteps, bars, clip=clip)
    return torch.unflatten(latents, 0, (pictures, -1)).mean(1)


def fused(straight: Tensor, mirrored: Tensor, fusion: Fusion = "mean") -> Tensor:
    """Combine the maps of a picture and of its mirror image, the second turned back already.

    Args:
        straight: Probabilities of any shape.
        mirrored: Of the same shape.
        fusion: ``mean``, the default, averages the two: what both agree on keeps its probability,
            and a calibrated one stays calibrated. ``max`` is what the authors' code does, though
            the paper does not say so: either one is enough to mark a pixel, so recall rises, and
            false alarms with it.

    Raises:
        ValueError: The fusion is unknown.
    """
    if fusion not in get_args(Fusion):
        raise ValueError(f"unknown fusion {fusion!r}; known: {', '.join(get_args(Fusion))}")
    if fusion == "max":
        return torch.maximum(straight, mirrored)
    return (straight + mirrored) / 2
