"""EfficientIML: EfficientRWKV backbone, a decoder over all its stages, supervision at every scale.

Li, He, Xie and Zhang 2025 (arXiv 2509.08583). The decoder is a reconstruction: the paper says that
it uses the backbone's multi-scale features directly and that predictions are supervised, and made
consistent, at each level of the hierarchy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core.copies import CHANNELS as COPY_CHANNELS
from imlctl.core.copies import CopyEvidence, copies
from imlctl.core.efficient_rwkv import STRIDES, EfficientRWKV, EfficientRWKVConfig
from imlctl.core.layers import Config, ConvNorm, Spread, check_sides
from imlctl.core.model import CLUE_STRIDE, STEPS, Model, Parts, Prediction
from imlctl.core.picture_score import PictureScore, Pooled, merge, pool
from imlctl.core.reliability import Reliability


@dataclass(frozen=True, slots=True)
class EfficientIMLConfig(Config):
    """Shape of the model."""

    backbone: EfficientRWKVConfig = field(default_factory=EfficientRWKVConfig)
    width: int = 64  # channels of the decoder
    # What each unit of the outliers' second channel, where the backbone looks for them, adds to a
    # pixel's log odds: samples for training are too small to teach it.
    outlier_gain: float = 2.0
    # Whether it has a score and a reliability that were trained on whole pictures.
    scored: bool = False
    # Whether regions that the picture holds twice add to a pixel's log odds (ours).
    copies: bool = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError("the decoder's width must be at least 1")
        if self.outlier_gain < 0:
            raise ValueError("the gain of outliers must not be negative")


class Merge(nn.Module):
    """One decoder level: project the backbone's features, add the coarser level, smooth."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.project = ConvNorm(inputs, width)
        self.smooth = ConvNorm(width, width, 3, groups=width)
        self.point = ConvNorm(width, width)

    def forward(self, features: Tensor, coarser: Tensor | None) -> Tensor:
        """(B, inputs, H, W) and (B, width, ceil(H / 2), ceil(W / 2)) to (B, width, H, W)."""
        x = self.project(features)
        if coarser is not None:
            x = x + doubled(coarser, x)
        x = F.relu(x, inplace=True)
        return F.relu(x + self.point(F.relu(self.smooth(x), inplace=True)), inplace=True)


def doubled(coarser: Tensor, finer: Tensor) -> Tensor:
    """Bring a map (B, C, ceil(H / 2), ceil(W / 2)) to the size of another, (B, ..., H, W).

    At exactly twice the resolution, and cut: a side that is not even would shift all of it.
    """
    height, width = finer.shape[2:]
    if coarser.shape[2:] == (height, width):
        return coarser
    twice = F.interpolate(coarser, scale_factor=2.0, mode="bilinear", align_corners=False)
    return twice[..., :height, :width]


