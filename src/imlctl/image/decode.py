"""Bytes to pixels, strictly: nothing is repaired, clipped or turned, and every oddity is noted."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin, features
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from imlctl.errors import DecodeError, ImlctlError, InputError, TooLargeError, UsageError
from imlctl.image import containers, formats
from imlctl.image.boxes import walk_avif, walk_boxes
from imlctl.image.facts import FormatFacts, provenance
from imlctl.image.formats import DEFAULT_MAX_PIXELS, check_size, identify
from imlctl.image.jpeg import check_jpeg, walk_jpeg, walk_mpo
from imlctl.image.samples import check_avif, to_rgb
from imlctl.image.tiff import check_tiff, walk_tiff

if TYPE_CHECKING:
    from imlctl.image.formats import FileLayout

    Decoded = tuple[NDArray[Any], FormatFacts]

_REMEDY_UNCLEAR = (
    "It may be damaged, or of an unusual variety: compare it with the original, or convert it "
    "without loss to a PNG."
)
_UNREADABLE: dict[type[Exception], tuple[str, str]] = {
    FileNotFoundError: ("there is no such file", "Check the path."),
    PermissionError: ("you are not allowed to read it", "Check its permissions."),
}
# Modes of images of Pillow's in memory, and the one that holds the same samples.
_EXACT = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}
_WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
_UNSUPPORTED = re.compile("unsupported|not supported|cannot handle", re.IGNORECASE)
_ORIENTATION = 0x0112  # EXIF tag
_WARNINGS = threading.Lock()  # Python keeps one set of warning filters for all threads

_EXPORT = "Export it as a 16-bit RGB TIFF or PNG, and use that."
_STRIPPED = {"PNG": containers.without_metadata, "GIF": containers.without_extensions}
_CHECKS = {"JPEG": check_jpeg, "TIFF": check_tiff, "WEBP": containers.check_webp}
# Our walker, and Pillow's reader. `Image.open` is not used: it tries one format after another, and
# limits the size by a global that a library must not change. Our own limit is checked instead.
_FORMATS: dict[
    str, tuple[Callable[[bytes], FileLayout], Callable[[BytesIO], ImageFile.ImageFile]]
] = {
    "JPEG": (walk_jpeg, JpegImagePlugin.jpeg_factory),
    "PNG": (containers.walk_png, PngImageFile),
    "GIF": (containers.walk_gif, GifImageFile),
    "BMP": (containers.walk_bmp, BmpImageFile),
    "WEBP": (containers.walk_webp, WebPImageFile),
    "AVIF": (walk_avif, AvifImageFile),
    "TIFF": (walk_tiff, TiffImageFile),
}


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A decoded photograph."""

    pixels: NDArray[Any]  # (H, W, 3) uint8 or uint16, red green blue, not turned, read-only
    facts: FormatFacts
    sha256: str  # of exactly the encoded bytes that were decoded, in hexadecimal digits
    source: str  # name for messages
    thumbnail: bytes = b""  # the small JPEG in its EXIF metadata, if there is one

    def __post_init__(self) -> None:
        self.pixels.setflags(write=False)


def decode(data: bytes, *, source: str = "<bytes>", max_pixels: int = DEFAULT_MAX_PIXELS) -> Photo:
    """Decode the first picture of an encoded file, once its size was found to be accepted.

    The name in `source` is for messages; its suffix helps to tell raw files from TIFF. DecodeError
    for anything but a complete picture of a kind that can be read, TooLargeError for more pixels
    than `max_pixels`, and UsageError if that is not positive.
    """
    if max_pixels < 1:
        raise UsageError(f"max_pixels must be positive, not {max_pixels}")
    kind = "a picture"
    try:
        kind = identify(data, name=source)
        read_with = _decode_heif if kind == "HEIF" else partial(_decode_with_pillow, kind)
        pixels, facts = read_with(data, max_pixels)
        traces, thumbnail = provenance(data, kind, pixels)
        facts = replace(facts, provenance=traces)
    except Exception as error:
        raise _said(error, kind, source) from error
    return Photo(pixels, facts, hashlib.sha256(data).hexdigest(), source, thumbnail)


def _said(error: Exception, kind: str, source: str) -> ImlctlError:
    """Build the error that names the file; decoders fail with nearly every exception there is."""
    if isinstance(error, ImlctlError):
        return type(error)(error.what, source=source, remedy=error.remedy)
    if isinstance(error, Image.DecompressionBombError):
        what = "the picture is larger than Pillow reads in this format"
        return TooLargeError(what, source=source, remedy="Save it as a PNG.")
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    what, remedy = f"it cannot be decoded as {kind} ({reason})", _REMEDY_UNCLEAR
    if isinstance(error, MemoryError):
        what, remedy = "there is not enough memory to decode it", "Free some memory, and try again."
    elif _UNSUPPORTED.search(reason):
        what = f"this is a variety of {kind} that imlctl does not read ({reason})"
        remedy = formats.TO_CONVERT
    return DecodeError(what, source=source, remedy=remedy)


