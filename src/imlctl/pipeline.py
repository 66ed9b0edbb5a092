"""From a photograph to a result: the page to read first.

decode -> prepare -> tiles -> model -> restore geometry -> decide -> Result
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from imlctl.device import describe, make_deterministic, resolve
from imlctl.errors import UsageError
from imlctl.image.decode import Photo, decode, of_pixels, read
from imlctl.image.facts import cautions
from imlctl.image.prepare import prepare, restore, upright
from imlctl.image.views import how_to_read, views_of
from imlctl.inference import OVERLAP, predict, predict_together
from imlctl.mask import render
from imlctl.mask.decide import Decision, Verdict, check_probability, decide, evidence, picture_score
from imlctl.mask.regions import Regions, find_regions
from imlctl.record import Record
from imlctl.settings import DEFAULT_TILE, Sampling, Settings
from imlctl.weights.load import open_weights

if TYPE_CHECKING:
    from imlctl.core.model import Model
    from imlctl.inference import Answer, Progress
    from imlctl.mask.rates import Rates
    from imlctl.weights.load import Loaded


RELIABLE = 0.1  # least chance that an edit is seen, where a map is said to speak
_SHOWN = 1200  # pixels; the longer side of a result as a notebook shows it
Encoded = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
Source = Photo | Encoded | Image.Image | np.ndarray[Any, Any]


@dataclass(frozen=True, repr=False)
class Result:
    """Result for one photograph."""

    photo: Photo  # decoded; its `source` is what the record calls it
    probability: NDArray[np.float32]  # of each pixel being manipulated, (H, W) in [0, 1], upright
    decision: Decision  # verdict, score, mask and its threshold
    provenance: dict[str, object]  # model, weights, settings, seed and device, as in the record
    seconds: float  # wall time from bytes to decision
    rates: Rates | None = None  # of each verdict, as measured for these weights; None if not
    # Of the map at each pixel, (H, W) in [0, 1], upright; None where the model does not say.
    reliability: NDArray[np.float32] | None = None

    @property
    def verdict(self) -> Verdict:
        """Answer for the whole picture."""
        return self.decision.verdict

    @property
    def score(self) -> float:
        """Probability that the picture holds any manipulation if one picture in two does, 0 to 1.

        Of weights that were not calibrated, the model's own number.
        """
        return self.decision.score

    @cached_property
    def unreliable_share(self) -> float | None:
        """Fraction of the picture whose reliability is under a tenth; None if it is not known."""
        return None if self.reliability is None else float((self.reliability < RELIABLE).mean())

    @cached_property
    def cautions(self) -> tuple[str, ...]:
        """Reasons why this picture is unlike those that the model can judge, as phrases."""
        return cautions(self.photo)

    @cached_property
    def regions(self) -> Regions:
        """Connected regions of the mask, largest first."""
        return find_regions(self.decision.mask, self.probability)

    @cached_property
    def pixels(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The photograph turned upright, (H, W, 3)."""
        return upright(self.photo.pixels, self.photo.facts.orientation)

    def __repr__(self) -> str:
        marked = f"{100 * self.decision.share:.2g} % of its pixels marked"
        return f"<{self.photo.source}: {self.verdict}, score {self.score:.3f}, {marked}>"

    def _repr_png_(self) -> bytes:
        """Overlay, small enough for a notebook, which calls this."""
        with Image.open(BytesIO(self.overlay_png())) as overlay:
            overlay.thumbnail((_SHOWN, _SHOWN))
            buffer = BytesIO()
            overlay.save(buffer, "PNG")
        return buffer.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values, see `record`."""
        return self.record().to_dict()

    def mask_png(self) -> bytes:
        """Binary mask: 8-bit PNG, 0 and 255."""
        return render.binary_png(self.decision.mask)

    def soft_png(self) -> bytes:
        """Probability map: 16-bit PNG, 65535 for 1."""
        return render.soft_png(self.probability)

    def reliability_png(self) -> bytes:
        """Reliability of the map: 16-bit PNG, 65535 for 1; UsageError if the model does not say."""
        if self.reliability is None:
            model = self.provenance["model"]
            what = f"the model {model} does not say where its map can be believed"
            remedy = "Leave it out, or choose another model."
            raise UsageError(what, source="reliability", remedy=remedy)
        return render.soft_png(self.reliability)

    def overlay_png(self) -> bytes:
        """Photograph with the mask outlined, and a legend."""
        return render.overlay_png(self.pixels, self.decision)

    def heatmap_png(self) -> bytes:
        """Probability as colours over the photograph, and a legend."""
        return render.heatmap_png(self.pixels, self.probability, threshold=self.decision.threshold)

    def views(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield error levels, JPEG ghost and more, (H, W, 3) uint8, upright; see `image.views`."""
        for name, view in views_of(self.photo.pixels, self.photo.thumbnail):
            yield name, upright(view, self.photo.facts.orientation)

    def views_png(self) -> bytes:
        """All views below each other, each with how to read it; none enters the verdict."""
        return render.captioned_png(
            (view, [line for text in how_to_read()[name].lines for line in wrap(text, 64)])
            for name, view in self.views()
        )

    def record(self) -> Record:
        """Everything worth keeping, as one versioned record."""
        regions = self.regions
        provenance, rates = self.photo.facts.provenance, None
        if self.rates is not None:
            rates = {"pictures": self.rates["pictures"], **self.rates[self.verdict]}
        return Record(
            path=self.photo.source,
            verdict=self.verdict,
            seconds=round(self.seconds, 4),
            sha256=self.photo.sha256,
            bytes=None if provenance is None else provenance.bytes,
            facts=self.photo.facts,
            score=self.score,
            share=self.decision.share,
            threshold=self.decision.threshold,
            rule=self.decision.rule,
            rates=rates,
            unreliable_share=self.unreliable_share,
            cautions=self.cautions,
            regions=regions.listed,
            regions_not_listed={"count": regions.rest_count, "area": regions.rest_area},
            warnings=self.photo.facts.notes,
            **self.provenance,  # type: ignore[arg-type]
        )


