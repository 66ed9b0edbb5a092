"""The condition encoder of DiffIML: any backbone, its levels brought together at the latents.

DiffIML, section 3.2: each level of the backbone through a 1x1 convolution, resized to the size of
the latents, concatenated, and mixed by a 3x3 convolution. It runs once per picture. The authors'
code resizes to a fixed 64x64 and so fails at any size but 512; here the size follows the picture.
A level that is finer than the condition may be folded into channels instead, which keeps all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core import efficient_rwkv, mit, resnet
from imlctl.core.efficient_iml import EfficientIMLConfig, TopDown
from imlctl.core.layers import ConvNorm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imlctl.core.efficient_rwkv import EfficientRWKV

ENCODERS = (
    *(f"efficient-iml-{size}" for size in efficient_rwkv.SIZES),
    *(f"efficient-rwkv-{size}" for size in efficient_rwkv.SIZES),
    *(f"mit-{size}" for size in mit.SIZES),
    *(f"resnet{size}" for size in resnet.SIZES),
)

# What ImageNet weights expect; the EfficientRWKV learns from [0, 1] as it is.
_SEGFORMER = "segformer.encoder."
IMAGENET_MEAN, IMAGENET_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageNetInput(nn.Module):
    """A backbone behind the normalisation that its public weights were trained with."""

    mean: Tensor
    spread: Tensor

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        for name, values in (("mean", IMAGENET_MEAN), ("spread", IMAGENET_SPREAD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def clues(self, image: Tensor) -> Tensor | None:
        """Look for none."""
        del image
        return None

    def forward(self, image: Tensor, clues: Tensor | None = None) -> tuple[Tensor, ...]:
        """(B, 3, H, W) in [0, 1] to the backbone's levels; sees no clues."""
        del clues
        return cast("tuple[Tensor, ...]", self.backbone((image - self.mean) / self.spread))

    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        """Load ImageNet weights in the layout in which they are published.

        ``nvidia/mit-b*`` (SegformerForImageClassification) or torchvision's ResNets; their
        classifiers are left aside, and nothing else.

        Raises:
            RuntimeError: A tensor is missing, unknown or of another shape.
        """
        if isinstance(self.backbone, resnet.ResNet):
            self.backbone.load_torchvision(tensors)
        else:
            inner = {
                name.removeprefix(_SEGFORMER): value
                for name, value in tensors.items()
                if not name.startswith("classifier.")
            }
            self.backbone.load_state_dict(inner)


@dataclass(frozen=True, slots=True, eq=False)
class Backbone:
    """A network that maps an image in [0, 1], and the clues in it, to its levels.

    Attributes:
        module: The network.
        widths: Channels of each level.
        strides: Of each level against the image.
        multiple: Height and width must be multiples of this.
    """

    module: nn.Module
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    multiple: int


def build_backbone(name: str) -> Backbone:
    """Build a backbone with random weights.

    Args:
        name: One of `ENCODERS`.

    Raises:
        ValueError: The name is not known.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; known: {', '.join(ENCODERS)}")
    if name.startswith("mit-"):
        shape = mit.SIZES[name.removeprefix("mit-")]
        module = ImageNetInput(mit.MixTransformer(shape))
        return Backbone(module, shape.dims, mit.STRIDES, shape.multiple)
    if name.startswith("resnet"):
        layout = resnet.SIZES[name.removeprefix("resnet")]
        module = ImageNetInput(resnet.ResNet(layout))
        return Backbone(module, layout.dims, mit.STRIDES, layout.multiple)
    config = efficient_rwkv.SIZES[name.rpartition("-")[2]]
    if name.startswith("efficient-iml-"):  # its path back up too: what it knows of forgeries
        whole = EfficientIMLConfig(config)
        return Backbone(TopDown(whole), (whole.width,) * 3, config.strides, config.strides[0])
    strides = (config.strides[0], *config.strides)  # the stem shares the first
    widths = (config.dims[0], *config.dims)
    return Backbone(efficient_rwkv.EfficientRWKV(config), widths, strides, strides[0])


class ConditionEncoder(nn.Module):
    """Backbone and head: from the picture to the condition f.

    Args:
        name: One of `ENCODERS`.
        channels: Of the condition, and of each level after its 1x1 convolution.
        stride: Of the condition against the picture.
        fold: Fold levels that are finer than the condition into channels, rather than resize them.

    Attributes:
        multiple: Height and width must be multiples of this.
    """

    def __init__(self, name: str, channels: int, stride: int, *, fold: bool = False) -> None:
        super().__init__()
        built = build_backbone(name)
        self.backbone, self.multiple = built.module, built.multiple
        self.stride = stride
        self.scales = tuple(s / stride for s in built.strides)
        self.folds = tuple(max(1, stride // s) if fold else 1 for s in built.strides)
        inputs = (w * n**2 for w, n in zip(built.widths, self.folds, strict=True))
        self.levels = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in inputs)
        self.mix = ConvNorm(len(built.widths) * channels, channels, 3)

    def clues(self, image: Tensor) -> Tensor | None:
        """Look for what the backbone sees besides the image; see `Model.clues`."""
        return cast("Tensor | None", cast("EfficientRWKV", self.backbone).clues(image))

    def forward(self, image: Tensor, clues: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            image: (B, 3, H, W) in [0, 1]; H and W multiples of `multiple`.
            clues: See `EfficientRWKV.forward`.

        Returns:
            (B, channels, H / stride, W / stride).
        """
        features: Sequence[Tensor] = self.backbone(image, clues)
        size = (image.shape[-2] // self.stride, image.shape[-1] // self.stride)
        gathered = [
            _resized(level(F.pixel_unshuffle(x, n)), scale, size)
            for level, x, scale, n in zip(
                self.levels, features, self.scales, self.folds, strict=True
            )
        ]
        return F.relu(self.mix(torch.cat(gathered, dim=1)), inplace=True)


def _resized(x: Tensor, scale: float, size: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == size:
        return x
    if scale > 1:  # exactly, and cut: a side that is no multiple would shift all of it
        larger = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
        return larger[..., : size[0], : size[1]]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
