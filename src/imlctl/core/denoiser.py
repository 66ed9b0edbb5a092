"""The denoiser of DiffIML: a UNet over the latents of a mask and of its edge map.

It predicts the clean latents z_0 from noisy ones z_t and the condition f (DiffIML, section 3.2).
The authors' network is diffusers' UNet2DModel with one level of 128 channels; the same class builds
a lighter one, which works on patches of 2x2 latents. The condition enters at every step, as
Conv3([x, f]) = Conv3(x) + Conv3(f), whose second half is computed once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_GROUPS = 32


@dataclass(frozen=True, slots=True)
class DenoiserConfig:
    """Shape of the denoiser."""

    channels: int = 64  # inside; a multiple of 32
    blocks: int = 1  # residual blocks on the way down; one more on the way up
    attention: bool = False  # in the middle, over all positions; quadratic in their number
    patch: int = 2  # side of the square of latents that one position holds, 1 or 2
    latents: int = 8  # channels in and out: four of the mask, four of its edge map
    condition: int = 64  # channels of the condition

    def __post_init__(self) -> None:
        if self.channels < _GROUPS or self.channels % _GROUPS:
            raise ValueError(f"channels must be a multiple of {_GROUPS}, not {self.channels}")
        if self.blocks < 1 or self.latents < 1 or self.condition < 1 or self.patch not in (1, 2):
            raise ValueError("blocks, latents and condition must be positive, patch 1 or 2")


DENOISERS = {
    "paper": DenoiserConfig(channels=128, blocks=2, attention=True, patch=1, condition=128),
    "light": DenoiserConfig(),
}


class TimedResidual(nn.Module):
    """Two normalised convolutions with the time added between them, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.norm2 = nn.GroupNorm(_GROUPS, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(M, inputs, h, w) and (M, time) to (M, outputs, h, w)."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.time(F.silu(time))[:, :, None, None]
        y = self.conv2(F.silu(self.norm2(y)))
        return cast("Tensor", self.shortcut(x) + y)


class SelfAttention(nn.Module):
    """Self-attention over all positions, heads of 8 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // 8
        self.norm = nn.GroupNorm(_GROUPS, channels)
        self.query, self.key, self.value, self.out = (
            nn.Linear(channels, channels) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(M, C, h, w) to the same."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (M, T, C)
        q, k, v = (
            each(tokens).unflatten(-1, (self.heads, 8)).transpose(1, 2)  # (M, heads, T, 8)
            for each in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (M, T, C)
        return cast("Tensor", x + self.out(y).transpose(1, 2).view_as(x))


class Denoiser(nn.Module):
    """Predicts the clean latents from noisy ones, the time step and the condition."""

    def __init__(self, config: DenoiserConfig | None = None) -> None:
        super().__init__()
        self.config = config or DenoiserConfig()
        c, blocks = self.config.channels, self.config.blocks
        packed, time = self.config.latents * self.config.patch**2, 4 * c
        self.time = nn.Sequential(nn.Linear(c, time), nn.SiLU(), nn.Linear(time, time))
        self.enter = nn.Conv2d(packed, c, 3, padding=1)
        self.mix = nn.Conv2d(c, c, 3, padding=1)
        self.inject = nn.Conv2d(self.config.condition, c, 3, padding=1, bias=False)
        self.down = nn.ModuleList(TimedResidual(c, c, time) for _ in range(blocks))
        self.middle = nn.ModuleList(TimedResidual(c, c, time) for _ in range(2))
        self.attention = SelfAttention(c) if self.config.attention else nn.Identity()
        self.up = nn.ModuleList(TimedResidual(2 * c, c, time) for _ in range(blocks + 1))
        self.norm = nn.GroupNorm(_GROUPS, c)
        self.leave = nn.Conv2d(c, packed, 3, padding=1)

    def prepare(self, condition: Tensor) -> Tensor:
        """Compute what the condition (B, condition, ...) adds at every step, (B, channels, ...)."""
        return cast("Tensor", self.inject(condition))

    def forward(self, z: Tensor, t: Tensor, prepared: Tensor) -> Tensor:
        """Predict the clean latents z_0, of the shape of `z`.

        From noisy latents (M, latents, h, w), h and w multiples of `config.patch`, time steps (M,),
        0 to 999, and what `prepare` returned, (M or 1, channels, h / patch, w / patch).
        """
        time = self.time(time_embedding(t, self.config.channels).to(z.dtype))  # (M, 4C)
        x = self.enter(F.pixel_unshuffle(z, self.config.patch))  # (M, C, h / p, w / p)
        x = self.mix(x) + prepared
        skips = [x]
        for block in self.down:
            x = block(x, time)
            skips.append(x)
        x = self.middle[1](self.attention(self.middle[0](x, time)), time)
        for block in self.up:
            x = block(torch.cat((x, skips.pop()), dim=1), time)
        x = self.leave(F.silu(self.norm(x)))
        return F.pixel_shuffle(x, self.config.patch)


def time_embedding(t: Tensor, channels: int) -> Tensor:
    """Sinusoids of time steps (M,) (Vaswani et al. 2017), cosines first, (M, channels) float32."""
    half = channels // 2
    rates = torch.exp(-math.log(10000) / half * torch.arange(half, device=t.device))
    angles = t.float()[:, None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=1)