@cache
def _one_thread_after_fork() -> None:
    """Have forked children compute with one thread: they would wait for OpenMP's others forever."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class Localizer:
    """A model in memory, ready for one photograph after another.

    Args:
        settings: Model, device and how to localize.
        loaded: A model to use as it is, such as one in training, which is neither fused nor moved;
            it must be on the device of `settings`. None to open the weights that `settings` name.

    Raises:
        ImlctlError: The model, its weights or the device cannot be had.
    """

    def __init__(self, settings: Settings | None = None, *, loaded: Loaded | None = None) -> None:
        self.settings = settings or Settings()
        self._process = os.getpid()
        _one_thread_after_fork()
        self.device = resolve(self.settings.device)
        if loaded is None:
            make_deterministic()
            loaded = open_weights(self.settings.weights or self.settings.model)
            model = cast("Model", loaded.model)  # `open_weights` refuses what does not localize
            self.model: Model = model.fuse().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        else:
            self.model = cast("Model", loaded.model)
        self.card = loaded.card
        tile, how = self.settings.tile, self.settings.sampling
        self.overlap = min(OVERLAP, tile // 2)
        drawn: dict[str, object] = {"tta": how.fusion if how.tta else "none"}
        if self.device.type == "cpu":  # the last bits of a map depend on it
            drawn["threads"] = torch.get_num_threads()
        if self.model.samples:
            drawn |= {"steps": how.steps, "ensemble": how.ensemble}
        cut = {"tile": tile, "overlap": self.overlap, "threshold": self.settings.threshold}
        self.provenance: dict[str, object] = {
            "model": loaded.name,
            "weights_sha256": loaded.sha256,
            "settings": {**cut, **drawn},
            "seed": how.seed,
            "device": describe(self.device),
        }

    def localize(
        self, source: Source, *, name: str = "", progress: Progress = lambda done, total: None
    ) -> Result:
        """Localize the manipulated pixels of one photograph.

        Args:
            source: A path, the bytes of a file, a binary file open for reading, an image of
                Pillow's, an array (H, W, 3) or (H, W) of uint8 or uint16, or a photograph that is
                decoded already. The record of pixels says that no file was hashed.
            name: What the record and messages call anything but a path.
            progress: Called with the number of finished tiles and of all, where there are several.

        Raises:
            InputError: The picture cannot be read, decoded or analysed; says why.
            UsageError: `source` is something else.
        """
        start = time.perf_counter()
        self._survive_fork()
        photo = self._decode(source, name)
        answer = self.predict(prepare(photo), bytes.fromhex(photo.sha256), progress)
        return self._result(photo, answer, time.perf_counter() - start)

    def localize_together(self, photos: Sequence[Photo]) -> list[Result]:
        """Localize in photographs of one size in one pass, where a single one leaves a GPU idle.

        There must be at least one, and none may be larger than a tile. Probabilities differ from
        those of `localize` by rounding, at most 1e-3. Raises an `InputError` if one of them cannot
        be analysed, so that none has a result.
        """
        start = time.perf_counter()
        images = [prepare(photo) for photo in photos]
        keys = [bytes.fromhex(photo.sha256) for photo in photos]
        answers = predict_together(self.model, images, keys=keys, **self._how())
        seconds = (time.perf_counter() - start) / len(photos)
        pairs = zip(photos, answers, strict=True)
        return [self._result(photo, answer, seconds) for photo, answer in pairs]

    def _result(self, photo: Photo, answer: Answer, seconds: float) -> Result:
        turn, reliability = photo.facts.orientation, answer.reliability
        probability = restore(answer.probability, turn)
        decision = self._decide(probability, answer.score)
        reliable = None if reliability is None else restore(reliability, turn)
        found = (photo, probability, decision)
        return Result(*found, self.provenance, seconds, self._rates(), reliable)

    def _rates(self) -> Rates | None:
        """Measured rates; None with settings that the score was not measured with."""
        how, usual = self.settings.sampling, Sampling()
        same = self.settings.tile == DEFAULT_TILE and how.tta == usual.tta
        if self.model.samples:
            same = same and (how.steps, how.ensemble) == (usual.steps, usual.ensemble)
        return self.card.rates if same else None

    def _survive_fork(self) -> None:
        """Say in a child that was forked that it computes with one thread.

        Raises a `UsageError` if the model is on a device that a child cannot use.
        """
        if os.getpid() == self._process:
            return
        if self.device.type != "cpu":
            what = f"this process was forked after the model was loaded onto {self.device}"
            remedy = "Load the model in the child, or start it with the method spawn."
            raise UsageError(what, remedy=remedy)
        settings = cast("dict[str, object]", self.provenance["settings"])
        self.provenance = {**self.provenance, "settings": {**settings, "threads": 1}}
        self._process = os.getpid()

    def _decide(self, probability: NDArray[np.float32], score: float) -> Decision:
        check_probability(probability)
        if self.card.score_scale is not None:
            level = evidence(probability, score if self.model.scored else None)
            score = picture_score(level, self.card.score_scale)
        threshold = self.settings.threshold
        return decide(probability, score, self.card.rule, threshold=threshold)

    def _decode(self, source: Source, name: str) -> Photo:
        if isinstance(source, Photo):
            return source
        limit = self.settings.max_pixels
        if isinstance(source, (str, os.PathLike)):
            return read(source, max_pixels=limit)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return decode(bytes(source), source=name or "<bytes>", max_pixels=limit)
        if isinstance(source, (Image.Image, np.ndarray)):
            return of_pixels(source, source=name or "<pixels>", max_pixels=limit)
        data = source.read() if hasattr(source, "read") else source
        if not isinstance(data, bytes):
            given = "a text file" if isinstance(data, str) else f"{type(source).__name__}"
            what = f"cannot localize {given}"
            remedy = "Give a path, bytes, a file opened as binary, an image or an array."
            raise UsageError(what, remedy=remedy)
        name = name or str(getattr(source, "name", "<stream>"))
        return decode(data, source=name, max_pixels=limit)

    def predict(
        self, image: Tensor, key: bytes = b"", progress: Progress = lambda done, total: None
    ) -> Answer:
        """Run the model over a prepared picture; see `inference.predict`."""
        return predict(self.model, image, key=key, progress=progress, **self._how())

    def _how(self) -> dict[str, Any]:
        how = {"tile": self.settings.tile, "sampling": self.settings.sampling}
        return {"device": self.device, "overlap": self.overlap, **how}
