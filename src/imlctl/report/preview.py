"""Previews for a report: photograph and map made small, and crops at full size."""

from __future__ import annotations

import io
import itertools
import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imlctl.image.facts import eight_bit
from imlctl.mask.decide import check_probability
from imlctl.mask.render import heated, marked

if TYPE_CHECKING:
    Pixels = NDArray[np.unsignedinteger[Any]]  # (H, W, 3) uint8 or uint16, upright
    Map = NDArray[np.floating[Any]]  # (H, W) in [0, 1]
    Box = tuple[int, int, int, int]  # left, top, width, height in pixels

PHOTO_SIDE = 640  # pixels of the longer side
FOUND_SIDE = 1024  # of a picture with a finding
MAP_SIDE = 256
CROP_SIDE = 640  # of the crop of a region, at full size where the region allows it
CROPS = 4  # regions that are shown so, the largest ones
STEPS = 100  # of the share curve
_MAP_SHARE = MAP_SIDE / PHOTO_SIDE
_QUALITY = 78
_STRIP_PIXELS = 1 << 20


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of a picture, at full size unless it is larger than a crop may be."""

    box: Box  # in the upright picture
    photo: bytes  # JPEG
    soft: bytes  # PNG of the map, as in a preview


@dataclass(frozen=True, slots=True)
class Preview:
    """Preview of one picture; some tens of kilobytes, or hundreds with a finding."""

    photo: bytes  # JPEG, upright, for the eye only
    # The map, an 8-bit grey PNG, 255 for probability 1. A pixel of a smaller one holds the highest
    # probability of those it stands for: nothing marked is lost.
    soft: bytes
    curve: tuple[float, ...]  # share of the picture's pixels at p >= 0, 0.01, ... 1
    crops: tuple[Crop, ...] = ()  # of its largest regions
    views: tuple[tuple[str, bytes], ...] = ()  # names and JPEGs, see `image.views`

    def packed(self) -> bytes:
        """Return all of it as one archive (ZIP, nothing compressed again), for a ledger."""
        about = {
            "curve": self.curve,
            "crops": [crop.box for crop in self.crops],
            "views": [name for name, _ in self.views],
        }
        parts = {"preview.json": json.dumps(about).encode()}
        parts |= {"p.jpg": self.photo, "m.png": self.soft}
        for number, crop in enumerate(self.crops):
            parts |= {f"p{number}.jpg": crop.photo, f"m{number}.png": crop.soft}
        parts |= {f"v{number}.jpg": data for number, (_, data) in enumerate(self.views)}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in parts.items():
                # Without a date, so that the bytes are the same each time.
                archive.writestr(zipfile.ZipInfo(name), data)
        return buffer.getvalue()

    @classmethod
    def unpacked(cls, data: bytes) -> Preview:
        """Read what `packed` returned."""
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            about, read = json.loads(archive.read("preview.json")), archive.read
            crops = tuple(
                Crop(tuple(box), read(f"p{number}.jpg"), read(f"m{number}.png"))
                for number, box in enumerate(about["crops"])
            )
            views = tuple((name, read(f"v{n}.jpg")) for n, name in enumerate(about["views"]))
            return cls(read("p.jpg"), read("m.png"), tuple(about["curve"]), crops, views)

    @property
    def size(self) -> int:
        """Bytes of all its pictures."""
        crops = sum(len(crop.photo) + len(crop.soft) for crop in self.crops)
        return len(self.photo) + len(self.soft) + crops + sum(len(data) for _, data in self.views)


def make_preview(
    pixels: Pixels,
    probability: Map,
    *,
    side: int = PHOTO_SIDE,
    boxes: Sequence[Box] = (),
    views: Iterable[tuple[str, NDArray[np.uint8]]] = (),
) -> Preview:
    """Make the preview of an upright picture, of `side` pixels at most on the longer side.

    The first `boxes` are shown at full size, and `views` beside it, (H, W, 3) uint8 by name.
    NumericalError for a map not in [0, 1].
    """
    check_probability(probability)
    return Preview(
        photo=photo_jpeg(pixels, side),
        soft=small_map_png(probability, round(side * _MAP_SHARE)),
        curve=share_curve(probability),
        crops=tuple(_crop(pixels, probability, box) for box in boxes[:CROPS]),
        views=tuple((name, photo_jpeg(view, FOUND_SIDE)) for name, view in views),
    )


def _crop(pixels: Pixels, probability: Map, box: Box) -> Crop:
    """Cut a region out with what surrounds it, a crop's side of it if the picture is as large."""
    (left, width), (top, height) = (
        _widened(*side) for side in zip(box[:2], box[2:], probability.shape[::-1], strict=True)
    )
    part = np.s_[top : top + height, left : left + width]
    soft = small_map_png(probability[part], CROP_SIDE // 2)
    return Crop((left, top, width, height), photo_jpeg(pixels[part], CROP_SIDE), soft)


def _widened(start: int, length: int, whole: int) -> tuple[int, int]:
    """Return start and length of a side of a crop around a side of a region."""
    wanted = min(whole, max(CROP_SIDE, round(1.2 * length)))
    return min(max(0, start + (length - wanted) // 2), whole - wanted), wanted


def figures(preview: Preview, threshold: float, crops: Sequence[int] = ()) -> list[bytes]:
    """Draw JPEGs for paper: a preview with its marks, with its map in colour; crops, outlined."""
    photo, levels = _decoded(preview.photo, preview.soft)
    least = max(1, round(threshold * 255))
    drawn = [marked(photo, levels >= least), heated(photo, levels, levels >= least)]
    for number in crops:  # from 1 on
        crop = preview.crops[number - 1]
        photo, levels = _decoded(crop.photo, crop.soft)
        drawn.append(marked(photo, levels >= least, tint=False))
    return [_jpeg(Image.fromarray(each)) for each in drawn]


def _decoded(photo: bytes, soft: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    with Image.open(io.BytesIO(photo), formats=["JPEG"]) as image:
        pixels = np.array(image.convert("RGB"))
    with Image.open(io.BytesIO(soft), formats=["PNG"]) as image:
        small = image.convert("L")
        return pixels, np.array(small.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR))


def photo_jpeg(pixels: Pixels, side: int = PHOTO_SIDE) -> bytes:
    """Encode a picture as JPEG whose longer side is at most `side` pixels."""
    height, width = _fitted(pixels.shape[0], pixels.shape[1], side)
    small = np.ascontiguousarray(pixels)
    if (height, width) != pixels.shape[:2]:
        small = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA))
    return _jpeg(Image.fromarray(eight_bit(small)))


def small_map_png(probability: Map, side: int = MAP_SIDE) -> bytes:
    """Encode a map as 8-bit grey PNG whose longer side is at most `side` pixels."""
    height, width = probability.shape
    rows, columns = _fitted(height, width, side)
    tops = np.linspace(0, height, rows + 1).astype(int)[:-1]
    lefts = np.linspace(0, width, columns + 1).astype(int)[:-1]
    highest = np.maximum.reduceat(np.maximum.reduceat(probability, tops, axis=0), lefts, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(highest * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def share_curve(probability: Map) -> tuple[float, ...]:
    """Return the share of pixels with a probability of at least 0, 0.01, ... 1."""
    counts = np.zeros(STEPS + 1, np.int64)
    for rows in np.array_split(probability, -(-probability.size // _STRIP_PIXELS)):
        counts += np.bincount((rows * STEPS).astype(np.uint8).ravel(), minlength=STEPS + 1)
    shares = counts[::-1].cumsum()[::-1] / probability.size
    return tuple(np.round(shares, 7).tolist())


def shrunk(preview: Preview, side: int, *, extras: float = math.inf) -> Preview:
    """Reduce photograph and map until the longer side is at most `side`.

    Crops and views that do not fit into `extras` bytes are left out.
    """
    costs = [len(crop.photo) + len(crop.soft) for crop in preview.crops]
    costs += [len(data) for _, data in preview.views]
    fit = sum(cost <= extras for cost in itertools.accumulate(costs))  # the first so many
    crops, views = preview.crops[:fit], preview.views[: max(0, fit - len(preview.crops))]
    if fit < len(costs):
        preview = replace(preview, crops=crops, views=views)
    with Image.open(io.BytesIO(preview.photo), formats=["JPEG"]) as photo:
        if max(photo.size) <= side:
            return preview
        photo.draft("RGB", (side, side))
        photo.thumbnail((side, side), reducing_gap=2)
        small = _jpeg(photo.convert("RGB"))
    with Image.open(io.BytesIO(preview.soft), formats=["PNG"]) as levels:
        soft = small_map_png(np.asarray(levels, np.float32) / 255, round(side * _MAP_SHARE))
    return replace(preview, photo=small, soft=soft)


def _fitted(height: int, width: int, side: int) -> tuple[int, int]:
    """Return height and width reduced to a longer side of at most `side`, never enlarged."""
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