def of_pixels(
    pixels: NDArray[Any] | Image.Image,
    *,
    source: str = "<pixels>",
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Photo:
    """Take a picture that is in memory already; `Photo.sha256` is of type, size and samples.

    It is (H, W) or (H, W, 3), uint8 or uint16, colours as red, green, blue; or an image of
    Pillow's, of whose alpha nothing is kept, and which is turned as its EXIF says. DecodeError for
    another shape or type, or a mode without an exact conversion; TooLargeError as of `decode`.
    """
    mode, orientation, alpha = "array", 1, False
    if isinstance(pixels, Image.Image):
        mode, alpha = pixels.mode, pixels.mode in _WITH_ALPHA
        orientation = _orientation(pixels, [])
        if mode in _EXACT:
            pixels = np.asarray(pixels.convert(_EXACT[mode]))
        elif mode.startswith("I;16"):
            pixels = np.asarray(pixels).astype(np.uint16)
        else:
            what = f"an image of Pillow's in mode {mode} has no exact form in 8 or 16 bits"
            raise DecodeError(what, source=source, remedy="Save it to a file, and give that.")
    kinds = (np.uint8, np.uint16)
    if pixels.ndim == 2 and pixels.dtype in kinds:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype not in kinds or not pixels.size:
        what = f"an array of shape {pixels.shape} and type {pixels.dtype} is no picture"
        remedy = "Give (H, W) or (H, W, 3) of uint8 or uint16, colours as red, green, blue."
        raise DecodeError(what, source=source, remedy=remedy)
    height, width, _ = pixels.shape
    check_size(width, height, max_pixels)
    own = np.array(pixels, order="C", copy=True)
    digest = hashlib.sha256(f"{own.dtype.name} {own.shape} ".encode())
    digest.update(own.data)
    note = "given as pixels: no file was hashed, the SHA-256 is that of the samples"
    bits = 8 * own.dtype.itemsize
    facts = FormatFacts("pixels", width, height, mode, bits, orientation, 1, False, alpha, (note,))
    return Photo(own, facts, digest.hexdigest(), source)


def read(path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Photo:
    """Read a file once, without ever writing to it, and decode what was read.

    Errors are those of `decode`; InputError where it is missing, not readable, not a regular file,
    or changed while it was read; TooLargeError for more bytes than `max_pixels` could need.
    """
    source = os.fspath(path)
    try:
        data = _read_bytes(source, max_pixels)
    except ImlctlError as error:
        raise type(error)(error.what, source=source, remedy=error.remedy) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        other = f"it cannot be read ({reason})", "Check the file and its disk."
        what, remedy = _UNREADABLE.get(type(error), other)
        raise InputError(what, source=source, remedy=remedy) from error
    return decode(data, source=source, max_pixels=max_pixels)


def _read_bytes(source: str, max_pixels: int) -> bytes:
    flags = os.O_RDONLY
    # Without O_NONBLOCK, opening a pipe would wait for a writer that may never come.
    for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(source, flags)
    try:
        before = os.fstat(descriptor)
        if stat.S_ISDIR(before.st_mode):
            raise InputError("this is a folder", remedy="Name a picture in it.")
        if not stat.S_ISREG(before.st_mode):
            raise InputError("this is not a regular file", remedy="Copy its content to one.")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            head = stream.read(formats.HEAD_BYTES)
            identify(head, name=source)  # before a video of many gigabytes is read
            # The widest samples are four of 16 bits; the rest is room for metadata.
            if (size := before.st_size) > 8 * max_pixels + 2**26:
                what = f"the file has {size} bytes, more than {max_pixels} pixels can need"
                raise TooLargeError(what, remedy="Raise the pixel limit if that is right.")
            data = head + stream.read(max(0, before.st_size - len(head)) + 1)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    unchanged = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if not unchanged or len(data) != before.st_size:
        remedy = "Wait until it is complete, then try again."
        raise InputError("the file changed while it was read", remedy=remedy)
    return data


def _decode_with_pillow(kind: str, data: bytes, max_pixels: int) -> Decoded:
    layout = _FORMATS[kind][0](data)
    check_size(*layout.tile, max_pixels)
    if layout.size:
        check_size(*layout.size, max_pixels)
    notes = list(_CHECKS[kind](data)) if kind in _CHECKS else []
    orientation = 0
    with _noting(notes):
        image = _open(kind, data, layout)
        check_size(*image.size, max_pixels)
        if image.format == "MPO":
            layout = walk_mpo(data, layout, image.n_frames)  # type: ignore[attr-defined]
        if kind == "TIFF":
            orientation = _orientation(image, notes)
            image.getexif()[_ORIENTATION] = 1  # else Pillow turns the picture upright
            if layout.size:  # Pillow applies its global limit, unless the memory is there already
                image.im = Image.new(image.mode, layout.size).im
            image.load()  # under the lock, because reading the last tags may warn
    image.load()  # outside the lock, so that threads decode at the same time
    if not orientation:
        with _noting(notes):
            orientation = _orientation(image, notes)
    if kind == "PNG":
        containers.check_png(image, data)
    elif kind == "AVIF":
        check_avif(data)
    # Pillow swaps the size of a turned TIFF whether or not it turns the pixels; a copy has theirs.
    whole = image if layout.size in {None, image.size} else image.copy()
    pixels, conversions = to_rgb(whole, layout, data)
    return pixels, _facts(image, layout, pixels, orientation, [*conversions, *notes])


def _open(kind: str, data: bytes, layout: FileLayout) -> ImageFile.ImageFile:
    if kind == "AVIF" and not features.check("avif"):
        raise DecodeError("this Pillow cannot read AVIF", remedy="Run: pip install -U pillow")
    try:
        return _FORMATS[kind][1](BytesIO(_STRIPPED.get(kind, bytes)(data)))
    except SyntaxError as error:
        if layout.kind:  # its structure is in order, so it is the samples that Pillow cannot read
            raise formats.not_read(layout.kind, _EXPORT) from error
        raise


def _orientation(image: Image.Image, notes: list[str]) -> int:
    """Return the EXIF orientation, 1 to 8; metadata that make no sense are noted."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # a picture is no worse for metadata that cannot be read
        notes.append(f"EXIF metadata cannot be read ({type(error).__name__})")
        return 1
    if isinstance(value, int) and 1 <= value <= 8:
        return value
    notes.append(f"invalid EXIF orientation {str(value)[:20]!r} taken for 1")
    return 1


def _decode_heif(data: bytes, max_pixels: int) -> Decoded:
    """Decode the primary picture of a HEIC or HEIF, cropped and turned as its container says.

    An EXIF orientation beside that is informative only, by the standard, and is not applied.
    """
    try:
        import pillow_heif
    except ImportError as error:
        what = "reading HEIC needs the optional package pillow-heif"
        remedy = 'Install it with: pip install "imlctl[heif]"'
        raise DecodeError(what, remedy=remedy) from error
    layout = walk_boxes(data)
    container = pillow_heif.open_heif(BytesIO(data), convert_hdr_to_8bit=False)
    picture = container[container.primary_index]
    check_size(*picture.size, max_pixels)
    pixels = np.asarray(picture)[:, : picture.size[0]]  # rows may be padded
    if pixels.shape[1::-1] != picture.size:
        says = f"its header says {picture.size[0]} x {picture.size[1]}, its data do not"
        raise formats.damaged(says)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    info: dict[str, Any] = picture.info
    bits = int(info.get("bit_depth", 8))
    notes = [f"{bits}-bit samples shifted up to 16 bits"] if pixels.dtype == np.uint16 else []
    layout = replace(layout, frames=len(container), bits=bits)
    pixels = np.ascontiguousarray(pixels[..., :3])
    return pixels, _facts(picture, layout, pixels, 1, notes)


def _facts(
    image: Any, layout: FileLayout, pixels: NDArray[Any], orientation: int, oddities: list[str]
) -> FormatFacts:
    heif = not isinstance(image, Image.Image)
    frames: int = getattr(image, "n_frames", 1) if layout.frames is None else layout.frames
    icc_profile = layout.profile or bool(image.info.get("icc_profile"))
    several = f"primary of {frames} pictures" if heif else f"first of {frames} frames"
    alpha = image.has_alpha if heif else image.mode in _WITH_ALPHA or "transparency" in image.info
    noted = (
        (frames > 1, f"{several} analysed"),
        (alpha, "transparency ignored"),
        (icc_profile, "colour profile not applied"),
        (layout.trailing, f"{layout.trailing} bytes after the end of the picture not read"),
    )
    mode = str(image.mode)
    return FormatFacts(
        format="HEIF" if heif else str(image.format),
        width=pixels.shape[1],
        height=pixels.shape[0],
        mode=mode,
        bit_depth=1 if mode == "1" else layout.bits,
        orientation=orientation,
        frames=frames,
        icc_profile=icc_profile,
        alpha=bool(alpha),
        notes=(*layout.notes, *(note for holds, note in noted if holds), *oddities),
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
