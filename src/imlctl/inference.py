"""A model over a whole picture: in tiles where it is large, mirrored and in ensembles if asked for.

Both models are run from here, so that tiling, self-similarity, noise, flips and the check for NaN
are in one place for whoever localizes: the product, validation, or the benchmark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from imlctl.core.diff_iml import MEMBERS, STEPS, DiffIML
from imlctl.core.efficient_iml import EfficientIML
from imlctl.core.efficient_rwkv import EfficientRWKV
from imlctl.core.sampler import Fusion, member_noise, with_flips
from imlctl.core.self_similarity import STRIDE, self_similarity
from imlctl.errors import NumericalError, UsageError
from imlctl.image.prepare import to_float
from imlctl.image.tiles import Tile, run_tiled

if TYPE_CHECKING:
    from imlctl.core.efficient_iml import Prediction

Model = EfficientIML | DiffIML

# A tile of this side needs about half a gigabyte at its peak; the model sees that much context.
DEFAULT_TILE = 1024
OVERLAP = 128  # between tiles, at most half of one


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a prediction is drawn. Only `tta` concerns models that do not sample.

    Attributes:
        steps: Denoising steps of DiffIML, 1 to 1000.
        ensemble: Runs of it that are averaged, at least 1.
        tta: Whether the mirrored picture is analysed too.
        fusion: How the two are brought together, ``mean`` or ``max``; see `sampler.with_flips`.
        seed: Of the noise, which depends on it and on the picture alone.
    """

    steps: int = STEPS
    ensemble: int = MEMBERS
    tta: bool = False
    fusion: Fusion = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if not 1 <= self.steps <= 1000 or self.ensemble < 1:
            raise UsageError(
                f"{self.steps} steps and {self.ensemble} members cannot be run",
                remedy="Use 1 to 1000 steps, and at least one member.",
            )
        if self.fusion not in get_args(Fusion):
            raise UsageError(
                f"flips cannot be fused by {self.fusion!r}",
                remedy=f"Use {' or '.join(get_args(Fusion))}.",
            )


@torch.inference_mode()
def predict(
    model: Model,
    image: Tensor,
    *,
    device: torch.device,
    tile: int = DEFAULT_TILE,
    overlap: int = OVERLAP,
    sampling: Sampling | None = None,
    key: bytes = b"",
) -> tuple[Tensor, float]:
    """Run a model over a prepared picture, in tiles where it is larger than one.

    Args:
        model: In evaluation mode, on `device`.
        image: (3, H', W') integer, as `prepare` returns it.
        device: Where to compute.
        tile: Largest side of a tile, in pixels.
        overlap: Of neighbouring tiles, in pixels.
        sampling: Steps, members and flips.
        key: What the noise is drawn for: the picture's hash.

    Returns:
        Probabilities (H', W') float32 on the CPU, and the highest score of any tile.

    Raises:
        NumericalError: The map or the score is NaN or infinite.
    """
    how = sampling or Sampling()
    scores: list[float] = []
    similarity: Tensor | None = None  # of the whole picture: a copy may lie in another tile
    if max(image.shape[1:]) > tile and _sees_similarity(model):
        similarity = self_similarity(to_float(image)[None].to(device))

    def forward(part: Tensor, where: Tile) -> Tensor:
        part = part.to(device, memory_format=torch.channels_last)
        near = None if similarity is None else where.of(similarity, STRIDE)

        def once(view: Tensor, mirrored: bool) -> Tensor:
            seen = near.flip(-1) if near is not None and mirrored else near
            # The same noise for both views, so that a mirrored picture has the mirrored map.
            spot = b"%b/%d/%d" % (key, where.top, where.left)
            prediction = _run(model, view, seen, how, spot)
            scores.append(float(torch.sigmoid(prediction.score_logits.float())[0]))
            return torch.sigmoid(prediction.logits)

        if not how.tta:
            return once(part, False)
        return with_flips(once, part, how.fusion)

    probability = run_tiled(
        forward, image, tile=tile, overlap=overlap, multiple=model.config.multiple
    )
    if not all(map(math.isfinite, scores)):
        raise NumericalError(
            "the model's score is NaN or infinite, so there is no result",
            remedy="Check the weights; if they are the bundled ones, report this picture.",
        )
    return probability, max(scores)


@torch.inference_mode()
def probabilities(model: Model, images: Tensor, sampling: Sampling | None = None) -> Tensor:
    """Run a model over a batch of small pictures, as validation does.

    Args:
        model: In evaluation mode.
        images: (B, 3, H, W) in [0, 1], on the model's device; sides multiples of its `multiple`.
        sampling: Steps, members and seed; flips are not used.

    Returns:
        (B, 1, H, W) float32.
    """
    how = sampling or Sampling()
    images = images.contiguous(memory_format=torch.channels_last)
    if not isinstance(model, DiffIML):
        return torch.sigmoid(model(images).logits)
    each = [
        _run(model, image, None, how, b"%d" % place).logits
        for place, image in enumerate(images[:, None])
    ]
    return torch.sigmoid(torch.cat(each))


def _run(
    model: Model, image: Tensor, similarity: Tensor | None, how: Sampling, key: bytes
) -> Prediction:
    if not isinstance(model, DiffIML):
        return model(image, similarity)  # type: ignore[no-any-return]
    shape = model.noise_shape(*image.shape[-2:])
    noise = member_noise(how.seed, key, how.ensemble, shape).to(image.device)
    return model(image, similarity, noise, how.steps)  # type: ignore[no-any-return]


def _sees_similarity(model: Model) -> bool:
    parts = (part for part in model.modules() if isinstance(part, EfficientRWKV))
    return any(part.config.self_similarity for part in parts)
