"""Forgeries on disk: pictures, masks and a manifest, in parts that can be stopped and gone on with.

The same photographs, seed and number give the same picture bit for bit, whichever part makes it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from imlctl import atomic
from imlctl.data.manifest import Entry, write_manifest
from imlctl.data.masks import mask_png
from imlctl.errors import ConfigError
from imlctl.forge.synthesizer import Mix, Synthesizer

if TYPE_CHECKING:
    from imlctl.forge.photos import PhotoPool
    from imlctl.forge.synthesizer import Maker

KINDS = tuple(f.name for f in fields(Mix))


def make_maker(pool: PhotoPool, kind: str, *, size: int, mix: Mix, seed: int) -> Maker:
    """Make samples of one of `KINDS`, or ``mixed`` as `mix` says.

    Raises a `ConfigError` if there is no such kind, or no photographs to make it from.
    """
    if kind != "mixed" and kind not in KINDS:
        what, remedy = f"unknown kind of forgery {kind!r}", f"Known: mixed, {', '.join(KINDS)}."
        raise ConfigError(what, source="--kind", remedy=remedy)
    if kind == "regenerated" and not pool.regenerated:
        what = "regenerated pictures need an autoencoder"
        remedy = "Name one as data.autoencoder in the preset."
        raise ConfigError(what, source="--kind", remedy=remedy)
    only = mix if kind == "mixed" else Mix(**{each: float(each == kind) for each in KINDS})
    return Synthesizer(pool, size=size, mix=only, seed=seed)


def synthesize(
    make: Maker,
    count: int,  # pictures in all parts together
    out: Path,
    *,
    name: str,  # of the set, in the manifest
    split: str = "train",
    part: int = 1,  # from 1: makes the numbers n with n % parts = part - 1
    parts: int = 1,
    report: Callable[[], object] = lambda: None,  # called after each picture
) -> Path:
    """Write one part of a set, as a folder of ``images`` and ``masks``; return its manifest.

    A picture that is there is complete, since it is written after its mask, and not made again.
    Raises an `OutputError` if something cannot be written.
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
