"""Training of what a finished network says of whole pictures, with all else frozen.

What copies are worth first: of regions that a picture holds twice, which did somebody copy? Then
reliability: of cells that were forged, which did the map mark? Then the score, from what the
decoder saw all over a picture, against authentic photographs as they are and processed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core.copies import CopyEvidence, find_copies
from imlctl.core.layers import OddsHead, grey_levels
from imlctl.core.model import CELL
from imlctl.core.picture_score import PictureScore, Pooled, feature_vector, told_by_copies
from imlctl.core.reliability import Reliability, conditions
from imlctl.errors import ConfigError
from imlctl.forge import Mask
from imlctl.forge.history import random_copy, random_finish
from imlctl.forge.synthesizer import Mix, Sample, Synthesizer
from imlctl.image.prepare import to_float
from imlctl.inference import predict
from imlctl.mask.decide import log_odds, peak_odds

if TYPE_CHECKING:
    from imlctl.core.efficient_iml import EfficientIML
    from imlctl.forge.photos import PhotoPool

_SIDES = (320, 448, 640, 896)  # of the squares that hold the pictures
_CELLS = 96  # of each forgery, at most, that teach reliability
_LEAST_FORGERIES = 12  # that teach reliability
_LEAST_EDITED = 0.99  # of a cell, for it to teach
_PER_PICTURE = 2  # looked at for copies, which few have
_LEAST_COPIES = 12  # of either kind, that teach what they are worth
# Share of a region and its copy that the mask covers: all, or half where it marks the copy alone.
_COPIED = 0.3
_LEAST_SPREAD = 1e-3  # of an input; a constant one is left as it is
_ORIGINALS = 0.4  # of the pictures made are what a camera saved, edited once and saved again
_EPOCHS, _RATE = 300, 4e-3  # of AdamW, everything at once
_ROUNDS = 300  # of L-BFGS, which needs about fifty
_SEED = 7


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Settings for training the three heads."""

    # authentic pictures, and as many forgeries, for the score; a third of the forgeries for the
    # reliability, twice both for copies; 0 trains no heads
    pictures: int = 600
    penalty: float = 1.0  # on the squares of the score's weights

    def __post_init__(self) -> None:
        if self.pictures < 0 or self.penalty <= 0:
            raise ValueError("pictures must not be negative, penalty must be positive")


