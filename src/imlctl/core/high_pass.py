"""The first layer: noise residuals beside the colours.

Manipulation leaves its trace in noise and compression more than in content, and a small network
trained from scratch on content looks at content. Three ways to put the residual in front of it.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core.layers import full_precision

HighPass = Literal["srm", "bayar", "none"]

# Residuals of a clean photograph are a few grey levels; larger ones are edges, which saturate.
_RESIDUAL_LEVELS = 6.0
_GAIN = 255 / _RESIDUAL_LEVELS

# Three filters of the spatial rich model (Fridrich and Kodovsky 2012), as RGB-N (Zhou et al. 2018)
# uses them.
_SRM = (
    ((0, 0, 0, 0, 0), (0, -1, 2, -1, 0), (0, 2, -4, 2, 0), (0, -1, 2, -1, 0), (0, 0, 0, 0, 0)),
    (
        (-1, 2, -2, 2, -1),
        (2, -6, 8, -6, 2),
        (-2, 8, -12, 8, -2),
        (2, -6, 8, -6, 2),
        (-1, 2, -2, 2, -1),
    ),
    ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 1, -2, 1, 0), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)),
)
_SRM_SCALE = (4.0, 12.0, 2.0)


class ResidualInput(nn.Module):
    """Colours in [-1, 1] and nine saturating noise residuals, at full resolution.

    Args:
        kind: ``srm``, three fixed filters on each colour; ``bayar``, nine learned filters that are
            constrained to predict the centre from its neighbours (Bayar and Stamm 2018, Eq. 5);
            ``none``, colours only.

    Attributes:
        channels: Channels that come out: 12, or 3 for ``none``.
    """

    filters: Tensor

    def __init__(self, kind: HighPass) -> None:
        super().__init__()
        if kind not in get_args(HighPass):
            raise ValueError(f"unknown high-pass {kind!r}; known: {', '.join(get_args(HighPass))}")
        self.kind = kind
        self.channels = 3 if kind == "none" else 12
        if kind == "srm":
            # Each colour on its own, yet one dense convolution: grouped it takes three times as
            # long, since libraries have no fast form for groups of three.
            filters = torch.zeros(3, 3, 3, 5, 5)
            for colour in range(3):
                filters[colour, :, colour] = torch.tensor(_SRM)
            filters /= torch.tensor(_SRM_SCALE)[:, None, None, None]
            dense = filters.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            self.register_buffer("filters", dense, persistent=False)  # (9, 3, 5, 5)
        elif kind == "bayar":
            self.free = nn.Parameter(torch.rand(9, 3, 24) + 0.5)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, channels, H, W) in [-1, 1]."""
        colours = image * 2 - 1
        if self.kind == "none":
            return colours
        padded = F.pad(image, (2, 2, 2, 2), mode="reflect")
        # A bfloat16 of a bright pixel is a whole grey level wide, as wide as what is looked for.
        with full_precision(image.device):
            filters = self.filters if self.kind == "srm" else self._bayar()
            saturated = F.conv2d(padded, _GAIN * filters).tanh_()
        return torch.cat((colours, saturated), dim=1)  # (B, 12, H, W)

    def _bayar(self) -> Tensor:
        """Filters whose centre is -1 and whose other weights sum to 1, both / 3, (9, 3, 5, 5)."""
        around = self.free / self.free.sum(-1, keepdim=True).clamp_min(1e-3)
        centre = -torch.ones_like(around[..., :1])
        flat = torch.cat((around[..., :12], centre, around[..., 12:]), dim=-1)
        return torch.unflatten(flat, -1, (5, 5)) / 3
