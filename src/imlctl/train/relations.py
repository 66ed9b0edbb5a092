"""Which places of a picture belong together: targets for features, where masks are for outputs.

Both losses look at how alike features are at each pair of places (Tung and Mori 2019,
similarity-preserving distillation, within a picture), so neither adds a parameter, and what is
trained is what is shipped. One asks for features that tell processing histories apart, as camera
fingerprints do (Cozzolino and Verdoliva 2020, Noiseprint); the other for the likeness that a
network of ImageNet sees, which knows what an object is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003  # `load_preset` reads the annotation

import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.core.condition import IMAGENET_MEAN, IMAGENET_SPREAD
from imlctl.train.distributed import fair
from imlctl.train.onnx_network import open_network

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class FeaturesConfig:
    """A trained network whose features ours shall resemble.

    Attributes:
        network: ONNX file: pictures (B, 3, H, W), normalised as ImageNet's are, to features
            (B, C, h, w). It is not needed once training is over.
        weight: Of the loss.
    """

    network: Path
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a weight that rewards being different."""
        if self.weight < 0:
            raise ValueError("weight must not be negative")


def alike(features: Tensor, *, centred: bool) -> Tensor:
    """Cosine between the features of each two places, (B, C, h, w) to (B, h * w, h * w).

    Args:
        features: Of a batch.
        centred: Whether to subtract each picture's mean first: then what is common to all places
            says nothing.
    """
    tokens = features.float().flatten(2).transpose(1, 2)  # (B, T, C)
    if centred:
        tokens = tokens - tokens.mean(1, keepdim=True)
    tokens = F.normalize(tokens, dim=-1)
    return tokens @ tokens.transpose(1, 2)


def history_loss(features: Tensor, mask: Tensor) -> Tensor:
    """0 where features are equal within a history and orthogonal between two.

    Pairs of one history and pairs of two have equal weight, however small the forgery is; a batch
    of authentic pictures has pairs of the first sort only.

    Args:
        features: (B, C, h, w), not negative, as after a ReLU.
        mask: (B, 1, H, W), 0 or 1.
    """
    likeness = alike(features, centred=False)
    size = (features.shape[-2], features.shape[-1])
    share = F.adaptive_avg_pool2d(mask.float(), size).flatten(2)  # (B, 1, T) of the forgery
    here, there = share.transpose(1, 2), share
    same = here * there + (1 - here) * (1 - there)  # (B, T, T)
    apart = 1 - same
    pull = ((1 - likeness).square() * same).sum() / fair(same.sum())
    push = (likeness.square() * apart).sum() / fair(apart.sum())
    return pull + push


def feature_loss(features: Tensor, theirs: Tensor) -> Tensor:
    """Mean squared difference of two networks' likenesses between places.

    Args:
        features: (B, C, h, w), ours.
        theirs: (B, C', h', w') of the same pictures; pooled to our size.
    """
    size = (features.shape[-2], features.shape[-1])
    pooled = F.adaptive_avg_pool2d(theirs.float(), size)
    return F.mse_loss(alike(features, centred=True), alike(pooled, centred=True))


def load_network(path: Path) -> Network:
    """Open a network for `FeaturesConfig`.

    Raises:
        UsageError: The extra `onnx` is not installed.
        WeightsError: The file cannot be read, or does not take pictures.
    """
    run = open_network(str(path), expects="pictures (B, 3, H, W) to features (B, C, h, w)")

    @torch.no_grad()
    def network(image: Tensor) -> Tensor:
        mean, spread = (
            image.new_tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_SPREAD)
        )
        return run((image - mean) / spread)

    return network
