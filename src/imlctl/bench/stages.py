"""Where the time of one photograph goes: from a JPEG's bytes to a mask on the disk, by stage."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Protocol, cast

import cv2
import numpy as np
import torch
from PIL import Image

from imlctl import atomic
from imlctl.bench.timing import waits_for
from imlctl.core.sampler import member_noise, sample_mean
from imlctl.core.schedule import respaced
from imlctl.image.decode import decode
from imlctl.image.prepare import pad, prepare, restore, to_float
from imlctl.mask.decide import Rule, decide
from imlctl.mask.render import binary_png
from imlctl.mask.score import EVIDENCE, critical

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor

    from imlctl.bench.passes import Draw
    from imlctl.core.diff_iml import DiffIML
    from imlctl.core.model import Model

_QUALITY = 92


class Localizes(Protocol):
    """What is measured end to end: the parts of a `Localizer` that matter here."""

    def localize(self, source: bytes, *, name: str) -> _Result:
        """From the bytes of a file to a result."""


class _Result(Protocol):
    def mask_png(self) -> bytes: ...


class Watch:
    """Adds up the seconds of named stages."""

    def __init__(
        self, synchronize: Callable[[], object], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._synchronize, self._clock = synchronize, clock
        self._last = clock()
        self.seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Book the time since the last lap, or since the start, to a stage."""
        self._synchronize()
        now = self._clock()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def photograph(width: int, height: int = 0) -> bytes:
    """Make a JPEG that compresses about as well as photographs do; square without a height."""
    rng = np.random.default_rng(0)
    height = height or width
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 4, smooth.shape)
    pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def to_disk(localizer: Localizes, size: int, folder: Path) -> Callable[[], object]:
    """Return what localizes a photograph in memory and writes its mask."""
    data = photograph(size)
    target = folder / "mask.png"

    def run() -> None:
        mask = localizer.localize(data, name="bench").mask_png()
        atomic.write(target, mask, overwrite=True)

    return run


@torch.inference_mode()
def stage_times(
    model: Model, draw: Draw, size: int, device: torch.device, *, runs: int
) -> dict[str, float]:
    """Time each stage of a photograph that fits one tile, without flips.

    Args:
        model: In the form that localizes.
        draw: Steps and members.
        size: Side of the photograph in pixels.
        device: Where the model is.
        runs: Timed runs, after one that is not.

    Returns:
        Median seconds of each stage, in order.
    """
    data = photograph(size)
    with _folder() as folder:
        _through(model, draw, data, device, Path(folder))
        laps = [_through(model, draw, data, device, Path(folder)) for _ in range(runs)]
    return {stage: median(lap[stage] for lap in laps) for stage in laps[0]}


def _folder() -> AbstractContextManager[str]:
    return tempfile.TemporaryDirectory(prefix="imlctl-bench-")


def _through(
    model: Model, draw: Draw, data: bytes, device: torch.device, folder: Path
) -> dict[str, float]:
    watch = Watch(waits_for(device))
    photo = decode(data, source="bench")
    watch.lap("decode")
    image, geometry = prepare(photo)
    image = pad(image, multiple=model.multiple)
    view = to_float(image)[None].to(device, memory_format=torch.channels_last)
    watch.lap("prepare")
    if model.samples:
        logits = _sampled(cast("DiffIML", model), draw, view, bytes.fromhex(photo.sha256), watch)
    else:
        logits = _straight(model, view, watch)
    maps = torch.sigmoid(logits)[0, 0].float().cpu()
    probability = restore(maps[: geometry.height, : geometry.width], geometry)
    decision = decide(probability, critical(probability, EVIDENCE), Rule())
    watch.lap("decide")
    mask = binary_png(decision.mask)
    watch.lap("render")
    atomic.write(folder / "mask.png", mask, overwrite=True)
    watch.lap("write")
    return watch.seconds


def _straight(model: torch.nn.Module, view: Tensor, watch: Watch) -> Tensor:
    def entered(*_: object) -> None:
        watch.lap("encoder")

    handle = model.backbone.register_forward_hook(entered)  # type: ignore[union-attr]
    try:
        logits: Tensor = model(view).logits
    finally:
        handle.remove()
    watch.lap("decoder")
    return logits


def _sampled(model: DiffIML, draw: Draw, view: Tensor, key: bytes, watch: Watch) -> Tensor:
    prepared = model.condition(view)
    watch.lap("encoder")
    height, width = view.shape[-2:]
    noise = member_noise(0, key, draw.members or 1, model.noise_shape(height, width))
    noise = noise.to(view.device)
    watch.lap("noise")
    config = model.config

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        z0 = model.denoiser(z.to(prepared.dtype), t, prepared)
        watch.lap("denoiser")
        return z0  # type: ignore[no-any-return]

    steps = respaced(draw.steps or 1, config.schedule.steps, config.spacing)
    latents = sample_mean(denoise, noise, steps, model.bars, clip=config.clip)
    logits = model.vae.decode(latents[:, : config.vae.latent].to(prepared.dtype)).float()
    watch.lap("LightVAE")
    return logits
