"""EfficientRWKV: three stages of blocks that mix globally, locally and not at all, in parallel.

Li, He, Xie and Zhang 2025, "EfficientIML" (arXiv 2509.08583) describe it in words. This is a
reconstruction in the mould of MobileMamba (He et al. 2024), with the bidirectional WKV of
Vision-RWKV (Duan et al. 2024), and the two-pass row-and-column recurrence and reparameterised shift
of Restore-RWKV (Yang et al. 2024).

There is no position embedding, and decay is relative to the picture's size: any size from 64 px up
works, and the same weights serve a crop and a whole photograph.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core.efficientnet import WIDTHS, EfficientNetLite
from imlctl.core.jpeg_history import CHANNELS as HISTORY_CHANNELS
from imlctl.core.jpeg_history import jpeg_history
from imlctl.core.layers import Config, ConvNorm, Finder, Spread, check_choice, full_precision
from imlctl.core.mixers import SpatialMixV4, SpatialMixV6, WindowAttention
from imlctl.core.residual_outliers import residual_outliers
from imlctl.core.self_similarity import CHANNELS as SIMILARITY_CHANNELS
from imlctl.core.self_similarity import self_similarity

Mixing = Literal["v4", "v6"]

STRIDES = (8, 16, 32)  # of the stages against the picture


@dataclass(frozen=True, slots=True)
class EfficientRWKVConfig(Config):
    """Shape of the backbone."""

    dims: tuple[int, int, int] = (64, 128, 256)  # channels of the three stages, multiples of 16
    depths: tuple[int, int, int] = (2, 2, 3)  # blocks of the three stages
    # Share of each stage's channels that the WKV mixes.
    global_share: tuple[float, float, float] = (0.25, 0.5, 0.5)
    # Share that the local split mixes; the rest passes unchanged.
    local_share: tuple[float, float, float] = (0.5, 0.25, 0.25)
    mixing: Mixing = "v4"  # ``v4``, decay relative to the size, or ``v6``, matrix state
    window: int = 8  # side of an attention window, in positions of the stage
    self_similarity: bool = True  # whether the stem sees where the picture repeats itself (ours)
    # Whether it sees where a JPEG's history is unlike the rest of the picture (ours).
    history: bool = False
    # Whether it sees where the noise is unlike the rest of the picture (ours).
    outliers: bool = False
    # Whether the stages see what an ImageNet network makes of the picture (ours).
    semantics: bool = False

    def __post_init__(self) -> None:
        for name in ("dims", "depths", "global_share", "local_share"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name} needs one value for each of the three stages")
        if any(d < 16 or d % 16 for d in self.dims) or min(self.depths) < 1 or self.window < 2:
            raise ValueError("dims must be multiples of 16, depths at least 1, window at least 2")
        shares = zip(self.global_share, self.local_share, strict=True)
        if any(wide <= 0 or near < 0 or wide + near > 1 for wide, near in shares):
            what = "each stage needs a global share above 0, and shares that sum to at most 1"
            raise ValueError(what)
        check_choice("mixing", self.mixing, get_args(Mixing))


SIZES = {
    "tiny": EfficientRWKVConfig(dims=(32, 64, 128), depths=(1, 1, 2)),
    "small": EfficientRWKVConfig(),
    "semantic": EfficientRWKVConfig(semantics=True),
    "full": EfficientRWKVConfig(semantics=True, outliers=True),
    "forensic": EfficientRWKVConfig(semantics=True, history=True, outliers=True),
    "base": EfficientRWKVConfig(dims=(96, 192, 320), depths=(2, 3, 4)),
}

# Residuals of a clean photograph are a few grey levels; larger ones are edges, which saturate.
_RESIDUAL_LEVELS = 6.0

# Three filters of the spatial rich model (Fridrich and Kodovsky 2012), as RGB-N (Zhou et al. 2018)
# uses them, and what each is divided by.
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
    """Nine saturating noise residuals of the colours, at full resolution.

    Manipulation leaves its trace in noise and compression more than in content, and a small network
    trained from scratch on content looks at content.
    """

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Each colour on its own, yet one dense convolution: grouped it takes three times as long,
        # since libraries have no fast form for groups of three.
        filters = torch.zeros(3, 3, 3, 5, 5)
        for colour in range(3):
            filters[colour, :, colour] = torch.tensor(_SRM)
        filters *= (255 / _RESIDUAL_LEVELS / torch.tensor(_SRM_SCALE))[:, None, None, None]
        dense = filters.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        self.register_buffer("filters", dense, persistent=False)  # (9, 3, 5, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, 9, H, W) in [-1, 1]."""
        padded = F.pad(image, (2, 2, 2, 2), mode="reflect")
        # A bfloat16 of a bright pixel is a whole grey level wide, as wide as what is looked for.
        with full_precision(image.device):
            return F.conv2d(padded, self.filters).tanh_()


