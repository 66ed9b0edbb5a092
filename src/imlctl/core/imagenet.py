"""Encoders with public ImageNet weights, under the names of their parameters there: MiT and ResNet.

MiT is the encoder of SegFormer: Xie et al. 2021 (arXiv 2105.15203), section 3.1, in its sizes b0 to
b5. Parameters have the names of the public checkpoints ``nvidia/mit-b*`` after their prefix
``segformer.encoder.``. Stochastic depth, which only their training used, is left out.

ResNet-50 and 101: He et al. 2016 (arXiv 1512.03385), Table 1 and Fig. 5 right, with the names of
torchvision's files, in the form that everybody publishes weights for ("v1.5"): a block halves the
resolution in its 3x3 convolution, not in the first 1x1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core.layers import Spread, fold, fuse_all

Four = tuple[int, int, int, int]

STRIDES: Four = (4, 8, 16, 32)  # of each stage against the picture

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_SEGFORMER = "segformer.encoder."
_EXPANSION = 4  # how much wider a ResNet block's output is than its 3x3 convolution
_CLASSIFIERS = ("classifier.weight", "classifier.bias", "fc.weight", "fc.bias")


@dataclass(frozen=True, slots=True)
class MixTransformerConfig:
    """Shape of the encoder, one value for each of the four stages."""

    dims: Four = (64, 128, 320, 512)  # channels
    depths: Four = (3, 4, 18, 3)  # blocks
    heads: Four = (1, 2, 5, 8)  # of attention; each divides its stage's channels
    reductions: Four = (8, 4, 2, 1)  # of the map of keys and values (R of Eq. 2)
    expansion: int = 4  # how much the feed-forward networks widen


MIT_SIZES = {
    "b0": MixTransformerConfig(dims=(32, 64, 160, 256), depths=(2, 2, 2, 2)),
    "b1": MixTransformerConfig(depths=(2, 2, 2, 2)),
    "b2": MixTransformerConfig(depths=(3, 4, 6, 3)),
    "b3": MixTransformerConfig(depths=(3, 4, 18, 3)),
    "b4": MixTransformerConfig(depths=(3, 8, 27, 3)),
    "b5": MixTransformerConfig(depths=(3, 6, 40, 3)),
}


def _as_map(x: Tensor, height: int, width: int) -> Tensor:
    """(B, H*W, C) to (B, C, H, W), a view."""
    return x.mT.view(len(x), -1, height, width)


def _as_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H*W, C), a view."""
    return x.flatten(2).mT


class PatchEmbedding(nn.Module):
    """Overlapping patches become tokens: a strided convolution, then layer norm."""

    def __init__(self, inputs: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, dim, kernel, stride, kernel // 2)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        """(B, inputs, H, W) to (B, H/s * W/s, dim), H/s and W/s."""
        x = self.proj(x)  # (B, dim, H/s, W/s)
        return self.layer_norm(_as_tokens(x)), x.shape[2], x.shape[3]


class ReducedAttention(nn.Module):
    """Every token attends to a map that is `reduction` times smaller each way (Eq. 1 and 2)."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, reduction)
            self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, H*W, C) to the same."""
        source = x
        if self.reduction > 1:
            source = _as_tokens(self.sr(_as_map(x, height, width)))  # (B, H*W / r*r, C)
            source = self.layer_norm(source)
        q, k, v = (
            projected.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, tokens, C/heads)
            for projected in (self.query(x), self.key(source), self.value(source))
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class AttentionLayer(nn.Module):
    """Reduced attention and the projection of what it returns."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.self = ReducedAttention(dim, heads, reduction)
        self.output = nn.ModuleDict({"dense": nn.Linear(dim, dim)})

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, H*W, C) to the same."""
        return cast("Tensor", self.output["dense"](self.self(x, height, width)))


class MixFFN(nn.Module):
    """Feed-forward network that learns positions through a 3x3 convolution's padding (Eq. 3)."""

    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__()
        wide = dim * expansion
        self.dense1 = nn.Linear(dim, wide)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(wide, wide, 3, padding=1, groups=wide)})
        self.dense2 = nn.Linear(wide, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, H*W, C) to the same."""
        x = self.dwconv["dwconv"](_as_map(self.dense1(x), height, width))
        return cast("Tensor", self.dense2(F.gelu(_as_tokens(x))))


class MixBlock(nn.Module):
    """Attention and feed-forward network, each normalised before and added to what it reads."""

    def __init__(self, config: MixTransformerConfig, stage: int) -> None:
        super().__init__()
        dim = config.dims[stage]
        self.layer_norm_1 = nn.LayerNorm(dim)
        self.attention = AttentionLayer(dim, config.heads[stage], config.reductions[stage])
        self.layer_norm_2 = nn.LayerNorm(dim)
        self.mlp = MixFFN(dim, config.expansion)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, H*W, C) to the same."""
        x = x + self.attention(self.layer_norm_1(x), height, width)
        return cast("Tensor", x + self.mlp(self.layer_norm_2(x), height, width))


