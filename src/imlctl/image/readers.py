"""Decode with Pillow or pillow-heif, strictly: stored pixels, whole files, every oddity noted."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
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
from imlctl.image.boxes import walk_avif, walk_boxes
from imlctl.image.containers import (
    check_png,
    walk_bmp,
    walk_gif,
    walk_png,
    walk_webp,
    without_extensions,
    without_metadata,
)
from imlctl.image.facts import FormatFacts
from imlctl.image.formats import (
    check_size,
    damaged,
    not_read,
)
from imlctl.image.jpeg import check_jpeg, walk_jpeg, walk_mpo
from imlctl.image.samples import check_avif, to_rgb
from imlctl.image.tiff import check_tiff, walk_tiff

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from imlctl.image.formats import Layout

_ORIENTATION = 0x0112  # EXIF tag
_WARNINGS = threading.Lock()  # Python keeps one set of warning filters for all threads

_WALKERS = {
    "JPEG": walk_jpeg,
    "PNG": walk_png,
    "GIF": walk_gif,
    "BMP": walk_bmp,
    "WEBP": walk_webp,
    "AVIF": walk_avif,
    "TIFF": walk_tiff,
}
_EXPORT = "Export it as a 16-bit RGB TIFF or PNG, and use that."
_STRIPPED = {"PNG": without_metadata, "GIF": without_extensions}
_CHECKS = {"JPEG": check_jpeg, "TIFF": check_tiff}
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
    notes = list(_CHECKS[kind](data)) if kind in _CHECKS else []
    with _noting(notes):
        image = _open(kind, data, layout)
        check_size(*image.size, max_pixels)
        if image.format == "MPO":
            layout = walk_mpo(data, layout, image.n_frames)  # type: ignore[attr-defined]
        orientation = _load_tiff(image, layout, notes) if kind == "TIFF" else None
    image.load()  # outside the lock, so that threads decode at the same time
    if orientation is None:
        with _noting(notes):
            orientation = exif_orientation(_exif(image, notes), notes)
    if kind == "PNG":
        check_png(image, data)
    elif kind == "AVIF":
        check_avif(data)
    # Pillow swaps the size of a turned TIFF whether or not it turns the pixels; a copy has theirs.
    whole = image if layout.size in {None, image.size} else image.copy()
    pixels, conversions = to_rgb(whole, layout, data)
    return pixels, _facts(image, layout, pixels, orientation, [*conversions, *notes])


def _open(kind: str, data: bytes, layout: Layout) -> ImageFile.ImageFile:
    if kind == "JPEG":
        return JpegImagePlugin.jpeg_factory(BytesIO(data))
    if kind == "AVIF" and not features.check("avif"):
        raise DecodeError("this Pillow cannot read AVIF", remedy="Run: pip install -U pillow")
    try:
        return _PLUGINS[kind](BytesIO(_STRIPPED.get(kind, bytes)(data)))
    except SyntaxError as error:
        if layout.kind:  # its structure is in order, so it is the samples that Pillow cannot read
            raise not_read(layout.kind, _EXPORT) from error
        raise


def _load_tiff(image: ImageFile.ImageFile, layout: Layout, notes: list[str]) -> int:
    """Load a TIFF without letting Pillow turn it upright, and return its orientation.

    Pillow turns TIFF, and only TIFF, while loading; an orientation of 1 in its parsed metadata
    stops that. It also applies its global size limit here, unless the memory is there already.
    """
    exif = image.getexif()
    orientation = exif_orientation(exif, notes)
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


def exif_orientation(exif: Image.Exif, notes: list[str]) -> int:
    """Return the orientation, 1 to 8; an invalid one is noted and taken for 1."""
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
    icc_profile = layout.profile or bool(image.info.get("icc_profile"))
    notes = [*layout.notes]
    if frames > 1:
        notes.append(f"first of {frames} frames analysed")
    if alpha:
        notes.append("transparency ignored")
    if icc_profile:
        notes.append("colour profile not applied")
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


def decode_heif(data: bytes, max_pixels: int) -> tuple[NDArray[Any], FormatFacts]:
    """Decode the primary picture of a HEIF container.

    The container's own cropping and turning belong to the format and are applied by the decoder;
    an EXIF orientation beside them is informative only, by the standard, and is not.

    Returns:
        Pixels (H, W, 3), uint8 or uint16 (10 and 12 bits are shifted up), and what there is to
        record.

    Raises:
        DecodeError: The package is not installed, or the file is incomplete.
        TooLargeError: More pixels than `max_pixels`.
        Exception: Whatever pillow-heif raises for a damaged file.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise DecodeError(
            "reading HEIC needs the optional package pillow-heif",
            remedy='Install it with: pip install "imlctl[heif]"',
        ) from error
    layout = walk_boxes(data)
    container = pillow_heif.open_heif(BytesIO(data), convert_hdr_to_8bit=False)
    picture = container[container.primary_index]
    width, height = picture.size
    check_size(width, height, max_pixels)
    pixels = np.asarray(picture)[:, :width]  # rows may be padded
    if pixels.shape[:2] != (height, width):
        raise damaged(f"its header says {width} x {height}, its data do not")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    info: dict[str, Any] = picture.info
    bits = int(info.get("bit_depth", 8))
    icc_profile = bool(info.get("icc_profile"))
    alpha = bool(picture.has_alpha)
    frames = len(container)
    notes = []
    if frames > 1:
        notes.append(f"primary of {frames} pictures analysed")
    if alpha:
        notes.append("transparency ignored")
    if icc_profile:
        notes.append("colour profile not applied")
    if pixels.dtype == np.uint16:
        notes.append(f"{bits}-bit samples shifted up to 16 bits")
    facts = FormatFacts(
        format="HEIF",
        width=width,
        height=height,
        mode=str(picture.mode),
        bit_depth=bits,
        frames=frames,
        icc_profile=icc_profile,
        alpha=alpha,
        notes=(*layout.notes, *notes),
    )
    return np.ascontiguousarray(pixels[..., :3]), facts
