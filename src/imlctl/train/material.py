"""Samples that a run learns from and is judged on, a digest of both, and samples to look at."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imlctl.errors import ConfigError
from imlctl.forge.photos import PhotoPool, add_regenerated, list_photos, load_pool, read_pixels
from imlctl.forge.synthesizer import Maker, Sample, Synthesizer
from imlctl.train.checkpoint import Report, as_json
from imlctl.train.real_samples import Mixture, RealSamples, load_entries

if TYPE_CHECKING:
    from imlctl.data.manifest import Entry
    from imlctl.train.config import TrainConfig

_VALIDATION_SEED = 1_000_003  # never a training seed: those are small numbers people choose
_CALIBRATED_ON = 200  # authentic pictures of a manifest
# Keys that say where things are, or how fast they are read; not what comes out.
_PLACES = {
    "data": ("photos", "objects", "autoencoder", "cache", "workers"),
    "validation": ("folder",),
    "diffusion": ("vae", "backbone"),
}
_COLUMNS = 8
_CAPTION, _LEAST_WIDTH = 18, 140  # pixels that the longest caption takes
_OUTLINE = ((0, 0, 0), (255, 220, 0))  # dark under bright: visible on any ground


def require_sources(config: TrainConfig) -> None:
    """Make sure that all that a preset names is there; ConfigError says how to get the rest."""
    missing = tuple(dict.fromkeys(_missing(config)))
    if missing:
        what = "the preset names files or folders that do not exist"
        change = "Change each key in the preset, or with --set KEY=VALUE"
        remedy = f"{change}; an empty value leaves it out."
        raise ConfigError(what, remedy=remedy, details=missing)


def _missing(config: TrainConfig) -> Iterator[str]:
    """Yield a line for each key that names something that is not there, and how to get it."""
    data, diffusion = config.data, config.diffusion
    photos = "name one with photographs of your own, such as --set data.photos=Pictures"
    objects = "a folder of object masks, <photograph>__<number>.png"
    autoencoder = (
        "a folder with taef2_encoder.safetensors and taef2_decoder.safetensors"
        " (github.com/madebyollin/taesd); without it, regions that a generator would fill"
        " become splices"
    )
    sets = (
        "a folder of sets, each with tampered, masks and authentic; without it only synthetic"
        " samples are looked at"
    )
    folders = [("data.photos", f, photos) for f in data.photos if _synthesizes(config)]
    for key, folder, about in (
        ("data.objects", data.objects, objects),
        ("data.autoencoder", data.autoencoder, autoencoder),
        ("validation.folder", config.validation.folder, sets),
    ):
        if folder is not None:
            folders.append((key, folder, f"{about}. Leave it out with --set {key}="))
    semantics = (
        "EfficientNet-Lite0, by imlctl weights convert. Leave it out to take that of the bundled"
        " weights: --set semantics="
    )
    files = [("semantics", config.semantics, semantics)]
    if diffusion is not None:
        vae, name, path = diffusion.vae, diffusion.encoder, diffusion.backbone
        fetched = f"imlctl weights pull {name}, then imlctl weights convert FILE {path}"
        files.append(("diffusion.vae", vae, f"imlctl distill distill -o {vae.parent}"))
        files.append(("diffusion.backbone", path, fetched))
    for source in data.real.sources if data.real else ():
        listed = source.manifest
        files.append(("manifest", listed, f"imlctl data index FOLDER -o {listed}"))
    yield from (f"{k}: no folder {p}; {about}" for k, p, about in folders if not p.is_dir())
    yield from (f"{k}: no file {p}; {about}" for k, p, about in files if p and not p.is_file())


def _synthesizes(config: TrainConfig) -> bool:
    real = config.data.real
    return bool(config.data.photos) and not (real and real.share == 1)


@dataclass(frozen=True, slots=True)
class Material:
    """Samples and photographs of a run; None where there are none."""

    training: Maker  # makes samples to learn from
    judge: Maker | None  # makes held-out synthetic samples
    real_judge: Maker | None  # makes samples of held-out real forgeries
    photos: PhotoPool | None  # photographs that samples are made of
    held: PhotoPool | None  # authentic photographs never trained on
    digest: str  # of the names of everything learned from


def load_material(config: TrainConfig, report: Report) -> Material:
    """Read all splits; ConfigError where one has nothing usable."""
    data, optim = config.data, config.optim
    if data.photos and not data.validation_share and config.validation.synthetic:
        what = "validation_share = 0 leaves no photographs to validate on"
        remedy = "Set validation_share, or validation.synthetic = 0 to train without validation."
        raise ConfigError(what, source="data", remedy=remedy)
    makers: list[Maker] = []  # synthetic samples first
    names: list[str] = []
    pool, judge, held, real_judge = None, None, None, None
    if _synthesizes(config):
        pool = load_split(config, validation=False, report=report)
        names += [f"{n} {p.shape}" for n, p in zip(pool.names, pool.photos, strict=True)]
        makers.append(synthesizer(config, pool, optim.seed))
        if data.validation_share:
            held = load_split(config, validation=True, report=report)
            judge = synthesizer(config, held, _VALIDATION_SEED)
    if data.real is not None:
        sets, looked_at = (load_entries(data.real, kind) for kind in ("train", "validation"))
        names += [f"{e.set} {e.sha256 or e.image.name}" for _, each in sets for e in each]
        how = {"size": optim.size, "per_epoch": data.real.per_epoch}
        makers.append(RealSamples(sets, **how, seed=optim.seed))
        if looked_at:
            real_judge = RealSamples(looked_at, size=optim.size, seed=_VALIDATION_SEED)
            held = held or _authentic(e for _, each in looked_at for e in each)
        if len(makers) == 2:
            makers = [Mixture(makers[0], makers[1], data.real.share)]
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    return Material(makers[0], judge, real_judge, pool, held, digest)


def synthesizer(config: TrainConfig, pool: PhotoPool, seed: int) -> Synthesizer:
    """Make forgeries as the preset says, from photographs of a split."""
    size, originals = config.optim.size, config.data.originals
    return Synthesizer(pool, size=size, mix=config.mix, seed=seed, originals=originals)


def _authentic(entries: Iterable[Entry]) -> PhotoPool | None:
    """Authentic pictures of the validation split, to calibrate on."""
    paths = [e.image for e in entries if e.mask is None][:_CALIBRATED_ON]
    photos = tuple(read_pixels(path)[0] for path in paths)
    return PhotoPool(tuple(map(str, paths)), photos, {}, {}) if paths else None


def load_split(
    config: TrainConfig, *, validation: bool, report: Report = lambda _: None
) -> PhotoPool:
    """Load a split's photographs, regenerated ones included; ConfigError where none is usable."""
    data = config.data
    share, objects = data.validation_share, data.objects
    pool = load_pool(data.photos, objects=objects, validation=validation, validation_share=share)
    if not len(pool):
        found = len(list_photos(data.photos))
        purpose = "held out for validation" if validation else "left to train on"
        left_out = f"; left out: {pool.skipped[0]}" if pool.skipped else ""
        what = f"of {found} photographs, none is {purpose}{left_out}"
        remedy = "Add photographs, or hold out another share: --set data.validation_share=0.3."
        raise ConfigError(what, source=", ".join(map(str, data.photos)), remedy=remedy)
    for line in pool.skipped:
        report({"event": "skipped", "what": line})
    if data.autoencoder is None:
        return pool
    return add_regenerated(
        pool,
        data.autoencoder,
        data.cache,
        limit=round(data.regenerated * (share if validation else 1)),
        report=lambda done, total: report({"event": "regenerated", "done": done, "total": total}),
    )


