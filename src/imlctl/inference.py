"""A model over a whole picture: in tiles where it is large, mirrored and in ensembles if asked for.

Any model is run from here, so that clues, padding, tiling, noise, flips and the check for NaN
are in one place for whoever localizes: the product, validation, or the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.core.layers import Spread
from imlctl.core.model import CELL, CLUE_STRIDE, Model, Prediction, continued
from imlctl.core.sampler import member_noise
from imlctl.device import side_by_side, upload
from imlctl.errors import NumericalError
from imlctl.image.prepare import Tile, pad, run_tiled, to_float
from imlctl.settings import DEFAULT_TILE, Sampling

Progress = Callable[[int, int], object]

OVERLAP = 96  # between tiles, at most half of one
# Tiles that a CPU works on at once, a thread or more each: one thread takes 1.5 times as long as
# two, so a core gains more by a tile of its own.
_MOST_TILES = 4

# Pixels of the smallest picture whose clues are looked for in a thread each: they are small loops,
# which gain little from a second thread.
_CLUES_AT_ONCE = 2**21

# Pixels of the largest picture that an EfficientIML is given together with its mirror image: that
# takes 0.80 of the time of one after the other at 256 x 256, 0.91 at 512 x 512, and little less
# beyond. DiffIML gains at 256 x 256 alone, and what a batch rounds in another way grows in it.
_FLIPS_AT_ONCE = 512 * 512


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
    progress: Progress = lambda done, total: None,
) -> Answer:
    """Run a model over a picture, in tiles where it is larger than one.

    Args:
        model: In evaluation mode, on `device`.
        image: (3, H, W) integer, of any size, as `prepare` returns it.
        device: Where to compute.
        tile: Largest side of a tile, in pixels.
        overlap: Of neighbouring tiles, in pixels.
        sampling: Steps, members and flips.
        key: Name of the noise: the picture's hash.
        progress: Called with the number of finished tiles and of all, where there are several.

    Raises:
        NumericalError: The map or the score is NaN or infinite.
    """
    how: dict[str, Any] = {"device": device, "tile": tile, "overlap": overlap}
    how |= {"sampling": sampling, "progress": progress}
    return predict_together(model, [image], keys=[key], **how)[0]


@torch.inference_mode()
def predict_together(
    model: Model,
    images: Sequence[Tensor],
    *,
    device: torch.device,
    tile: int = DEFAULT_TILE,
    overlap: int = OVERLAP,
    sampling: Sampling | None = None,
    keys: Sequence[bytes],
    progress: Progress = lambda done, total: None,
) -> list[Answer]:
    """Run a model over pictures of one size in one pass: a single one leaves most of a GPU idle.

    Arguments and errors as for `predict`, for several `images` no larger than a tile, with a key
    each. Answers differ from those of `predict` by rounding, at most 1e-3.
    """
    how = sampling or Sampling()
    mirrored = [image.flip(-1) for image in images] if how.tta else []
    passes = [(images, keys), (mirrored, keys)] if mirrored else [(images, keys)]
    height, width = images[0].shape[-2:]
    small = max(height, width) <= tile and height * width <= _FLIPS_AT_ONCE
    if mirrored and len(images) == 1 and small and not model.samples:
        # The same noise for both views, so that a mirrored picture has the mirrored map.
        passes = [([*images, *mirrored], [*keys, *keys])]
    found = [
        view
        for views, names in passes
        for view in _analyse(model, views, device, tile, overlap, how, names, progress)
    ]
    return [_joined(found[place :: len(images)], how) for place in range(len(images))]


def _joined(views: Sequence[_View], how: Sampling) -> Answer:
    """Answer for a picture from that for itself and, if there is one, for its mirror image."""
    probability, _, reliability = views[0]
    score = torch.stack([score for _, score, _ in views])
    if how.tta:
        mirrored = views[1][0].flip(-1)
        if how.fusion == "max":  # either is enough, as in the authors' code
            probability, score = torch.maximum(probability, mirrored), score.amax(0)
        else:
            probability, score = (probability + mirrored) / 2, score.mean(0)
    if not torch.isfinite(score).all():
        what = "the model's score is NaN or infinite, so there is no result"
        remedy = "Check the weights; if they are the bundled ones, report this picture."
        raise NumericalError(what, remedy=remedy)
    return Answer(probability, float(torch.sigmoid(score)), reliability)


class Answer(NamedTuple):
    """Outcome of a model for one picture."""

    probability: Tensor  # of each pixel being manipulated, (H, W) float32 on the CPU
    score: float  # of the whole picture, 0 to 1
    reliability: Tensor | None  # of the map at each pixel, likewise; None if the model cannot say


# Of one view of a picture: probability, score as log odds, (), and reliability.
_View = tuple[Tensor, Tensor, Tensor | None]


def _analyse(
    model: Model,
    views: Sequence[Tensor],
    device: torch.device,
    tile: int,
    overlap: int,
    how: Sampling,
    keys: Sequence[bytes],
    progress: Progress,
) -> list[_View]:
    """Run a model over views (3, H, W) of one size; several of them must fit a tile.

    Clues are taken from a view's own pixels, all of them and once: a copy may lie in another tile,
    and the mirrored edge that fills up its sides to multiples would count as one.
    """
    height, width = views[0].shape[1:]
    padded = torch.stack([pad(view, multiple=model.multiple) for view in views])  # (V, 3, H', W')
    own = [upload(to_float(view)[None], device) for view in views]
    spread: Spread = map
    if device.type == "cpu" and height * width >= _CLUES_AT_ONCE:
        spread = partial(side_by_side, workers=torch.get_num_threads())
    clues = _over_padded([model.clues(view, spread) for view in own], padded, CLUE_STRIDE)
    known = _over_padded([model.reliability(view) for view in own], padded, CELL)
    del own  # of a large picture as much memory as a tile takes
    inside = torch.zeros(padded.shape[2] // CELL, padded.shape[3] // CELL, device=device)
    inside[: -(-height // CELL), : -(-width // CELL)] = 1
    pooled: dict[Tile, Any] = {}

    @torch.inference_mode()  # each thread has a mode of its own
    def forward(part: Tensor, where: Tile) -> Tensor:
        near = None if clues is None else where.of(clues, CLUE_STRIDE)
        spots = [b"%b/%d/%d" % (key, where.top, where.left) for key in keys]
        part = upload(part, device).contiguous(memory_format=torch.channels_last)
        prediction = _run(model, part, near, how, spots)
        believed = None if known is None else where.of(known, CELL)[:, 0]
        pooled[where] = model.pool(prediction, believed, where.of(inside, CELL))
        # One by one: a CPU computes the last few of all values in another way than the rest.
        return torch.stack([torch.sigmoid(logits) for logits in prediction.logits])

    maps = run_tiled(
        forward,
        padded,
        tile=tile,
        overlap=overlap,
        multiple=model.multiple,
        workers=min(torch.get_num_threads(), _MOST_TILES) if device.type == "cpu" else 1,
        progress=progress,
    )
    in_order = sorted(pooled, key=lambda where: (where.top, where.left))
    scores = model.judge([pooled[where] for where in in_order]).float()
    fine = [None if known is None else _enlarged(known[n], height, width) for n in range(len(maps))]
    return [(m[:height, :width], score, f) for m, score, f in zip(maps, scores, fine, strict=True)]


def _over_padded(found: Sequence[Tensor | None], padded: Tensor, stride: int) -> Tensor | None:
    """Maps of views' own pixels, (1, C, h, w) or (1, h, w), over (V, 3, H', W'), (V, C, h', w')."""
    maps = [each if each.dim() == 4 else each[:, None] for each in found if each is not None]
    size = (padded.shape[2] // stride, padded.shape[3] // stride)
    return torch.cat([continued(each, *size) for each in maps]) if maps else None


def _enlarged(cells: Tensor, height: int, width: int) -> Tensor:
    """Cells (1, h, w) as a map (height, width) on the CPU."""
    size = (cells.shape[1] * CELL, cells.shape[2] * CELL)
    fine = F.interpolate(cells[None], size=size, mode="bilinear", align_corners=False)
    return fine[0, 0, :height, :width].cpu()


@torch.inference_mode()
def probabilities(
    model: Model, images: Tensor, sampling: Sampling | None = None, clues: Tensor | None = None
) -> Tensor:
    """Run a model over a batch of small pictures, as validation does: (B, 1, H, W) float32.

    Args:
        model: In evaluation mode.
        images: (B, 3, H, W) in [0, 1], on the model's device; sides multiples of its `multiple`.
        sampling: Steps, members and seed; flips are not used.
        clues: Of the pictures; found in `images` when None.
    """
    how = sampling or Sampling()
    images = images.contiguous(memory_format=torch.channels_last)
    keys = [b"%d" % place for place in range(len(images))]
    return torch.sigmoid(_run(model, images, clues, how, keys).logits)


def _run(
    model: Model, images: Tensor, clues: Tensor | None, how: Sampling, keys: Sequence[bytes]
) -> Prediction:
    noise = None
    shape = model.noise_shape(*images.shape[-2:])
    if shape is not None:
        each = [member_noise(how.seed, key, how.ensemble, shape) for key in keys]
        noise = torch.cat(each).to(images.device)
    return cast("Prediction", model(images, clues, noise, how.steps))
