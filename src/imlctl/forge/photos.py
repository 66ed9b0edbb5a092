"""The photographs that forgeries are made from, decoded once and held in memory.

Some of them regenerated: a trip through a generator's autoencoder and back is the trace that a
latent-diffusion model's inpainting leaves. These are kept on disk, since one costs a thousand times
more than the rest of a sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from imlctl import atomic
from imlctl.data.folders import pictures
from imlctl.data.manifest import share_of
from imlctl.data.masks import read_mask
from imlctl.device import autocast
from imlctl.errors import ConfigError, InputError, WeightsError
from imlctl.forge import Mask, Pixels
from imlctl.image.decode import read
from imlctl.image.facts import eight_bit

_MIN_SIDE = 128
_LATENT = 32  # channels of taef2, and its width inside
_WIDTH = 64


@dataclass(frozen=True, slots=True, eq=False)
class PhotoPool:
    """Decoded photographs, and the objects outlined in some of them."""

    names: tuple[str, ...]  # path of each photograph, relative to its folder
    photos: tuple[Pixels, ...]  # (H, W, 3) uint8 each, stored orientation
    objects: dict[int, tuple[Mask, ...]]  # for some indices, masks of single objects, (H, W) each
    regenerated: dict[int, Pixels]  # some of the photographs after a trip through an autoencoder
    skipped: tuple[str, ...] = ()  # what could not be used, and why

    def __len__(self) -> int:
        return len(self.photos)


def list_photos(folders: Sequence[Path]) -> list[tuple[Path, str]]:
    """Every photograph under the folders but hidden ones, sorted, with its name in its folder.

    Raises a `ConfigError` if a folder does not exist, or no photograph was found.
    """
    found = []
    for folder in folders:
        _refuse_absent(folder, "photographs", "photos")
        paths = pictures(folder, deep=True)
        found += [(path, path.relative_to(folder).as_posix()) for path in paths]
    if not found:
        raise ConfigError("no photographs found", source=", ".join(map(str, folders)))
    return found


def read_pixels(path: Path) -> tuple[Pixels, int]:
    """Read a picture as it is stored, in 8 bits, (H, W, 3), and its EXIF orientation."""
    photo = read(path)
    return eight_bit(photo.pixels), photo.facts.orientation


def load_pool(
    folders: Sequence[Path],
    *,
    objects: Path | None = None,
    validation: bool = False,
    validation_share: float = 0.1,
) -> PhotoPool:
    """Decode the photographs of one split: those held out for validation, or the others.

    A photograph's name alone decides whether it is held out, so that none ever changes sides.
    `objects` is a folder of object masks named ``<stem of the photograph>__<id>.png``.
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
        for outline in by_stem.get(path.stem, []):
            try:
                mask = read_mask(outline)
            except InputError as error:
                skipped.append(str(error))
                continue
            if mask.shape == pixels.shape[:2] and mask.any():
                outlines[len(photos)] = (*outlines.get(len(photos), ()), mask)
        names.append(name)
        photos.append(pixels)
    return PhotoPool(tuple(names), tuple(photos), outlines, {}, tuple(skipped))


def _objects_by_stem(folder: Path | None) -> dict[str, list[Path]]:
    grouped: dict[str, list[Path]] = {}
    if folder is not None:
        _refuse_absent(folder, "object masks", "objects")
        for path in sorted(folder.glob("*__*.png")):
            grouped.setdefault(path.stem.rsplit("__", 1)[0], []).append(path)
    return grouped


def _refuse_absent(folder: Path, of: str, key: str) -> None:
    if not folder.is_dir():
        what, remedy = f"no such folder of {of}", f"Correct [data] {key}."
        raise ConfigError(what, source=str(folder), remedy=remedy)


def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)