def fit_heads(
    model: EfficientIML, pool: PhotoPool, *, device: torch.device, config: HeadConfig | None = None
) -> None:
    """Give a network in evaluation mode a score and a reliability map, in place."""
    how = config or HeadConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model.whole, model.sight = None, Reliability().to(device)
        model.config = replace(model.config, scored=True)
        shown = list(itertools.islice(forgeries(pool), max(_LEAST_FORGERIES, how.pictures // 3)))
        _fit(model.sight, *_edited_cells(model, shown, device))
        rows = _Rows()
        model.whole = rows  # type: ignore[assignment]
        known = []  # log odds that the map's peak and copies add
        pairs = zip(authentic_samples(pool), forgeries(pool, start=how.pictures), strict=False)
        for picture, forgery in itertools.islice(pairs, how.pictures):
            for pixels in (picture, forgery.pixels):
                found = predict(model, _tensor(pixels), device=device)
                known.append(peak_odds(found.probability.numpy()) + log_odds(found.score))
        truth = [0.0, 1.0] * how.pictures
        model.whole = PictureScore(model.config.width).to(device)
        _fit_score(model.whole, torch.cat(rows.seen), known, truth, how.penalty)
        model.eval()


def fit_copies(
    model: EfficientIML, pool: PhotoPool, *, device: torch.device, config: HeadConfig | None = None
) -> None:
    """Teach a network in evaluation mode what copies are worth, in place.

    It looks for none if too few are found in what is made of the photographs. A score that it has
    is lost, which did not know of them.
    """
    count = _PER_PICTURE * (config or HeadConfig()).pictures
    rows, truth = [], []
    for pixels in itertools.islice(authentic_samples(pool), count):
        for copy in find_copies(_grey(pixels, device)):
            rows.append(copy.measures)
            truth.append(0.0)
    for sample in itertools.islice(_made(pool, Mix(0, 0, 1, 0, 0, 0)), count):
        for copy in find_copies(_grey(sample.pixels, device)):
            covered = _covered(copy.region.cpu().numpy(), sample.mask)
            if covered > _COPIED:  # else it may be there by nature
                rows.append(copy.measures)
                truth.append(1.0)
    y = torch.tensor(truth, device=device)
    made, natural = y.sum(), len(y) - y.sum()
    model.copied = model.whole = model.sight = None
    if min(made, natural) >= _LEAST_COPIES:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            model.copied = CopyEvidence().to(device)
        weight = torch.where(y > 0, 1 / made, 1 / natural)  # even odds, to add to those of the map
        _fit(model.copied, torch.stack(rows), y, weight)
    taught = model.copied is not None
    model.config = replace(model.config, copies=taught, scored=False)
    model.eval()


def _grey(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    return grey_levels(to_float(_tensor(pixels))[None].to(device))[0]


def _covered(region: NDArray[np.bool_], mask: Mask) -> float:
    """Share of a region, in cells, that a mask in pixels covers."""
    height, width = region.shape
    cells = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return float(cells[region].mean())


def forgeries(pool: PhotoPool, *, start: int = 0) -> Iterator[Sample]:
    """Make forgeries of every kind, of each size in turn."""
    return _made(pool, Mix(authentic=0), start)


def _made(pool: PhotoPool, mix: Mix, start: int = 0) -> Iterator[Sample]:
    makers = _makers(pool, mix)
    made = (makers[index % len(makers)](index) for index in itertools.count(start))
    return (sample for sample in made if sample.mask.any())


def authentic_samples(pool: PhotoPool) -> Iterator[NDArray[np.uint8]]:
    """Take photographs as they are, as copies, processed, and as `Synthesizer` shows them."""
    rng = np.random.default_rng(_SEED)
    makers = _makers(pool, Mix(1, 0, 0, 0, 0, 0))
    order = itertools.cycle(rng.permutation(len(pool)).tolist())
    for index, number in enumerate(order):
        photo = pool.photos[number]
        if index % 4 == 3:
            yield makers[index // 4 % len(makers)](index).pixels
        else:
            change = (None, random_copy, random_finish)[index % 4]
            yield photo if change is None else change(photo, rng)


def _makers(pool: PhotoPool, mix: Mix) -> list[Synthesizer]:
    return [Synthesizer(pool, size=s, mix=mix, seed=_SEED, originals=_ORIGINALS) for s in _SIDES]


class _Rows(nn.Module):
    """Keeps what a score in its place would see."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, pooled: Pooled) -> Tensor:
        self.seen.append(feature_vector(pooled))
        return told_by_copies(pooled)


def _tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, 2, 0)))


@torch.no_grad()
def _edited_cells(
    model: EfficientIML, samples: list[Sample], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Conditions of edited cells (N, C), whether they were marked, and what each counts, (N,)."""
    rng = np.random.default_rng(_SEED)
    described, seen, weights = [], [], []
    for sample in samples:
        image = _tensor(sample.pixels)
        probability = predict(model, image, device=device).probability
        height, width = (n // CELL for n in probability.shape)
        both = torch.stack((probability, torch.from_numpy(sample.mask).float()))
        whole = both[None, :, : height * CELL, : width * CELL]
        chance, edited = F.avg_pool2d(whole, CELL)[0]
        places = np.flatnonzero((edited >= _LEAST_EDITED).numpy())
        if not len(places):
            continue
        chosen = torch.from_numpy(rng.permutation(places)[:_CELLS])
        around = conditions(to_float(image)[None].to(device))[0, :, :height, :width]
        described.append(around.flatten(1).T[chosen.to(device)])
        seen.append((chance.flatten()[chosen] >= 0.5).float().to(device))
        weights.append(torch.full((len(chosen),), 1 / len(chosen), device=device))
    if not described:
        raise ConfigError(
            "no forgery made of these photographs is large enough to train the reliability map on",
            source="heads",
            remedy="Raise heads.pictures, or set it to 0 to train neither score nor reliability.",
        )
    return torch.cat(described), torch.cat(seen), torch.cat(weights)


@torch.enable_grad()
def _fit(head: OddsHead, rows: Tensor, truth: Tensor, weight: Tensor) -> None:
    _standardize(head, rows)
    optimizer = torch.optim.AdamW(head.parameters(), _RATE, weight_decay=0.01)
    for _ in range(_EPOCHS):
        wrong = F.binary_cross_entropy_with_logits(head(rows), truth, weight=weight)
        optimizer.zero_grad()
        (wrong * len(weight) / weight.sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.enable_grad()
def _fit_score(
    head: PictureScore, rows: Tensor, known: list[float], truth: list[float], penalty: float
) -> None:
    """Fit a penalized logistic regression, in place, to what log odds `known` leave open."""
    _standardize(head, rows)
    x = head.standardized(rows).double()
    offset, y = (torch.tensor(each, dtype=x.dtype, device=x.device) for each in (known, truth))
    weights = torch.zeros(x.shape[1] + 1, dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        said = x @ weights[1:] + weights[0] + offset
        wrong = F.binary_cross_entropy_with_logits(said, y) + penalty * (weights[1:] ** 2).sum()
        wrong.backward()  # type: ignore[no-untyped-call]
        return wrong

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        head.out.weight.copy_(weights[None, 1:])
        head.out.bias.copy_(weights[:1])


def _standardize(head: OddsHead | PictureScore, rows: Tensor) -> None:
    head.mean.copy_(rows.mean(0))
    head.spread.copy_(rows.std(0).clamp_min(_LEAST_SPREAD))
