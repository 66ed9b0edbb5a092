"""Reliability: how likely an edit would be seen, place by place.

TruFor (Guillaro et al. 2023) learns a confidence map from the network's own features. Here it is
learned from the conditions alone, which an edit does not give away: of pixels that were forged,
which did the map mark? The same conditions in an authentic picture say where it can be believed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.core.layers import (
    OddsHead,
    bands,
    block_mean,
    box_mean,
    full_precision,
    grey_levels,
)

STRIDE = 8  # of the map against the picture
CONDITIONS = 11

_WINDOW = 7  # cells of STRIDE pixels a side, over which conditions are averaged
_HIDDEN = 24
_REACH = 2  # pixels beyond its own that a residual needs
_NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_DARK, _BRIGHT = 1.5, 253.5  # grey levels; beyond, a pixel is saturated


@torch.no_grad()
def conditions(image: Tensor) -> Tensor:
    """Describe what a picture (B, 3, H, W) in [0, 1] lets be seen, at each place and as a whole.

    Returns:
        (B, 11, ceil(H / 8), ceil(W / 8)) float32. Around each place: brightness; share of saturated
        pixels; logarithm of the energy of fine residuals, of gradients, and of residuals twice as
        wide; and how much of the residual energy is fine. Then, everywhere the same, the means of
        the last four, and the logarithm of the number of pixels.
    """
    height, width = image.shape[-2:]
    frame = (_REACH, _REACH + -width % STRIDE, _REACH, _REACH + -height % STRIDE)
    with full_precision(image.device):
        grey = F.pad(grey_levels(image.float())[:, None], frame, mode="replicate")[:, 0]
        cells = _cells(grey)  # (B, 5, h, w)
        around = box_mean(cells.flatten(0, 1), _WINDOW, _WINDOW).view_as(cells)
        brightness, saturated = around[:, 0] / 255, around[:, 1]
        energies = torch.log(around[:, 2:] + 1e-2) / 4  # fine, gradient, coarse
        fineness = energies[:, 0] - energies[:, 2]
        local = torch.stack((brightness, saturated, *energies.unbind(1), fineness), dim=1)
        whole = local[:, 2:].mean((2, 3), keepdim=True).expand(-1, -1, *local.shape[-2:])
        area = torch.log(local.new_tensor(float(height * width))) / 16
        return torch.cat((local, whole, area.expand_as(local[:, :1])), dim=1)


def _cells(grey: Tensor) -> Tensor:
    """Mean of five measures over each cell, (B, 5, h, w), from grey levels framed by `_REACH`."""
    parts = []
    for top, end in bands(grey[:, 2 * _REACH :], STRIDE):
        band = grey[:, top : end + 2 * _REACH]
        inner = _moved(band, 0, 0)
        up, down, left, right = (_moved(band, y, x) for y, x in _NEIGHBOURS)
        further = [_moved(band, 2 * y, 2 * x) for y, x in _NEIGHBOURS]
        measures = (
            inner,
            ((inner < _DARK) | (inner > _BRIGHT)).to(inner.dtype),
            (4 * inner - (up + down + left + right)).square(),
            (down - up).square() + (right - left).square(),
            (4 * inner - sum(further)).square(),
        )
        parts.append(torch.stack([block_mean(each, STRIDE) for each in measures], dim=1))
    return torch.cat(parts, dim=2)


def _moved(band: Tensor, y: int, x: int) -> Tensor:
    """Values at (y, x) from each place of a band but its frame."""
    _, height, width = band.shape
    return band[:, _REACH + y : height - _REACH + y, _REACH + x : width - _REACH + x]


class Reliability(OddsHead):
    """Probability that an edit would be marked, from the conditions around it."""

    def __init__(self) -> None:
        super().__init__(CONDITIONS, _HIDDEN)

    def map(self, image: Tensor) -> Tensor:
        """Reliability of each cell, (B, 3, H, W) in [0, 1] to (B, ceil(H / 8), ceil(W / 8))."""
        return torch.sigmoid(self(conditions(image).permute(0, 2, 3, 1)))
