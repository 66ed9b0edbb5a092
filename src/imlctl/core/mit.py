"""Mix Transformer (MiT), the encoder of SegFormer, in its sizes b0 to b5.

Xie et al. 2021, "SegFormer" (arXiv 2105.15203), section 3.1. Parameters have the names of the
public checkpoints ``nvidia/mit-b*`` after their prefix ``segformer.encoder.``, so that those load
strictly. Stochastic depth, which only their training used, is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

Four = tuple[int, int, int, int]

STRIDES: Four = (4, 8, 16, 32)  # of each stage against the picture


@dataclass(frozen=True, slots=True)
class MixTransformerConfig:
    """Shape of the encoder, one value for each of the four stages.

    Attributes:
        dims: Channels.
        depths: Blocks.
        heads: Attention heads; each divides its stage's channels.
        reductions: Keys and values come from a map this many times smaller (R of Eq. 2).
        expansion: How much the feed-forward networks widen, the same in every stage.
    """

    dims: Four = (64, 128, 320, 512)
    depths: Four = (3, 4, 18, 3)
    heads: Four = (1, 2, 5, 8)
    reductions: Four = (8, 4, 2, 1)
    expansion: int = 4


SIZES = {
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


class Attention(nn.Module):
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


class Block(nn.Module):
    """Attention and feed-forward network, each normalised before and added to what it reads."""

    def __init__(self, config: MixTransformerConfig, stage: int) -> None:
        super().__init__()
        dim = config.dims[stage]
        self.layer_norm_1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, config.heads[stage], config.reductions[stage])
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
        self.config = config or SIZES["b3"]
        dims = self.config.dims
        self.patch_embeddings = nn.ModuleList(
            PatchEmbedding(inputs, dim, kernel=3 if stage else 7, stride=2 if stage else 4)
            for stage, (inputs, dim) in enumerate(zip((3, *dims), dims, strict=False))
        )
        self.block = nn.ModuleList(
            nn.ModuleList(Block(self.config, stage) for _ in range(depth))
            for stage, depth in enumerate(self.config.depths)
        )
        self.layer_norm = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the features of the four stages, (B, dims[i], H / STRIDES[i], W / STRIDES[i]).

        Args:
            image: (B, 3, H, W), normalised; H and W are multiples of 32.

        Raises:
            ValueError: The size does not fit.
        """
        height, width = image.shape[-2:]
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise ValueError(f"height and width must be multiples of 32, not {height}x{width}")
        x, features = image, []
        for embed, blocks, norm in zip(
            self.patch_embeddings, self.block, self.layer_norm, strict=True
        ):
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
