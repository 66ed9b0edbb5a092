"""EfficientRWKV: three stages of blocks that mix globally, locally and not at all, in parallel.

Li, He, Xie and Zhang 2025, "EfficientIML" (arXiv 2509.08583) describe the backbone in words: three
stages, a hybrid of state-space and attention, global context and local detail in parallel, channels
allotted per stage. This is a reconstruction in the mould of MobileMamba (He et al. 2024), with the
bidirectional WKV of Vision-RWKV (Duan et al. 2024) in the place of its state-space scan, and the
two-pass row-and-column recurrence and reparameterised shift of Restore-RWKV (Yang et al. 2024).

There is no position embedding, and decay is relative to the picture's size: any size from 64 px up
works, and the same weights serve a crop and a whole photograph.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core.efficientnet import WIDTHS, EfficientNetLite
from imlctl.core.high_pass import HighPass, ResidualInput
from imlctl.core.jpeg_history import CHANNELS as HISTORY_CHANNELS
from imlctl.core.jpeg_history import jpeg_history
from imlctl.core.layers import ConvNorm
from imlctl.core.mixers import DepthwiseLocal, SpatialMixV4, SpatialMixV6, WindowAttention
from imlctl.core.residual_outliers import residual_outliers
from imlctl.core.self_similarity import CHANNELS, self_similarity

Mixing = Literal["v4", "v6"]
Local = Literal["window", "depthwise"]


@dataclass(frozen=True, slots=True)
class EfficientRWKVConfig:
    """Shape of the backbone.

    Attributes:
        dims: Channels of the three stages, multiples of 16.
        depths: Blocks of the three stages.
        global_share: Share of each stage's channels that the WKV mixes.
        local_share: Share that the local split mixes; the rest passes unchanged.
        mixing: ``v4``, decay relative to the size, or ``v6``, matrix state.
        local: ``window``, self-attention in windows, or ``depthwise`` convolution.
        window: Side of an attention window, in positions of the stage.
        high_pass: The first layer's residuals.
        stem_stride: Stride of the first stage, 4 or 8.
        self_similarity: Whether the stem sees where the picture repeats itself (ours).
        history: Whether it sees where a JPEG's history is unlike the rest of the picture (ours).
        outliers: Whether it sees where the noise is unlike the rest of the picture (ours).
        semantics: Whether the stages see what an ImageNet network makes of the picture (ours);
            needs a stem stride of 8.
    """

    dims: tuple[int, int, int] = (64, 128, 256)
    depths: tuple[int, int, int] = (2, 2, 3)
    global_share: tuple[float, float, float] = (0.25, 0.5, 0.5)
    local_share: tuple[float, float, float] = (0.5, 0.25, 0.25)
    mixing: Mixing = "v4"
    local: Local = "window"
    window: int = 8
    high_pass: HighPass = "srm"  # noqa: S105 - a filter, not a password
    stem_stride: Literal[4, 8] = 8
    self_similarity: bool = True
    history: bool = False
    outliers: bool = False
    semantics: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        for name in ("dims", "depths", "global_share", "local_share"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name} needs one value for each of the three stages")
        if any(d < 16 or d % 16 for d in self.dims) or min(self.depths) < 1 or self.window < 2:
            raise ValueError("dims must be multiples of 16, depths at least 1, window at least 2")
        if any(
            g <= 0 or i < 0 or g + i > 1
            for g, i in zip(self.global_share, self.local_share, strict=True)
        ):
            raise ValueError(
                "each stage needs a global share above 0, and shares that sum to at most 1"
            )
        for name, kinds in (
            ("mixing", Mixing),
            ("local", Local),
            ("high_pass", HighPass),
            ("stem_stride", (4, 8)),
        ):
            known = kinds if isinstance(kinds, tuple) else get_args(kinds)
            if getattr(self, name) not in known:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}; known: {', '.join(map(str, known))}"
                )
        if self.semantics and self.stem_stride != 8:
            raise ValueError("semantics come at strides 8, 16 and 32, so stem_stride must be 8")

    @property
    def strides(self) -> tuple[int, int, int]:
        """Stride of each stage against the picture."""
        return (self.stem_stride, self.stem_stride * 2, self.stem_stride * 4)


SIZES = {
    "tiny": EfficientRWKVConfig(dims=(32, 64, 128), depths=(1, 1, 2)),
    "small": EfficientRWKVConfig(),
    "semantic": EfficientRWKVConfig(semantics=True),
    "full": EfficientRWKVConfig(semantics=True, outliers=True),
    "forensic": EfficientRWKVConfig(semantics=True, history=True, outliers=True),
    "base": EfficientRWKVConfig(dims=(96, 192, 320), depths=(2, 3, 4)),
}


class ParallelMixer(nn.Module):
    """Global, local and identity splits side by side, then one projection over them all."""

    def __init__(self, config: EfficientRWKVConfig, stage: int) -> None:
        super().__init__()
        channels = config.dims[stage]
        wide = max(8, round(channels * config.global_share[stage] / 8) * 8)
        near = min(channels - wide, round(channels * config.local_share[stage] / 8) * 8)
        self.split = [wide, near, channels - wide - near]
        self.wide = SpatialMixV4(wide) if config.mixing == "v4" else SpatialMixV6(wide)
        self.near: nn.Module = nn.Identity()
        if near:
            self.near = (
                WindowAttention(near, config.window)
                if config.local == "window"
                else DepthwiseLocal(near)
            )
        self.project = ConvNorm(channels, channels, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        wide, near, same = torch.split(x, self.split, dim=1)
        return cast(
            "Tensor", self.project(torch.cat((self.wide(wide), self.near(near), same), dim=1))
        )


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
        x = x + self.depthwise(x)
        x = x + self.mixer(x)
        return cast("Tensor", x + self.channels(x))


class Clues(nn.Module):
    """What only a whole picture shows, and nothing learned: copies, JPEG history, outliers.

    A tile is given its part of them, since what it is to be compared with may lie outside it.
    """

    def __init__(self, config: EfficientRWKVConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, image: Tensor) -> Tensor | None:
        """(B, 3, H, W) to (B, C, ceil(H / 4), ...), outliers last; None where there are none."""
        maps = []
        if self.config.self_similarity:
            maps.append(self_similarity(image))
        if self.config.history:
            maps.append(jpeg_history(image))
        if self.config.outliers:
            maps.append(residual_outliers(image))
        return torch.cat(maps, dim=1) if maps else None


class Stem(nn.Module):
    """Residual input, then strided convolutions. The tap at half resolution keeps fine evidence."""

    def __init__(self, config: EfficientRWKVConfig) -> None:
        super().__init__()
        out = config.dims[0]
        self.input = ResidualInput(config.high_pass)
        self.first = ConvNorm(self.input.channels, max(16, out // 2), 3, stride=2)
        widths = [max(16, out // 2)] + [out] * (config.stem_stride.bit_length() - 2)
        self.rest = nn.ModuleList(
            ConvNorm(a, b, 3, stride=2) for a, b in itertools.pairwise(widths)
        )
        self.repeats = _telling(CHANNELS, out) if config.self_similarity else None
        self.history = _telling(HISTORY_CHANNELS, out) if config.history else None
        self.unlike = _telling(1, out) if config.outliers else None

    def forward(self, image: Tensor, clues: Tensor | None) -> Tensor:
        """(B, 3, H, W) and what `Clues` returns to (B, dims[0], H / stem_stride, ...)."""
        told = self._told(clues)
        x = F.relu(self.first(self.input(image)), inplace=True)  # (B, C, H / 2, W / 2)
        for k, conv in enumerate(self.rest):
            x = conv(x)
            if k == 0:  # both at a quarter of the resolution
                x = sum(told, start=x)
            x = F.relu(x, inplace=True)
        return x

    def _told(self, clues: Tensor | None) -> list[Tensor]:
        """Return what each kind of clue adds, (B, C, H / 4, W / 4)."""
        if clues is None:
            return []
        told = []
        if self.repeats is not None:
            told.append(self.repeats(clues[:, :CHANNELS]))
        if self.history is not None:
            end = clues.shape[1] - (2 if self.unlike is not None else 0)
            told.append(self.history(clues[:, end - HISTORY_CHANNELS : end]))
        if self.unlike is not None:
            told.append(self.unlike(clues[:, -2:-1]))
        return told


def _telling(channels: int, out: int) -> nn.Module:
    """What a clue says to the stem; nothing at first."""
    return nn.Sequential(
        ConvNorm(channels, 16, 3), nn.ReLU(inplace=True), ConvNorm(16, out, gain=0.0)
    )


class Semantics(nn.Module):
    """What an ImageNet network makes of the picture at half its size, for each of the stages.

    What gives a forgery away lies in the residuals; where a thing begins and ends, and that text
    or leaves look busy without having been touched, does not. Half the size is a quarter of the
    cost, and things are larger in photographs than in what the network was trained on.
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
        seen = self.network(half)
        return [level(x) for level, x in zip(self.levels, seen, strict=True)]


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

    def forward(
        self, image: Tensor, clues: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the features of the stem and of the three stages.

        At `config.strides`; the stem shares the first.

        Args:
            image: (B, 3, H, W) in [0, 1]; H and W multiples of the last stride.
            clues: What `self.clues` says of the picture, (B, C, H / 4, W / 4), or of the whole
                picture that it is a tile of; found in `image` when None.
        """
        stem = self.stem(image, self.clues(image) if clues is None else clues)
        seen = [None] * 3 if self.semantics is None else self.semantics(image)
        x, features = stem, []
        for down, stage, things in zip(self.down, self.stages, seen, strict=True):
            x = down(x)
            x = stage(x if things is None else x + things)
            features.append(x)
        return (stem, *features)