class _Block(nn.Module):
    def __init__(self, pool: bool = False) -> None:
        super().__init__()
        n, wide = _WIDTH, 4 * _WIDTH
        self.conv = nn.Sequential(_conv(n, n), nn.ReLU(), _conv(n, n), nn.ReLU(), _conv(n, n))
        self.pool = None
        if pool:
            before, after = nn.Conv2d(n, wide, 1, bias=False), nn.Conv2d(wide, n, 1, bias=False)
            self.pool = nn.Sequential(before, nn.GroupNorm(4, wide), nn.ReLU(), after)

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class TinyAutoencoder(nn.Module):
    """The TAESD family's autoencoder for 32 latent channels (taef2): 8x down and up."""

    def __init__(self) -> None:
        super().__init__()
        n = _WIDTH
        down: list[nn.Module] = [_conv(3, n), _Block()]
        for pool in (False, False, True):
            down += [_conv(n, n, stride=2, bias=False), *(_Block(pool) for _ in range(3))]
        self.encoder = nn.Sequential(*down, _conv(n, _LATENT))
        up: list[nn.Module] = [_Clamp(), _conv(_LATENT, n), nn.ReLU()]
        for pool in (True, False, False):
            up += (_Block(pool) for _ in range(3))
            up += [nn.Upsample(scale_factor=2), _conv(n, n, bias=False)]
        self.decoder = nn.Sequential(*up, _Block(), _conv(n, 3))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to the same; H and W multiples of 8."""
        out: Tensor = self.decoder(self.encoder(image))
        return out.clamp(0, 1)


def load_autoencoder(folder: Path) -> tuple[TinyAutoencoder, str]:
    """Load ``*_encoder.safetensors`` and ``*_decoder.safetensors``; also return their short hash.

    Raises:
        ConfigError: The folder does not hold exactly one of each.
        WeightsError: The files are not in the layout of taef2.
    """
    model, digest = TinyAutoencoder(), hashlib.sha256()
    for part in ("encoder", "decoder"):
        paths = sorted(folder.glob(f"*_{part}.safetensors"))
        if len(paths) != 1:
            what = f"expected one *_{part}.safetensors, found {len(paths)}"
            raise ConfigError(what, source=str(folder))
        digest.update(paths[0].read_bytes())
        try:
            state = {k.removeprefix(f"{part}."): v.float() for k, v in load_file(paths[0]).items()}
            getattr(model, part).load_state_dict(state)
        except (SafetensorError, RuntimeError) as error:
            what = f"not a tiny autoencoder in the layout of taef2: {error}"
            raise WeightsError(what, source=str(paths[0])) from error
    return model.eval().to(memory_format=torch.channels_last), digest.hexdigest()[:12]  # type: ignore[call-overload]


def add_regenerated(
    pool: PhotoPool,
    autoencoder: Path,
    cache: Path,
    *,
    limit: int,
    report: Callable[[int, int], None] | None = None,
) -> PhotoPool:
    """Return the pool with up to `limit` of its photographs regenerated, through the cache."""
    model, name = load_autoencoder(autoencoder)
    folder = cache / f"regenerated-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    chosen = np.unique(np.linspace(0, len(pool) - 1, min(limit, len(pool))).astype(int)).tolist()
    done = {}
    for count, index in enumerate(chosen):
        pixels = pool.photos[index]
        path = folder / f"{hashlib.sha256(pixels.tobytes()).hexdigest()[:24]}.png"
        if not path.exists():
            with atomic.opened(path, overwrite=True) as file:
                Image.fromarray(autoencode(model, pixels)).save(file, "PNG", compress_level=3)
        with Image.open(path) as image:
            done[index] = np.asarray(image)
        if report:
            report(count + 1, len(chosen))
    return replace(pool, regenerated=done)


@torch.inference_mode()
def autoencode(model: TinyAutoencoder, pixels: Pixels) -> Pixels:
    """Encode and decode one photograph, (H, W, 3) uint8 to the same."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="reflect")
    image = torch.from_numpy(padded).permute(2, 0, 1)[None].float().div_(255)
    with autocast(image.device, "bfloat16"):
        out = model(image.contiguous(memory_format=torch.channels_last))[0].float()
    levels = out.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(levels[:height, :width])
