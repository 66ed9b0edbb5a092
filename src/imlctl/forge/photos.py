"""The photographs that forgeries are made from, decoded once and held in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from imlctl.data.folders import SUFFIXES
from imlctl.data.manifest import share_of
from imlctl.errors import ConfigError, InputError
from imlctl.image.decode import read

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imlctl.forge import Mask, Pixels

_MIN_SIDE = 128


@dataclass(frozen=True, slots=True, eq=False)
class PhotoPool:
    """Decoded photographs, and the objects outlined in some of them.

    Attributes:
        names: Path of each photograph, relative to its folder.
        photos: (H, W, 3) uint8 each, stored orientation.
        objects: For some indices, boolean masks of single objects, (H, W) each.
        regenerated: For some indices, the photograph after a trip through an autoencoder.
        skipped: What could not be used, and why.
    """

    names: tuple[str, ...]
    photos: tuple[Pixels, ...]
    objects: dict[int, tuple[Mask, ...]]
    regenerated: dict[int, Pixels]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.photos)

    def at_least(self, side: int) -> PhotoPool:
        """Photographs of which a square of `side` pixels can be cut; all, if there is none."""
        chosen = [i for i, photo in enumerate(self.photos) if min(photo.shape[:2]) >= side]
        return (
            PhotoPool(
                tuple(self.names[i] for i in chosen),
                tuple(self.photos[i] for i in chosen),
                {n: self.objects[i] for n, i in enumerate(chosen) if i in self.objects},
                {n: self.regenerated[i] for n, i in enumerate(chosen) if i in self.regenerated},
            )
            if chosen
            else self
        )


def list_photos(folders: Sequence[Path]) -> list[tuple[Path, str]]:
    """Every photograph under the folders, sorted, each with its name relative to its folder.

    Raises:
        ConfigError: A folder does not exist, or no photograph was found.
    """
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(
                "no such folder of photographs", source=str(folder), remedy="Correct [data] photos."
            )
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        found += [(path, path.relative_to(folder).as_posix()) for path in paths]
    if not found:
        raise ConfigError("no photographs found", source=", ".join(map(str, folders)))
    return found


def read_pixels(path: Path) -> tuple[Pixels, int]:
    """Read a picture as it is stored, in 8 bits, (H, W, 3), and its EXIF orientation."""
    photo = read(path)
    pixels = photo.pixels if photo.pixels.dtype == np.uint8 else photo.pixels >> 8
    return pixels.astype(np.uint8, copy=False), photo.facts.orientation


def load_pool(
    folders: Sequence[Path],
    *,
    objects: Path | None = None,
    validation: bool = False,
    validation_share: float = 0.1,
) -> PhotoPool:
    """Decode the photographs of one split.

    A photograph's name alone decides whether it is held out, so that none ever changes sides.

    Args:
        folders: Searched through.
        objects: Folder of object masks named ``<stem of the photograph>__<id>.png``.
        validation: Load the held-out photographs instead of the others.
        validation_share: Share of the photographs that is held out.
    """
    names: list[str] = []
    photos: list[Pixels] = []
    skipped: list[str] = []
    outlines: dict[int, tuple[Mask, ...]] = {}
    by_stem = _objects_by_stem(objects)
    for path, name in list_photos(folders):
        if (share_of(name) < validation_share) is not validation:
            continue
        try:
            pixels, _ = read_pixels(path)
        except InputError as error:
            skipped.append(str(error))
            continue
        if min(pixels.shape[:2]) < _MIN_SIDE:
            skipped.append(f"{path}: smaller than {_MIN_SIDE} pixels")
            continue
        masks = []
        for outline in by_stem.get(path.stem, []):
            try:
                with Image.open(outline) as image:
                    mask = np.asarray(image.convert("L")) > 127
            except (OSError, SyntaxError) as error:  # Pillow raises the latter for a broken PNG
                skipped.append(f"{outline}: not a readable mask ({error})")
                continue
            if mask.shape == pixels.shape[:2] and mask.any():
                masks.append(mask)
        if masks:
            outlines[len(photos)] = tuple(masks)
        names.append(name)
        photos.append(pixels)
    return PhotoPool(tuple(names), tuple(photos), outlines, {}, tuple(skipped))


def _objects_by_stem(folder: Path | None) -> dict[str, list[Path]]:
    grouped: dict[str, list[Path]] = {}
    if folder is not None and not folder.is_dir():
        raise ConfigError(
            "no such folder of object masks", source=str(folder), remedy="Correct [data] objects."
        )
    for path in sorted(folder.glob("*__*.png")) if folder else ():
        grouped.setdefault(path.stem.rsplit("__", 1)[0], []).append(path)
    return grouped
