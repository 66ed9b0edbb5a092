"""From a photograph to a result: the page to read first.

decode -> prepare -> tiles -> model -> restore geometry -> decide -> Result
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import Tensor

from imlctl.device import describe, make_deterministic, resolve
from imlctl.errors import NumericalError
from imlctl.image.decode import decode, read
from imlctl.image.photo import DEFAULT_MAX_PIXELS, Photo
from imlctl.image.prepare import prepare, restore, upright
from imlctl.image.tiles import run_tiled
from imlctl.mask import render
from imlctl.mask.decide import Decision, check_threshold, decide
from imlctl.mask.regions import Regions, find_regions
from imlctl.report.record import Record, Verdict
from imlctl.weights.load import load
from imlctl.weights.registry import load_registry

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from imlctl.core.efficient_iml import EfficientIML

Source = str | os.PathLike[str] | bytes | BinaryIO

# A tile of this side needs about half a gigabyte at its peak; the model sees that much context.
DEFAULT_TILE = 1024
OVERLAP = 128  # between tiles, at most half of one


@dataclass(frozen=True, slots=True)
class Settings:
    """How to localize.

    Attributes:
        model: Name in the registry; its default when empty.
        weights: A safetensors file to use instead of a name.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``mps`` or ``xpu``.
        threshold: Probability from which a pixel counts; None for the one the weights carry.
        tile: Side of a tile in pixels, for pictures that are larger than one.
        seed: Seed of models that draw noise.
        max_pixels: Larger pictures are refused before any pixel is decoded.
    """

    model: str = ""
    weights: Path | None = None
    device: str = "auto"
    threshold: float | None = None
    tile: int = DEFAULT_TILE
    seed: int = 0
    max_pixels: int = DEFAULT_MAX_PIXELS

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_threshold(self.threshold)


@dataclass(frozen=True)
class Result:
    """What was found in one photograph.

    Attributes:
        photo: The decoded photograph; its `source` is what the record calls it.
        probability: Of each pixel being manipulated, (H, W) float32 in [0, 1], upright.
        decision: Mask, share and verdict at the threshold.
        score: The model's probability that the picture holds any manipulation, 0 to 1.
        provenance: Model, weights, settings, seed and device, as the record wants them.
        seconds: Wall time from bytes to decision.
    """

    photo: Photo
    probability: NDArray[np.float32]
    decision: Decision
    score: float
    provenance: dict[str, object]
    seconds: float

    @cached_property
    def regions(self) -> Regions:
        """Connected regions of the mask, largest first."""
        return find_regions(self.decision.mask, self.probability)

    @cached_property
    def pixels(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The photograph turned upright, (H, W, 3)."""
        return upright(self.photo.pixels, self.photo.facts.orientation)

    def mask_png(self) -> bytes:
        """Binary mask: 8-bit PNG, 0 and 255."""
        return render.binary_png(self.decision.mask)

    def soft_png(self) -> bytes:
        """Probability map: 16-bit PNG, 65535 for 1."""
        return render.soft_png(self.probability)

    def overlay_png(self) -> bytes:
        """Photograph with the mask outlined, and a legend."""
        return render.overlay_png(self.pixels, self.decision)

    def heatmap_png(self) -> bytes:
        """Probability as colours over the photograph, and a legend."""
        return render.heatmap_png(self.pixels, self.probability, threshold=self.decision.threshold)

    def record(self) -> Record:
        """Everything worth keeping, as one versioned record."""
        regions = self.regions
        return Record(
            path=self.photo.source,
            verdict=Verdict.MANIPULATED if self.decision.flagged else Verdict.NOTHING_FOUND,
            seconds=round(self.seconds, 4),
            sha256=self.photo.sha256,
            facts=self.photo.facts,
            score=self.score,
            share=self.decision.share,
            threshold=self.decision.threshold,
            min_share=self.decision.min_share,
            verdict_threshold=self.decision.verdict_threshold,
            regions=regions.listed,
            regions_rest_count=regions.rest_count,
            regions_rest_area=regions.rest_area,
            warnings=self.photo.facts.notes,
            **self.provenance,  # type: ignore[arg-type]
        )


