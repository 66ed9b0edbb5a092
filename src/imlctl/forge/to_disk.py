"""Forgeries on disk: pictures, masks and a manifest, in parts that can be stopped and gone on with.

The same photographs, seed and number give the same picture bit for bit, whichever part makes it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from PIL import Image

from imlctl import atomic
from imlctl.data.manifest import Entry, write_manifest
from imlctl.data.masks import mask_png
from imlctl.errors import ConfigError
from imlctl.forge.synthesizer import Mix, Synthesizer

if TYPE_CHECKING:
    from pathlib import Path

    from imlctl.forge.photos import PhotoPool
    from imlctl.forge.synthesizer import Maker

Report = Callable[[int, int], None]

KINDS = tuple(f.name for f in fields(Mix))


@dataclass(frozen=True, slots=True)
class Order:
    """Order for pictures, or for a part of them.

    Attributes:
        count: Pictures in all parts together.
        kind: One of `KINDS`, or ``mixed`` for the preset's own mix.
        split: Split of the manifest's entries.
        part: Which part to make, from 1.
        parts: How many there are; part p makes the numbers n with n % parts = p - 1.
    """

    count: int
    kind: str = "mixed"
    split: str = "train"
    part: int = 1
    parts: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or not 1 <= self.part <= self.parts:
            raise ValueError("count must be positive, and part one of 1 to parts")

    @property
    def numbers(self) -> range:
        """Numbers of the pictures of this part."""
        return range(self.part - 1, self.count, self.parts)

    @property
    def manifest(self) -> str:
        """Name of this part's manifest."""
        return "manifest.csv" if self.parts == 1 else f"manifest-{self.part}-of-{self.parts}.csv"


def make_maker(pool: PhotoPool, order: Order, *, size: int, mix: Mix, seed: int) -> Maker:
    """Make samples of the kind that is asked for.

    Raises:
        ConfigError: There is no such kind, or no regenerated photographs to make it from.
    """
    if order.kind == "mixed":
        return Synthesizer(pool, size=size, mix=mix, seed=seed)
    if order.kind not in KINDS:
        raise ConfigError(
            f"unknown kind of forgery {order.kind!r}",
            source="--kind",
            remedy=f"Known: mixed, {', '.join(KINDS)}.",
        )
    if order.kind == "regenerated" and not pool.regenerated:
        raise ConfigError(
            "regenerated pictures need an autoencoder",
            source="--kind",
            remedy="Name one as data.autoencoder in the preset.",
        )
    only = Mix(**{kind: float(kind == order.kind) for kind in KINDS})
    return Synthesizer(pool, size=size, mix=only, seed=seed)


def synthesize(
    make: Maker, order: Order, out: Path, *, name: str, report: Report | None = None
) -> Path:
    """Write one part of a set, as a folder of ``images`` and ``masks``; return its manifest.

    A picture that is there is complete, since it is written after its mask, and not made again.

    Raises:
        OutputError: Something cannot be written.
    """
    entries = []
    for done, number in enumerate(order.numbers, 1):
        entries.append(_one(make, number, out, name, order.split))
        if report:
            report(done, len(order.numbers))
    manifest = out / order.manifest
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