class MixTransformer(nn.Module):
    """The encoder: four stages, each at half the resolution of the one before."""

    def __init__(self, config: MixTransformerConfig | None = None) -> None:
        super().__init__()
        self.config = config or MIT_SIZES["b3"]
        dims = self.config.dims
        self.patch_embeddings = nn.ModuleList(
            PatchEmbedding(inputs, dim, kernel=3 if stage else 7, stride=2 if stage else 4)
            for stage, (inputs, dim) in enumerate(zip((3, *dims), dims, strict=False))
        )
        self.block = nn.ModuleList(
            nn.ModuleList(MixBlock(self.config, stage) for _ in range(depth))
            for stage, depth in enumerate(self.config.depths)
        )
        self.layer_norm = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the features of the four stages, (B, dims[i], H / STRIDES[i], W / STRIDES[i]).

        The image is (B, 3, H, W), normalised; ValueError if H or W is no multiple of 32.
        """
        height, width = image.shape[-2:]
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise ValueError(f"height and width must be multiples of 32, not {height}x{width}")
        x, features = image, []
        stages = zip(self.patch_embeddings, self.block, self.layer_norm, strict=True)
        for embed, blocks, norm in stages:
            tokens, height, width = embed(x)
            for block in cast("nn.ModuleList", blocks):
                tokens = block(tokens, height, width)
            x = _as_map(norm(tokens), height, width)
            features.append(x)
        return cast("tuple[Tensor, Tensor, Tensor, Tensor]", tuple(features))


def _initialise(part: nn.Module) -> None:
    """Initial weights of the paper's code: small linear layers, convolutions by their fan-out."""
    if isinstance(part, nn.Linear):
        nn.init.trunc_normal_(part.weight, std=0.02)
        nn.init.zeros_(part.bias)
    elif isinstance(part, nn.Conv2d):
        fan_out = part.kernel_size[0] * part.kernel_size[1] * part.out_channels // part.groups
        nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(cast("Tensor", part.bias))


@dataclass(frozen=True, slots=True)
class ResNetConfig:
    """Shape of the encoder."""

    depths: Four = (3, 4, 6, 3)  # blocks of each of the four stages
    width: int = 64  # channels after the stem; the stages widen from it

    @property
    def dims(self) -> Four:
        """Channels that each stage returns."""
        first = self.width * _EXPANSION
        return first, first * 2, first * 4, first * 8


RESNET_SIZES = {
    "50": ResNetConfig(depths=(3, 4, 6, 3)),
    "101": ResNetConfig(depths=(3, 4, 23, 3)),
}


class Bottleneck(nn.Module):
    """Narrow, look around, widen; added to what came in, projected where shapes differ."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * _EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3: nn.Module = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.downsample.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, 4 * width, H / stride, W / stride), rounded up."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)

    def fuse(self) -> None:
        """Fold the norms into their convolutions; does nothing when done."""
        self.bn1 = fold(self.conv1, self.bn1)
        self.bn2 = fold(self.conv2, self.bn2)
        self.bn3 = fold(self.conv3, self.bn3)
        if len(self.downsample):
            self.downsample[1] = fold(cast("nn.Conv2d", self.downsample[0]), self.downsample[1])


class ResNet(nn.Module):
    """The encoder: a stem at a quarter of the resolution, then four stages of blocks."""

    def __init__(self, config: ResNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or RESNET_SIZES["50"]
        width = self.config.width
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(width)
        inputs = width
        stages: list[nn.Module] = []
        for outputs, depth in zip(self.config.dims, self.config.depths, strict=True):
            narrow = outputs // _EXPANSION
            first = Bottleneck(inputs, narrow, stride=2 if stages else 1)
            further = (Bottleneck(outputs, narrow, stride=1) for _ in range(depth - 1))
            stages.append(nn.Sequential(first, *further))
            inputs = outputs
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the features of the four stages, (B, dims[i], H / STRIDES[i], W / STRIDES[i]).

        The image is (B, 3, H, W) of any size, normalised; sizes of features are rounded up.
        """
        x = F.relu(self.bn1(self.conv1(image)), inplace=True)  # (B, width, H / 2, W / 2)
        x = F.max_pool2d(x, 3, 2, 1)  # (B, width, H / 4, W / 4)
        first = self.layer1(x)
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)

    def fuse(self) -> Self:
        """Fold every norm into its convolution, for inference. Returns self."""
        fuse_all(self.eval())
        self.bn1 = fold(self.conv1, self.bn1)
        return self


class ImageNetInput(nn.Module):
    """A backbone behind the normalisation that its public weights were trained with."""

    mean: Tensor
    spread: Tensor

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        for name, values in (("mean", MEAN), ("spread", SPREAD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def clues(self, image: Tensor, spread: Spread = map) -> Tensor | None:
        """Look for none."""
        del image, spread
        return None

    def forward(self, image: Tensor, clues: Tensor | None = None) -> tuple[Tensor, ...]:
        """(B, 3, H, W) in [0, 1] to the backbone's levels; sees no clues."""
        del clues
        return cast("tuple[Tensor, ...]", self.backbone((image - self.mean) / self.spread))

    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        """Load ImageNet weights in the layout in which they are published.

        ``nvidia/mit-b*`` (SegformerForImageClassification) or torchvision's ResNets; their
        classifiers are left aside, and nothing else. Files from before norms counted their batches
        load as well; the counters then stay as they are.

        Raises:
            RuntimeError: A tensor is missing, unknown or of another shape.
        """
        # A plain dictionary carries no version, which is what lets a norm lack its counter.
        kept = {name: value for name, value in tensors.items() if name not in _CLASSIFIERS}
        self.backbone.load_state_dict({k.removeprefix(_SEGFORMER): v for k, v in kept.items()})
