"""Decode with Pillow, strictly: stored pixels, whole files, and every oddity noted."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from imlctl.errors import DecodeError
from imlctl.image import layout as structure
from imlctl.image.av1 import walk_avif
from imlctl.image.complete import check_jpeg, check_png
from imlctl.image.modes import to_rgb
from imlctl.image.photo import FormatFacts, check_size
from imlctl.image.png import without_profile
from imlctl.image.tiff import walk_tiff

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from imlctl.image.layout import Layout

_ORIENTATION = 0x0112  # EXIF tag
_WARNINGS = threading.Lock()  # Python keeps one set of warning filters for all threads

_WALKERS = {
    "JPEG": structure.walk_jpeg,
    "PNG": structure.walk_png,
    "GIF": structure.walk_gif,
    "BMP": structure.walk_bmp,
    "WEBP": structure.walk_webp,
    "AVIF": walk_avif,
    "TIFF": walk_tiff,
}
# `Image.open` is not used: it tries one format after another, and limits the size by a global of
# Pillow's that a library must not change. Our own limit is checked instead.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}


def decode_with_pillow(kind: str, data: bytes, max_pixels: int) -> tuple[NDArray[Any], FormatFacts]:
    """Decode a file of a kind that `identify` returned.

    Returns:
        Pixels (H, W, 3), uint8 or uint16, as stored, and what there is to record.

    Raises:
        DecodeError: The file is incomplete, or of an unsupported variety.
        TooLargeError: More pixels than `max_pixels`.
        Exception: Whatever Pillow raises for a damaged file.
    """
    layout = _WALKERS[kind](data)
    check_size(*layout.tile, max_pixels)
    if layout.size:
        check_size(*layout.size, max_pixels)
    notes: list[str] = []
    with _noting(notes):
        image = _open(kind, data)
        check_size(*image.size, max_pixels)
        if image.format == "MPO":
            layout = structure.walk_mpo(data, layout, image.n_frames)  # type: ignore[attr-defined]
        orientation = _load_tiff(image, layout, notes) if kind == "TIFF" else None
    image.load()  # outside the lock, so that threads decode at the same time
    if orientation is None:
        with _noting(notes):
            orientation = _orientation(_exif(image, notes), notes)
    if kind == "JPEG":
        check_jpeg(image, layout, data)
    elif kind == "PNG":
        check_png(image, data)
    # Pillow swaps the size of a turned TIFF whether or not it turns the pixels; a copy has theirs.
    whole = image if layout.size in {None, image.size} else image.copy()
    pixels, conversions = to_rgb(whole, layout, data)
    return pixels, _facts(image, layout, pixels, orientation, [*conversions, *notes])


def _open(kind: str, data: bytes) -> ImageFile.ImageFile:
    if kind == "JPEG":
        return JpegImagePlugin.jpeg_factory(BytesIO(data))
    if kind == "AVIF" and not features.check("avif"):
        raise DecodeError("this Pillow cannot read AVIF", remedy="Run: pip install -U pillow")
    if kind != "PNG":
        return _PLUGINS[kind](BytesIO(data))
    without = without_profile(data)
    image = PngImagePlugin.PngImageFile(BytesIO(without))
    if len(without) < len(data):
        image.info["icc_profile"] = True
    return image


def _load_tiff(image: ImageFile.ImageFile, layout: Layout, notes: list[str]) -> int:
    """Load a TIFF without letting Pillow turn it upright, and return its orientation.

    Pillow turns TIFF, and only TIFF, while loading; an orientation of 1 in its parsed metadata
    stops that. It also applies its global size limit here, unless the memory is there already.
    """
    exif = image.getexif()
    orientation = _orientation(exif, notes)
    exif[_ORIENTATION] = 1
    if layout.size:
        image.im = Image.new(image.mode, layout.size).im
    image.load()  # under the lock, because reading the last tags may warn
    return orientation


def _exif(image: ImageFile.ImageFile, notes: list[str]) -> Image.Exif:
    """Return the EXIF metadata; a picture is no worse for metadata that cannot be read."""
    try:
        return image.getexif()
    except Exception as error:
        notes.append(f"EXIF metadata cannot be read ({type(error).__name__})")
        return Image.Exif()


def _orientation(exif: Image.Exif, notes: list[str]) -> int:
    value = exif.get(_ORIENTATION, 1)
    if isinstance(value, int) and 1 <= value <= 8:
        return value
    notes.append(f"invalid EXIF orientation {str(value)[:20]!r} taken for 1")
    return 1


def _facts(
    image: ImageFile.ImageFile,
    layout: Layout,
    pixels: NDArray[Any],
    orientation: int,
    oddities: list[str],
) -> FormatFacts:
    frames: int = getattr(image, "n_frames", 1) if layout.frames is None else layout.frames
    alpha = image.mode in {"RGBA", "LA", "La", "PA"} or "transparency" in image.info
    icc_profile = bool(image.info.get("icc_profile"))
    notes = [*layout.notes]
    if frames > 1:
        notes.append(f"first of {frames} frames analysed")
    if alpha:
        notes.append("transparency ignored")
    if icc_profile:
        notes.append("colour profile not applied")
    if image.format == "AVIF" and layout.bits > 8:
        notes.append(f"{layout.bits}-bit samples read as 8-bit")
    if layout.trailing:
        notes.append(f"{layout.trailing} bytes after the end of the picture not read")
    return FormatFacts(
        format=str(image.format),
        width=pixels.shape[1],
        height=pixels.shape[0],
        mode=image.mode,
        bit_depth=1 if image.mode == "1" else layout.bits,
        orientation=orientation,
        frames=frames,
        icc_profile=icc_profile,
        alpha=alpha,
        notes=(*notes, *oddities),
    )


@contextmanager
def _noting(notes: list[str]) -> Iterator[None]:
    """Turn Pillow's warnings into notes, and pass on those that other threads caused."""
    with _WARNINGS:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            if Path(warning.filename).parent.name == "PIL":
                text = " ".join(str(warning.message).split()).rstrip(".")
                notes.append(f"Pillow warns: {text[:200]}")
            else:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )
