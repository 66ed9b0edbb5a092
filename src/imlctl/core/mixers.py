"""Mixing of positions in EfficientRWKV: RWKV globally, attention in windows locally.

Each part takes and returns (B, C, H, W), at any size.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import imlctl.core.wkv_cuda  # noqa: F401 - what `bi_wkv` does with CUDA tensors
from imlctl.core.layers import ChannelNorm
from imlctl.core.wkv import bi_wkv, bi_wkv6


class OmniShift(nn.Module):
    """Each position looks at its neighbours: x + depthwise 1x1 + depthwise 3x3.

    Restore-RWKV, Eq. 3. One depthwise 3x3 once fused. The published shift has a 5x5 part too,
    left out for its cost.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.point = nn.Parameter(torch.zeros(channels))
        self.fused = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        kernel = self.conv.weight if self.fused else self._kernel()
        return F.conv2d(x, kernel, padding=1, groups=len(self.point))

    def _kernel(self) -> Tensor:
        centre = F.pad((1 + self.point)[:, None, None, None], (1, 1, 1, 1))
        return self.conv.weight + centre

    @torch.no_grad()
    def fuse(self) -> None:
        """Put the whole shift into the convolution's weight."""
        if not self.fused:
            self.conv.weight.copy_(self._kernel())
            self.fused = True


class SpatialMixV4(nn.Module):
    """RWKV spatial mix: bidirectional WKV in row order, then in column order, gated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = OmniShift(channels)
        self.project = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        # Vision-RWKV's range of decays, from slightly favouring far tokens to a tenth of the
        # picture; a channel that reaches far in one order stays near in the other.
        spread = torch.linspace(0, 1, channels)
        decay = torch.stack((-1 + 9 * spread, -1 + 9 * spread.flip(0)))
        self.decay = nn.Parameter(decay)  # (2, C): rows, columns
        self.bonus = nn.Parameter(torch.full((2, channels), 0.3).log())
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        height, width = x.shape[-2:]
        shifted = self.shift(x).flatten(2)  # (B, C, H*W)
        # As a product, whose results lie token by token whatever the layout of `x`.
        weight = self.project.weight.flatten(1).expand(len(x), -1, -1)
        r, k, v = (weight @ shifted).chunk(3, dim=1)
        v = bi_wkv(self.decay[0], self.bonus[0], k, v)
        k, v = (torch.unflatten(y, 2, (height, width)).mT.flatten(2) for y in (k, v))
        v = bi_wkv(self.decay[1], self.bonus[1], k, v)  # (B, C, W*H), column order
        v = torch.unflatten(v, 2, (width, height)).mT
        return cast("Tensor", self.norm(v)) * torch.sigmoid(torch.unflatten(r, 2, (height, width)))


class SpatialMixV6(nn.Module):
    """RWKV-6 spatial mix: matrix state, decay from the content, half the heads in each order."""

    head = 8

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = OmniShift(channels)
        self.project = nn.Conv2d(channels, 4 * channels, 1, bias=False)  # r, k, v, gate
        self.decay_in = nn.Conv2d(channels, 16, 1, bias=False)
        self.decay_out = nn.Conv2d(16, channels, 1)
        nn.init.uniform_(cast("Tensor", self.decay_out.bias), -6.0, -1.0)
        self.bonus = nn.Parameter(torch.zeros(channels // self.head, self.head))
        self.norm = nn.GroupNorm(channels // self.head, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        shifted = self.shift(x)
        r, k, v, gate = self.project(shifted).chunk(4, dim=1)
        log_decay = -torch.exp(self.decay_out(torch.tanh(self.decay_in(shifted))).float())
        maps, heads = (r, k, v, log_decay), len(self.bonus)
        cut = max(1, heads // 2)
        first = [x[:, : cut * self.head] for x in maps]
        out = self._mixed(first, self.bonus[:cut])
        if heads > 1:
            second = [x[:, cut * self.head :].mT for x in maps]
            out = torch.cat((out, self._mixed(second, self.bonus[cut:]).mT), dim=1)
        return cast("Tensor", self.norm(out.float())).to(x.dtype) * F.silu(gate)

    def _mixed(self, maps: list[Tensor], bonus: Tensor) -> Tensor:
        """Mix the positions of r, k, v and log decay row by row, (B, c, h, w) to the same."""
        tokens = (torch.unflatten(x.flatten(2), 1, (-1, self.head)).mT for x in maps)
        r, k, v, log_decay = tokens  # (B, heads, T, 8)
        y = bi_wkv6(r, k, v, log_decay, bonus).mT.flatten(1, 2)
        return torch.unflatten(y, 2, maps[0].shape[-2:])


class WindowAttention(nn.Module):
    """Self-attention in windows that tile the map, with a learned bias per offset.

    Swin (Liu et al. 2021), without its shifted windows.
    """

    offset: Tensor

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.heads = max(1, channels // 24)
        while channels % self.heads:
            self.heads -= 1
        self.project = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        side = torch.arange(window)
        y, x = torch.meshgrid(side, side, indexing="ij")
        dy, dx = (a.flatten()[:, None] - a.flatten()[None] + window - 1 for a in (y, x))
        self.register_buffer("offset", dy * (2 * window - 1) + dx, persistent=False)  # (w*w, w*w)
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, self.heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same; what windows do not tile is padded, and the padding masked."""
        height, width = x.shape[-2:]
        side = self.window
        below, right = -height % side, -width % side
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        if below or right:
            x = F.pad(x, (0, 0, 0, right, 0, below))
        batch, rows, columns = len(x), x.shape[1] // side, x.shape[2] // side
        x = x.reshape(batch, rows, side, columns, side, -1).transpose(2, 3)
        qkv = x.reshape(-1, side * side, x.shape[-1]) @ self.project.weight.flatten(1).T
        q, k, v = torch.unflatten(qkv, -1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.bias[self.offset].permute(2, 0, 1).to(q.dtype)  # (h, w*w, w*w)
        weight = (q * q.shape[-1] ** -0.5) @ k.mT + bias  # (B*windows, h, w*w, w*w)
        if below or right:
            weight = weight + self._padding(height, width, rows, columns, weight)
        out = (weight.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)  # (B*windows, w*w, C)
        out = out.reshape(batch, rows, columns, side, side, -1).transpose(2, 3)
        out = out.reshape(batch, rows * side, columns * side, -1)  # (B, H', W', C)
        return cast("Tensor", out[:, :height, :width].permute(0, 3, 1, 2))

    def _padding(self, height: int, width: int, rows: int, columns: int, weight: Tensor) -> Tensor:
        """Bias that hides padded positions: (B*windows, 1, 1, w*w). Each window has a real one."""
        side = self.window
        real = torch.zeros(rows * side, columns * side, device=weight.device, dtype=weight.dtype)
        real[height:] = real[:, width:] = -1e4
        real = torch.unflatten(torch.unflatten(real, 1, (columns, side)), 0, (rows, side))
        real = real.transpose(1, 2).reshape(rows * columns, 1, 1, side * side)
        return real.repeat(weight.shape[0] // len(real), 1, 1, 1)