class Localizer:
    """A model in memory, ready for one photograph after another.

    Raises:
        ImlctlError: The model, its weights or the device cannot be had.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.device = resolve(self.settings.device)
        make_deterministic()
        if self.settings.weights is not None:
            loaded = load(self.settings.weights)
        else:
            registry = load_registry()
            entry = registry[self.settings.model or registry.default]
            loaded = load(entry.path, name=entry.name, expected_sha256=entry.sha256)
        self.card = loaded.card
        self.model = loaded.model.fuse().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.threshold = self.settings.threshold or loaded.card.threshold
        tile = self.settings.tile
        self.overlap = min(OVERLAP, tile // 2)
        self.provenance: dict[str, object] = {
            "model": loaded.name,
            "weights_sha256": loaded.sha256,
            "settings": {"tile": tile, "overlap": self.overlap, "threshold": self.threshold},
            "seed": self.settings.seed,
            "device": describe(self.device),
        }

    def localize(self, source: Source, *, name: str = "") -> Result:
        """Localize the manipulated pixels of one photograph.

        Args:
            source: A path, the bytes of a file, or a binary file open for reading.
            name: What the record and messages call bytes or a stream.

        Raises:
            InputError: The picture cannot be read, decoded or analysed; says why.
        """
        start = time.perf_counter()
        photo = self._decode(source, name)
        image, geometry = prepare(photo, multiple=self.model.config.multiple)
        probability, score = self.predict(image)
        upright_map = restore(probability, geometry)
        decision = decide(
            upright_map,
            threshold=self.threshold,
            min_share=self.card.min_share,
            verdict_threshold=self.card.verdict_threshold,
        )
        return Result(
            photo, upright_map, decision, score, self.provenance, time.perf_counter() - start
        )

    def _decode(self, source: Source, name: str) -> Photo:
        limit = self.settings.max_pixels
        if isinstance(source, (str, os.PathLike)):
            return read(source, max_pixels=limit)
        if isinstance(source, bytes):
            return decode(source, source=name or "<bytes>", max_pixels=limit)
        name = name or str(getattr(source, "name", "<stream>"))
        return decode(source.read(), source=name, max_pixels=limit)

    def predict(self, image: Tensor) -> tuple[Tensor, float]:
        """Run the model over a prepared picture; see `predict`."""
        return predict(
            self.model, image, device=self.device, tile=self.settings.tile, overlap=self.overlap
        )


@torch.inference_mode()
def predict(
    model: EfficientIML, image: Tensor, *, device: torch.device, tile: int, overlap: int
) -> tuple[Tensor, float]:
    """Run a model over a prepared picture, in tiles where it is larger than one.

    Args:
        model: In evaluation mode, on `device`.
        image: (3, H', W') integer, as `prepare` returns it.
        device: Where to compute.
        tile: Largest side of a tile, in pixels.
        overlap: Of neighbouring tiles, in pixels.

    Returns:
        Probabilities (H', W') float32 on the CPU, and the highest score of any tile.

    Raises:
        NumericalError: The map or the score is NaN or infinite.
    """
    scores = []

    def forward(part: Tensor) -> Tensor:
        prediction = model(part.to(device, memory_format=torch.channels_last))
        scores.append(float(torch.sigmoid(prediction.score_logits.float())[0]))
        return torch.sigmoid(prediction.logits).cpu()

    probability = run_tiled(
        forward, image, tile=tile, overlap=overlap, multiple=model.config.multiple
    )
    if not all(map(math.isfinite, scores)):
        raise NumericalError(
            "the model's score is NaN or infinite, so there is no result",
            remedy="Check the weights; if they are the bundled ones, report this picture.",
        )
    return probability, max(scores)
