"""Small parts shared by the networks: a convolution that folds its norm, and channel-wise norm."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


LEAST_SIDE = 64  # pixels; smaller pictures are padded


def check_size(image: Tensor, multiple: int) -> None:
    """Refuse images (B, 3, H, W) that a network cannot take.

    Raises:
        ValueError: Height or width is no multiple of `multiple`, or below 64.
    """
    height, width = image.shape[-2:]
    if height % multiple or width % multiple or min(height, width) < LEAST_SIDE:
        raise ValueError(
            f"height and width must be multiples of {multiple} and at least {LEAST_SIDE}, "
            f"not {height}x{width}"
        )


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm; one convolution once fused.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Odd kernel size; padding keeps the size at stride 1.
        stride: Stride.
        groups: Groups of the convolution; `inputs` for a depthwise one.
        gain: Initial weight of the norm: 0 makes a residual branch start silent.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        norm = nn.BatchNorm2d(outputs)
        nn.init.constant_(norm.weight, gain)
        self.norm: nn.Module = norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return cast("Tensor", self.norm(self.conv(x)))

    def fuse(self) -> None:
        """Fold the norm into the convolution; does nothing when done."""
        self.norm = fold(self.conv, self.norm)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each position, for (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape; computed in float32, since bfloat16 loses small variances."""
        y = x.permute(0, 2, 3, 1).float()  # (B, H, W, C)
        y = nn.functional.layer_norm(y, y.shape[-1:], self.weight.float(), self.bias.float())
        return y.permute(0, 3, 1, 2).to(x.dtype)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast, where the device has it, changes no dtype."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@torch.no_grad()
def fold(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.Module) -> nn.Module:
    """Fold a batch norm's running statistics into the convolution before it, in place.

    Args:
        conv: Convolution without bias.
        norm: What follows it; anything but a batch norm is left alone, as when folded before.

    Returns:
        What takes the norm's place.
    """
    if not isinstance(norm, nn.BatchNorm2d):
        return norm
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    scale = norm.weight / torch.sqrt(variance + norm.eps)
    transposed = isinstance(conv, nn.ConvTranspose2d)  # then the outputs come second
    conv.weight.mul_(scale.view((1, -1, 1, 1) if transposed else (-1, 1, 1, 1)))
    conv.bias = nn.Parameter(norm.bias - mean * scale)
    return nn.Identity()


def fuse_all(model: nn.Module) -> None:
    """Call `fuse` on every part of `model` that has one, innermost parts first."""
    for part in reversed(list(model.modules())):
        fuse = getattr(part, "fuse", None)
        if part is not model and callable(fuse):
            fuse()


_LUMA = (0.299, 0.587, 0.114)


def grey_levels(image: Tensor) -> Tensor:
    """Luma of colours in [0, 1], (B, 3, H, W), in grey levels of 0 to 255, (B, H, W)."""
    red, green, blue = (255 * weight for weight in _LUMA)
    return red * image[:, 0] + green * image[:, 1] + blue * image[:, 2]
