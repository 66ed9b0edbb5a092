"""From noise to a latent: DDIM, the ensemble of its runs, and flips of the picture.

Free functions over any denoiser. Song et al. 2021, "Denoising Diffusion Implicit Models" (arXiv
2010.02502), Eq. 12 with sigma 0; Algorithm 2 of the DiffIML paper.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

# (M, C, h, w) float32 at steps (M,) int64 to the predicted clean latents (M, C, h, w).
Denoiser = Callable[[Tensor, Tensor], Tensor]

Fusion = Literal["mean", "max"]


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
