"""Diffusion edits of whole photographs, as EfficientIML's SIF set was made.

A mask, a prompt, an inpainting pipeline of diffusers; outside the mask every pixel stays.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from imlctl.errors import ConfigError, UsageError, WeightsError
from imlctl.forge import history
from imlctl.forge.edits import blend
from imlctl.forge.shapes import feather, random_mask
from imlctl.forge.synthesizer import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imlctl.forge.photos import PhotoPool
    from imlctl.forge.shapes import Mask
    from imlctl.forge.synthesizer import Pixels, Rng

# (pixels (S, S, 3), mask (S, S), prompt, generator) -> pixels (S, S, 3)
Inpaint = Callable[["Pixels", "Mask", str, torch.Generator], "Pixels"]

PROMPTS = (
    "a photograph of the same scene without the object",
    "empty background, natural photograph",
    "a person standing there, photograph",
    "a dog, photograph",
    "a parked car, photograph",
    "a wooden chair, photograph",
    "a bunch of flowers, photograph",
    "a bird, photograph",
)
_LARGE = 1024  # side of the square for pipelines without a UNet: they are trained at this
_CONTEXT = 1.6  # side of the square that is repainted, against the mask's


class Pipeline:
    """An inpainting pipeline, and the side in pixels of the square that it repaints."""

    def __init__(self, inpaint: Inpaint, side: int) -> None:
        self.inpaint, self.side = inpaint, side


def load_pipeline(
    name: str,
    *,
    revision: str | None = None,
    device: torch.device,
    steps: int = 30,
    side: int | None = None,
) -> Pipeline:
    """Load an inpainting pipeline, an id on the Hub or a folder; `side` is what it was trained at.

    Raises:
        UsageError: The extra is not installed.
        WeightsError: The pipeline cannot be fetched or read.
    """
    try:
        from diffusers import AutoPipelineForInpainting
    except ImportError as error:
        raise UsageError(
            "diffusion edits need the package diffusers, which is not installed",
            source=name,
            remedy="Install it with: pip install 'imlctl[teacher]'.",
        ) from error
    try:
        with warnings.catch_warnings():  # diffusers calls the Hub's client in ways of the past
            warnings.simplefilter("ignore")
            kind: Any = AutoPipelineForInpainting
            loaded = kind.from_pretrained(
                name, revision=revision, use_safetensors=True, low_cpu_mem_usage=False
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:  # the Hub's are OSErrors
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"cannot be loaded as an inpainting pipeline ({reason})",
            source=name,
            remedy="Check its name and revision, the network, HF_ENDPOINT and HF_HUB_OFFLINE.",
        ) from error
    loaded = loaded.to(device)
    loaded.set_progress_bar_config(disable=True)
    if side is None:
        unet = getattr(loaded, "unet", None)
        side = int(unet.config.sample_size * loaded.vae_scale_factor) if unet else _LARGE

    def inpaint(pixels: Pixels, mask: Mask, prompt: str, chance: torch.Generator) -> Pixels:
        with torch.inference_mode():
            made = loaded(
                prompt=prompt,
                image=Image.fromarray(pixels),
                mask_image=Image.fromarray(mask.astype(np.uint8) * 255),
                height=side,
                width=side,
                num_inference_steps=steps,
                generator=chance,
            )
        return np.asarray(made.images[0].convert("RGB"))

    return Pipeline(inpaint, side)


def read_prompts(path: Path | None) -> tuple[str, ...]:
    """Read prompts, one a line; our own without a file.

    Raises:
        ConfigError: The file cannot be read, or is empty.
    """
    if path is None:
        return PROMPTS
    try:
        lines = tuple(filter(None, map(str.strip, path.read_text("utf-8").splitlines())))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read as text ({error})", source=str(path)) from error
    if not lines:
        raise ConfigError("holds no prompts", source=str(path))
    return lines


class DiffusionEdits:
    """Makes edited photograph number i, always the same one on one device.

    Outlined objects of the pool are what is repainted, where there are any; of the prompts one is
    drawn for each picture.
    """

    def __init__(
        self,
        pool: PhotoPool,
        pipeline: Pipeline,
        *,
        prompts: Sequence[str] = PROMPTS,
        seed: int = 0,
    ) -> None:
        self.pool, self.pipeline, self.prompts, self.seed = pool, pipeline, prompts, seed

    def __call__(self, index: int) -> Sample:
        """Make edit `index`: a whole photograph, and the mask of what was repainted."""
        rng = np.random.default_rng((self.seed, index))
        number = int(rng.integers(len(self.pool)))
        photo = self.pool.photos[number]
        mask = self._mask(number, photo.shape[:2], rng)
        prompt = self.prompts[int(rng.integers(len(self.prompts)))]
        chance = torch.Generator("cpu").manual_seed(int(rng.integers(2**62)))
        pixels = self._edit(photo, mask, prompt, chance, float(rng.choice((0.0, 1.0, 2.0))))
        return Sample(pixels, mask, "diffusion", (self.pool.names[number],))

    def _mask(self, number: int, shape: tuple[int, ...], rng: Rng) -> Mask:
        outlines = self.pool.objects.get(number, ())
        if outlines:
            return outlines[rng.integers(len(outlines))]
        return random_mask(rng, shape[0], shape[1])

    def _edit(
        self, photo: Pixels, mask: Mask, prompt: str, chance: torch.Generator, sigma: float
    ) -> Pixels:
        window = _window(mask, self.pipeline.side)
        square, hole = photo[window], mask[window]
        height, width = hole.shape
        side = self.pipeline.side
        small = history.resize(square, side, side)
        marked = history.resize(hole.astype(np.uint8) * 255, side, side) > 0
        made = self.pipeline.inpaint(small, marked, prompt, chance)
        made = history.resize(np.ascontiguousarray(made), height, width)
        # Softened inwards only: outside the mask not a pixel may differ.
        alpha = feather(hole, sigma) * hole
        edited = photo.copy()
        edited[window] = blend(square, made, alpha)
        return edited


def _window(mask: Mask, side: int) -> tuple[slice, slice]:
    """A square around the mask with some context, at least `side`, within the picture."""
    ys, xs = np.nonzero(mask)
    extent = max(int(np.ptp(ys)), int(np.ptp(xs))) + 1
    wanted = max(side, round(extent * _CONTEXT))
    slices = []
    for centre, size in zip(
        ((ys.min() + ys.max()) // 2, (xs.min() + xs.max()) // 2), mask.shape, strict=True
    ):
        length = min(wanted, size)
        start = int(np.clip(centre - length // 2, 0, size - length))
        slices.append(slice(start, start + length))
    return slices[0], slices[1]
