"""Forgeries on disk: pictures, masks and a manifest, in parts that can be stopped and gone on with.

The same photographs, seed and number give the same picture bit for bit, whichever part makes it.
Besides the kinds that are trained on, there are diffusion edits of whole photographs, as
EfficientIML's SIF set was made: a mask, a prompt, an inpainting pipeline of diffusers; outside the
mask every pixel stays.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from imlctl import atomic
from imlctl.data.manifest import Entry, write_manifest
from imlctl.data.masks import mask_png
from imlctl.errors import ConfigError, UsageError, WeightsError, first_line
from imlctl.forge import history
from imlctl.forge.edits import blend
from imlctl.forge.shapes import feather, random_mask
from imlctl.forge.synthesizer import Mix, Sample, Synthesizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imlctl.forge import Mask, Pixels
    from imlctl.forge.photos import PhotoPool
    from imlctl.forge.synthesizer import Maker

KINDS = tuple(f.name for f in fields(Mix))


def make_maker(pool: PhotoPool, kind: str, *, size: int, mix: Mix, seed: int) -> Maker:
    """Make samples of one of `KINDS`, or ``mixed`` as `mix` says.

    Raises:
        ConfigError: There is no such kind, or no regenerated photographs to make it from.
    """
    if kind != "mixed" and kind not in KINDS:
        raise ConfigError(
            f"unknown kind of forgery {kind!r}",
            source="--kind",
            remedy=f"Known: mixed, {', '.join(KINDS)}.",
        )
    if kind == "regenerated" and not pool.regenerated:
        raise ConfigError(
            "regenerated pictures need an autoencoder",
            source="--kind",
            remedy="Name one as data.autoencoder in the preset.",
        )
    only = mix if kind == "mixed" else Mix(**{each: float(each == kind) for each in KINDS})
    return Synthesizer(pool, size=size, mix=only, seed=seed)


def synthesize(
    make: Maker,
    count: int,
    out: Path,
    *,
    name: str,
    split: str = "train",
    part: int = 1,
    parts: int = 1,
    report: Callable[[], object] = lambda: None,
) -> Path:
    """Write one part of a set, as a folder of ``images`` and ``masks``; return its manifest.

    A picture that is there is complete, since it is written after its mask, and not made again.

    Args:
        make: Makes the pictures.
        count: Pictures in all parts together.
        out: Folder of the set.
        name: Of the set, in the manifest.
        split: Of the manifest's entries.
        part: Which part to make, from 1: the numbers n with n % parts = part - 1.
        parts: How many there are.
        report: Called after each picture.

    Raises:
        OutputError: Something cannot be written.
    """
    entries = []
    for number in range(part - 1, count, parts):
        entries.append(_one(make, number, out, name, split))
        report()
    manifest = out / ("manifest.csv" if parts == 1 else f"manifest-{part}-of-{parts}.csv")
    write_manifest(manifest, entries, overwrite=True)
    return manifest


def _one(make: Maker, number: int, out: Path, name: str, split: str) -> Entry:
    image, mask = out / "images" / f"{number:07}.png", out / "masks" / f"{number:07}.png"
    if image.exists():
        data = image.read_bytes()
    else:
        sample = make(number)
        if sample.mask.any():
            atomic.write(mask, mask_png(sample.mask), overwrite=True)
        buffer = io.BytesIO()
        Image.fromarray(sample.pixels).save(buffer, "PNG")
        data = buffer.getvalue()
        atomic.write(image, data, overwrite=True)
    digest = hashlib.sha256(data).hexdigest()
    return Entry(image, mask if mask.exists() else None, name, split, digest)


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


def load_pipeline(
    name: str, *, revision: str | None = None, device: torch.device, steps: int = 30
) -> tuple[Inpaint, int]:
    """Load an inpainting pipeline, an id on the Hub or a folder, and the side that it repaints.

    Raises:
        UsageError: The extra is not installed.
        WeightsError: The pipeline cannot be fetched or read.
    """
    how = {"revision": revision, "use_safetensors": True, "low_cpu_mem_usage": False}
    loaded = from_diffusers(
        name,
        "an inpainting pipeline",
        lambda diffusers: diffusers.AutoPipelineForInpainting.from_pretrained(name, **how),
    )
    loaded = loaded.to(device)
    loaded.set_progress_bar_config(disable=True)
    unet = getattr(loaded, "unet", None)
    side = int(unet.config.sample_size * loaded.vae_scale_factor) if unet else _LARGE

    @torch.inference_mode()
    def inpaint(pixels: Pixels, mask: Mask, prompt: str, chance: torch.Generator) -> Pixels:
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

    return inpaint, side


def from_diffusers(name: str, kind: str, load: Callable[[Any], Any]) -> Any:
    """Load something by diffusers, which `load` gets, from the Hub or a folder.

    Raises:
        UsageError: The extra is not installed.
        WeightsError: It cannot be fetched or read.
    """
    try:
        import diffusers
    except ImportError as error:
        raise UsageError(
            f"{kind} needs the package diffusers, which is not installed",
            source=name,
            remedy="Install it with: pip install 'imlctl[teacher]'.",
        ) from error
    try:
        with warnings.catch_warnings():  # diffusers calls the Hub's client in ways of the past
            warnings.simplefilter("ignore")
            return load(diffusers)
    except (OSError, ValueError, RuntimeError, KeyError) as error:  # the Hub's are OSErrors
        raise WeightsError(
            f"cannot be loaded as {kind} ({first_line(error)})",
            source=name,
            remedy="Check its name and revision, the network, HF_ENDPOINT and HF_HUB_OFFLINE.",
        ) from error


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

    `inpaint` repaints squares of `side` pixels: outlined objects of the pool, where there are any.
    Of the prompts one is drawn for each picture.
    """

    def __init__(
        self,
        pool: PhotoPool,
        inpaint: Inpaint,
        side: int,
        *,
        prompts: Sequence[str] = PROMPTS,
        seed: int = 0,
    ) -> None:
        self.pool, self.inpaint, self.side = pool, inpaint, side
        self.prompts, self.seed = prompts, seed

    def __call__(self, index: int) -> Sample:
        """Make edit `index`: a whole photograph, and the mask of what was repainted."""
        rng = np.random.default_rng((self.seed, index))
        number = int(rng.integers(len(self.pool)))
        photo, outlines = self.pool.photos[number], self.pool.objects.get(number, ())
        height, width = photo.shape[:2]
        mask = (
            outlines[rng.integers(len(outlines))] if outlines else random_mask(rng, height, width)
        )
        prompt = self.prompts[int(rng.integers(len(self.prompts)))]
        chance = torch.Generator("cpu").manual_seed(int(rng.integers(2**62)))
        window = _window(mask, self.side)
        square, hole = photo[window], mask[window]
        small = history.resize(square, self.side, self.side)
        marked = history.resize(hole.astype(np.uint8) * 255, self.side, self.side) > 0
        made = np.ascontiguousarray(self.inpaint(small, marked, prompt, chance))
        # Softened inwards only: outside the mask not a pixel may differ.
        alpha = feather(hole, float(rng.choice((0.0, 1.0, 2.0)))) * hole
        edited = photo.copy()
        edited[window] = blend(square, history.resize(made, *hole.shape), alpha)
        return Sample(edited, mask, "diffusion", (self.pool.names[number],))


def _window(mask: Mask, side: int) -> tuple[slice, slice]:
    """A square around the mask with some context, at least `side`, within the picture."""
    places = np.nonzero(mask)
    wanted = max(side, round((max(map(np.ptp, places)) + 1) * _CONTEXT))
    slices = []
    for place, size in zip(places, mask.shape, strict=True):
        length = min(wanted, size)
        centre = (place.min() + place.max()) // 2
        start = int(np.clip(centre - length // 2, 0, size - length))
        slices.append(slice(start, start + length))
    return slices[0], slices[1]