class TopDown(nn.Module):
    """The backbone and the path back up over its stages: features at three scales, no verdict."""

    def __init__(self, config: EfficientIMLConfig) -> None:
        super().__init__()
        self.config = config
        dims, width = config.backbone.dims, config.width
        self.backbone = EfficientRWKV(config.backbone)
        self.merges = nn.ModuleList(Merge(dim, width) for dim in dims)
        self.refine = Merge(dims[0], width)

    def clues(self, image: Tensor, spread: Spread = map) -> Tensor | None:
        """See `Model.clues`."""
        return cast("Tensor | None", self.backbone.clues(image, spread))

    def forward(self, image: Tensor, clues: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] to each scale's features, finest first, (B, width, H / s, W / s).

        H and W are multiples of the first stride; for the clues see `EfficientRWKV.forward`.
        """
        stem, finest, middle, coarsest = self.backbone(image, clues)
        coarse = self.merges[2](coarsest, None)
        between = self.merges[1](middle, coarse)
        fine = self.refine(stem, self.merges[0](finest, between))
        return fine, between, coarse


class EfficientIML(TopDown, Model):
    """Localization in one forward pass, at any size."""

    multiple = STRIDES[0]

    def __init__(self, config: EfficientIMLConfig | None = None) -> None:
        super().__init__(config or EfficientIMLConfig())
        dims, width = self.config.backbone.dims, self.config.width
        self.head = nn.Conv2d(width, 1, 1)
        self.level_heads = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in dims[1:])
        self.score = nn.Sequential(nn.Linear(2 * width + 2, width), nn.ReLU(), nn.Linear(width, 1))
        self.copied = CopyEvidence() if self.config.copies else None
        self.whole = PictureScore(width) if self.config.scored else None
        self.sight = Reliability() if self.config.scored else None
        for head in (self.head, *self.level_heads):  # most pixels are untouched
            nn.init.constant_(cast("Tensor", cast("nn.Conv2d", head).bias), -2.0)

    def clues(self, image: Tensor, spread: Spread = map) -> Tensor | None:
        """See `Model.clues`; copies last."""
        more = () if self.copied is None else (copies,)
        return cast("Tensor | None", self.backbone.clues(image, spread, more))

    @property
    def scored(self) -> bool:  # type: ignore[override]  # of each model its own
        """True if the score was trained on whole pictures."""
        return self.config.scored

    def forward(  # type: ignore[override]  # features for others, a prediction for us
        self,
        image: Tensor,
        clues: Tensor | None = None,
        noise: Tensor | None = None,
        steps: int = STEPS,
    ) -> Prediction:
        """Localize; see `Model.forward`. Nothing is drawn."""
        del noise, steps
        check_sides(image, self.multiple)
        if clues is None:
            clues = self.clues(image)
        told = None
        if clues is not None and self.copied is not None:
            clues, found = clues[:, :-COPY_CHANNELS], clues[:, -COPY_CHANNELS:]
            told = F.avg_pool2d(self.copied.map(found), self.multiple // CLUE_STRIDE)
        features = super().forward(image, clues)
        finest, between, coarse = features
        fine = self.head(finest)  # (B, 1, H / s, W / s)
        if clues is not None and self.config.backbone.outliers:
            far = F.avg_pool2d(clues[:, -1:], self.multiple // CLUE_STRIDE)
            fine = fine + self.config.outlier_gain * far
        if told is not None:
            fine = fine + told
        levels = (self.level_heads[0](between), self.level_heads[1](coarse))
        size = image.shape[-2:]
        logits = F.interpolate(fine.float(), size=size, mode="bilinear", align_corners=False)
        return Prediction(logits, levels, self._score(coarse, fine), features, fine, told)

    def _score(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Image-level logit from pooled features and from the map itself, (B,)."""
        flat = coarse.float().flatten(2)  # (B, width, T)
        spots = F.avg_pool2d(fine.detach().float(), 4).flatten(1)  # a lone pixel is not a finding
        of_map = torch.stack((spots.amax(-1), spots.mean(-1)), dim=1)
        pooled = torch.cat((flat.mean(-1), flat.amax(-1), of_map), dim=1)
        features = pooled.to(self.head.weight.dtype)  # (B, 2 * width + 2)
        # A product of few rows may round each of them in its own way; a picture has no place.
        rows = (features,) if self.training else torch.split(features, 1)
        return torch.cat([self.score(row) for row in rows]).squeeze(1)

    def reliability(self, image: Tensor) -> Tensor | None:
        """Say where the map can be believed; see `Model.reliability`."""
        return None if self.sight is None else self.sight.map(image)

    def pool(self, prediction: Prediction, reliability: Tensor | None, inside: Tensor) -> Any:
        """Pool the decoder's features; see `Model.pool`."""
        if self.whole is None or reliability is None:
            return super().pool(prediction, reliability, inside)
        finest, _, coarsest = prediction.features
        cells = cast("Tensor", prediction.cells)
        told = prediction.copied
        return pool(cells, finest, coarsest, reliability, inside, told)

    def judge(self, tiles: Sequence[Any]) -> Tensor:
        """Score the whole picture; see `Model.judge`."""
        if self.whole is None:
            return super().judge(tiles)
        return cast("Tensor", self.whole(merge(cast("Sequence[Pooled]", tiles))))

    def parts(self) -> Parts:
        """Name the backbone's stages, the decoder and the score."""
        named: Parts = {}
        if self.backbone.semantics is not None:
            named["backbone: semantics"] = ("backbone.semantics",)
        return named | {
            "backbone: stem": ("backbone.stem", "backbone.clues"),
            "backbone: stage 1": ("backbone.down.0", "backbone.stages.0"),
            "backbone: stage 2": ("backbone.down.1", "backbone.stages.1"),
            "backbone: stage 3": ("backbone.down.2", "backbone.stages.2"),
            "decoder": ("merges", "refine", "head", "level_heads"),
            "picture score": ("score", "whole", "sight", "copied"),
        }

    @torch.no_grad()
    def lower(self, by: float) -> Self:
        """Take `by` from every pixel's log odds and leave the image-level score. Returns self."""
        for head in (self.head, *self.level_heads):
            cast("Tensor", cast("nn.Conv2d", head).bias).sub_(by)
        first = cast("nn.Linear", self.score[0])  # its last two inputs are read from the map
        first.bias.add_(by * first.weight[:, -2:].sum(1))
        return self
