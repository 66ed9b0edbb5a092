"""A model over a whole picture: in tiles where it is large, mirrored and in ensembles if asked for.

Any model is run from here, so that clues, padding, tiling, noise, flips and the check for NaN
are in one place for whoever localizes: the product, validation, or the benchmark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, get_args

import torch
from torch import Tensor

from imlctl.core.diff_iml import MEMBERS
from imlctl.core.model import CLUE_STRIDE, STEPS, Model, Prediction, pad_clues
from imlctl.core.sampler import Fusion, member_noise, with_flips
from imlctl.errors import NumericalError, UsageError
from imlctl.image.prepare import pad, to_float
from imlctl.image.tiles import Tile, run_tiled

if TYPE_CHECKING:
    from collections.abc import Sequence

# A tile of this side needs about half a gigabyte at its peak; the model sees that much context.
DEFAULT_TILE = 1024
OVERLAP = 128  # between tiles, at most half of one

# Pixels of the largest picture that an EfficientIML is given together with its mirror image: that
# takes 0.80 of the time of one after the other at 256 x 256, 0.91 at 512 x 512, and little less
# beyond. DiffIML gains at 256 x 256 alone, and what a batch rounds in another way grows in it.
_FLIPS_AT_ONCE = 512 * 512


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
    """Run a model over a picture, in tiles where it is larger than one.

    Clues are taken from the picture's own pixels, all of them and once: a copy may lie in another
    tile, and the mirrored edge that fills up its sides to multiples would count as one.

    Args:
        model: In evaluation mode, on `device`.
        image: (3, H, W) integer, of any size, as `prepare` returns it.
        device: Where to compute.
        tile: Largest side of a tile, in pixels.
        overlap: Of neighbouring tiles, in pixels.
        sampling: Steps, members and flips.
        key: What the noise is drawn for: the picture's hash.

    Returns:
        Probabilities (H, W) float32 on the CPU, and the highest score of any tile.

    Raises:
        NumericalError: The map or the score is NaN or infinite.
    """
    how = sampling or Sampling()
    scores: list[float] = []  # of each tile, and of its mirror image
    height, width = image.shape[1:]
    padded = pad(image, multiple=model.multiple)  # (3, H', W')
    clues = _clues(model, image, (padded.shape[1], padded.shape[2]), device)

    def forward(part: Tensor, where: Tile) -> Tensor:
        near = None if clues is None else where.of(clues, CLUE_STRIDE)
        maps, found = _look(model, part.to(device), near, how, [_spot(key, where.top, where.left)])
        scores.extend(found[0])
        return maps

    probability = run_tiled(forward, padded, tile=tile, overlap=overlap, multiple=model.multiple)
    return probability[:height, :width], _highest(scores)


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
    keys = [b"%d" % place for place in range(len(images))]
    return torch.sigmoid(_run(model, images, None, how, keys).logits)


def _clues(
    model: Model, image: Tensor, size: tuple[int, int], device: torch.device
) -> Tensor | None:
    """Look for clues in a picture (3, H, W); as they lie over it once padded to `size`."""
    clues = model.clues(to_float(image)[None].to(device))
    return None if clues is None else pad_clues(clues, *size)  # (1, C, H' / 4, W' / 4)


def _spot(key: bytes, top: int, left: int) -> bytes:
    """What the noise of one tile of a picture is drawn for."""
    return b"%b/%d/%d" % (key, top, left)


def _look(
    model: Model, images: Tensor, clues: Tensor | None, how: Sampling, keys: Sequence[bytes]
) -> tuple[Tensor, list[list[float]]]:
    """Probabilities (B, 1, H, W), and for each picture the scores of it and of its mirror image."""
    scores: list[list[float]] = [[] for _ in keys]

    def once(views: Tensor, mirrored: tuple[bool, ...]) -> Tensor:
        seen = clues
        if clues is not None:
            seen = torch.cat([clues.flip(-1) if flip else clues for flip in mirrored])
        # The same noise for both views, so that a mirrored picture has the mirrored map.
        prediction = _run(model, views, seen, how, [*keys] * len(mirrored))
        every = scores * len(mirrored)  # the same lists again
        for found, score in zip(every, prediction.score_logits.float(), strict=True):
            found.append(float(torch.sigmoid(score)))
        # One by one: a CPU computes the last few of all values in another way than the rest.
        return torch.stack([torch.sigmoid(each) for each in prediction.logits])

    images = images.contiguous(memory_format=torch.channels_last)
    if not how.tta:
        return once(images, (False,)), scores
    at_once = flips_at_once(model, images)
    return with_flips(once, images, how.fusion, at_once=at_once), scores


def flips_at_once(model: Model, images: Tensor) -> bool:
    """Whether pictures (B, 3, H, W) and their mirror images are analysed as one batch."""
    alone = len(images) == 1  # several are a batch already
    return alone and not model.samples and images[0, 0].numel() <= _FLIPS_AT_ONCE


def _run(
    model: Model, images: Tensor, clues: Tensor | None, how: Sampling, keys: Sequence[bytes]
) -> Prediction:
    noise = None
    shape = model.noise_shape(*images.shape[-2:])
    if shape is not None:
        each = [member_noise(how.seed, key, how.ensemble, shape) for key in keys]
        noise = torch.cat(each).to(images.device)
    return cast("Prediction", model(images, clues, noise, how.steps))


def _highest(scores: Sequence[float]) -> float:
    """The highest of some scores; NaN and infinity are refused."""
    if not all(map(math.isfinite, scores)):
        raise NumericalError(
            "the model's score is NaN or infinite, so there is no result",
            remedy="Check the weights; if they are the bundled ones, report this picture.",
        )
    return max(scores)