def decisive(config: TrainConfig, digest: str) -> dict[str, Any]:
    """Return what of a configuration decides the result; the digest is of what its paths hold."""
    settings = as_json(config)
    for table, keys in _PLACES.items():
        for key in keys:
            if settings[table]:
                settings[table].pop(key)
    for source in (settings["data"]["real"] or {}).get("sources", ()):
        source.pop("manifest")
    for key in ("init", "semantics"):
        settings.pop(key)
    return settings | {"pictures": digest}


def contact_sheet(config: TrainConfig, *, start: int, count: int) -> bytes:
    """Draw samples `start` to `start + count` as a PNG."""
    make = synthesizer(config, load_split(config, validation=False), config.optim.seed)
    tiles = [_tile(make(index)) for index in range(start, start + count)]
    width, height = tiles[0].size
    sheet = Image.new("RGB", (_COLUMNS * width, -(-count // _COLUMNS) * height), "white")
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % _COLUMNS * width, place // _COLUMNS * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _tile(sample: Sample) -> Image.Image:
    """One sample with its mask outlined and its kind named below."""
    canvas = sample.pixels.copy()
    mask = sample.mask.astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for colour, width in zip(_OUTLINE, (3, 1), strict=True):
        cv2.drawContours(canvas, contours, -1, colour, width)
    side = sample.side or max(mask.shape)
    tile = Image.new("RGB", (max(side, _LEAST_WIDTH), side + _CAPTION), "white")
    tile.paste(Image.fromarray(canvas), (0, 0))
    text = f"{sample.kind.replace('_', '-')}, {100 * sample.mask.mean():.1f} %"
    ImageDraw.Draw(tile).text((4, side + 2), text, "black", ImageFont.load_default(12))
    return tile