class Clues(nn.Module):
    """Evidence that only a whole picture shows, none of it learned: copies, history, outliers."""

    def __init__(self, config: EfficientRWKVConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self, image: Tensor, spread: Spread = map, more: Sequence[Finder] = ()
    ) -> Tensor | None:
        """(B, 3, H, W) to (B, C, ceil(H / 4), ...), outliers last; None where there are none.

        What `more` finds comes after them.
        """
        finders = (self_similarity, jpeg_history, residual_outliers)
        seen = (self.config.self_similarity, self.config.history, self.config.outliers)
        wanted = [*itertools.compress(finders, seen), *more]
        maps = list(spread(lambda find: find(image), wanted))
        return torch.cat(maps, dim=1) if maps else None


class Stem(nn.Module):
    """Residual input, then three strided convolutions; clues are added at a quarter of the size."""

    def __init__(self, config: EfficientRWKVConfig) -> None:
        super().__init__()
        out = config.dims[0]
        half = max(16, out // 2)
        self.input = ResidualInput()
        self.first = ConvNorm(3 + len(self.input.filters), half, 3, stride=2)
        self.rest = nn.ModuleList(ConvNorm(i, out, 3, stride=2) for i in (half, out))
        self.repeats = _clue_branch(SIMILARITY_CHANNELS, out) if config.self_similarity else None
        self.history = _clue_branch(HISTORY_CHANNELS, out) if config.history else None
        self.unlike = _clue_branch(1, out) if config.outliers else None
        self.every: nn.Sequential | None = None  # all of them, once fused

    def forward(self, image: Tensor, clues: Tensor | None) -> Tensor:
        """(B, 3, H, W) and what `Clues` returns to (B, dims[0], H / 8, W / 8)."""
        # Colours in [-1, 1] and residuals each on their own: side by side they would be a copy.
        first = self.first.conv
        x = F.conv2d(self.input(image), first.weight[:, 3:], first.bias, 2, 1)
        x += F.conv2d(image * 2 - 1, first.weight[:, :3], None, 2, 1)
        x = F.relu(self.first.norm(x), inplace=True)  # (B, dims[0] / 2, H / 2, W / 2)
        x = self.rest[0](x)  # (B, dims[0], H / 4, W / 4)
        if clues is not None and self.every is not None:
            x += self.every(clues[:, : self.every[0].in_channels])
        elif clues is not None:
            start = 0
            for branch in self._branches():
                width = branch[0].conv.in_channels
                # The last channel, where there are outliers, is for the decoder.
                x = x + branch(clues[:, start : start + width])
                start += width
        return F.relu(self.rest[1](F.relu(x, inplace=True)), inplace=True)  # (B, ., H / 8, W / 8)

    def _branches(self) -> list[Any]:
        return [each for each in (self.repeats, self.history, self.unlike) if each is not None]

    @torch.no_grad()
    def fuse(self) -> None:
        """Make one branch of all, whose norms are folded by now; does nothing when done."""
        if not (branches := self._branches()):
            return
        first, last = ([branch[place].conv for branch in branches] for place in (0, 2))
        inputs, hidden = sum(c.in_channels for c in first), sum(c.out_channels for c in first)
        widen = nn.Conv2d(inputs, hidden, 3, padding=1)
        taps = [
            torch.block_diag(*(conv.weight[:, :, y, x] for conv in first))  # type: ignore[no-untyped-call]
            for y, x in itertools.product(range(3), repeat=2)
        ]
        widen.weight = nn.Parameter(torch.unflatten(torch.stack(taps, -1), -1, (3, 3)))
        widen.bias = nn.Parameter(torch.cat([conv.bias for conv in first]))
        narrow = nn.Conv2d(hidden, last[0].out_channels, 1, bias=False)
        narrow.weight = nn.Parameter(torch.cat([conv.weight for conv in last], dim=1))
        entry = cast("ConvNorm", self.rest[0]).conv
        cast("Tensor", entry.bias).add_(torch.stack([conv.bias for conv in last]).sum(0))
        self.every = nn.Sequential(widen, nn.ReLU(inplace=True), narrow)
        self.repeats = self.history = self.unlike = None


def _clue_branch(channels: int, out: int) -> nn.Module:
    """Two convolutions over a clue; they add nothing until they have learned."""
    return nn.Sequential(
        ConvNorm(channels, 16, 3), nn.ReLU(inplace=True), ConvNorm(16, out, gain=0.0)
    )


class ParallelMixer(nn.Module):
    """Global, local and identity splits side by side, then one projection over them all."""

    def __init__(self, config: EfficientRWKVConfig, stage: int) -> None:
        super().__init__()
        channels = config.dims[stage]
        wide = max(8, round(channels * config.global_share[stage] / 8) * 8)
        near = min(channels - wide, round(channels * config.local_share[stage] / 8) * 8)
        self.split = [wide, near, channels - wide - near]
        self.wide = SpatialMixV4(wide) if config.mixing == "v4" else SpatialMixV6(wide)
        self.near = WindowAttention(near, config.window) if near else nn.Identity()
        self.project = ConvNorm(channels, channels, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        wide, near, same = torch.split(x, self.split, dim=1)
        x = torch.cat((self.wide(wide), self.near(near), same), dim=1)
        return cast("Tensor", self.project(x))


class ChannelMix(nn.Module):
    """RWKV channel mix: squared ReLU between two 1x1 convolutions, without the gate (as RWKV-7)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen = ConvNorm(channels, 2 * channels)
        self.narrow = ConvNorm(2 * channels, channels, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return cast("Tensor", self.narrow(F.relu(self.widen(x), inplace=True).square()))


class Block(nn.Module):
    """Depthwise convolution, parallel mixer, channel mix; each added to what it reads."""

    def __init__(self, config: EfficientRWKVConfig, stage: int) -> None:
        super().__init__()
        channels = config.dims[stage]
        self.depthwise = ConvNorm(channels, channels, 3, groups=channels, gain=0.0)
        self.mixer = ParallelMixer(config, stage)
        self.channels = ChannelMix(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        for part in (self.depthwise, self.mixer, self.channels):
            x = x + part(x)
        return x


class Semantics(nn.Module):
    """Features of an ImageNet network for the picture at half its size, one for each stage.

    Half the size is a quarter of the cost, and objects are larger in photographs than in what the
    network was trained on.
    """

    def __init__(self, dims: tuple[int, int, int]) -> None:
        super().__init__()
        self.network = EfficientNetLite()
        self.levels = nn.ModuleList(
            ConvNorm(width, dim, gain=0.0) for width, dim in zip(WIDTHS, dims, strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to one of (B, dims[i], H / 8 / 2^i, W / 8 / 2^i) for each stage."""
        # At exactly half the size this is the mean of 2 x 2, in a third of the time of pooling.
        half = F.interpolate(image, scale_factor=0.5, mode="bilinear", align_corners=False)
        return [level(x) for level, x in zip(self.levels, self.network(half), strict=True)]


class EfficientRWKV(nn.Module):
    """The backbone: a stem and three stages, each at half the resolution of the one before."""

    def __init__(self, config: EfficientRWKVConfig) -> None:
        super().__init__()
        self.config = config
        self.clues = Clues(config)
        self.stem = Stem(config)
        dims = config.dims
        self.down = nn.ModuleList(
            [nn.Identity()] + [ConvNorm(a, b, 3, stride=2) for a, b in itertools.pairwise(dims)]
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(config, stage) for _ in range(depth)))
            for stage, depth in enumerate(config.depths)
        )
        self.semantics = Semantics(dims) if config.semantics else None

    def forward(self, image: Tensor, clues: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the features of the stem and of the three stages, at `STRIDES`, rounded up.

        Args:
            image: (B, 3, H, W) in [0, 1]; H and W multiples of the first stride.
            clues: What `self.clues` says of the picture, (B, C, H / 4, W / 4), or of the whole
                picture that it is a tile of; found in `image` when None.
        """
        stem = self.stem(image, self.clues(image) if clues is None else clues)
        objects = [None] * 3 if self.semantics is None else self.semantics(image)
        x, features = stem, []
        for down, stage, seen in zip(self.down, self.stages, objects, strict=True):
            x = down(x)  # (B, dims[i], H / STRIDES[i], W / STRIDES[i])
            x = stage(x if seen is None else x + seen)
            features.append(x)
        return (stem, *features)
