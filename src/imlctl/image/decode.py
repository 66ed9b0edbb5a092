"""Bytes to pixels, strictly: nothing is repaired, clipped or turned, and every oddity is noted."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import (
    Image,
)

from imlctl.errors import DecodeError, ImlctlError, InputError, TooLargeError, UsageError
from imlctl.image.facts import FormatFacts, provenance
from imlctl.image.formats import (
    DEFAULT_MAX_PIXELS,
    HEAD_BYTES,
    TO_CONVERT,
    check_size,
    identify,
)
from imlctl.image.readers import decode_heif, decode_with_pillow, exif_orientation

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = ["DEFAULT_MAX_PIXELS", "Photo", "decode", "of_pixels", "read"]

_REMEDY_UNCLEAR = (
    "It may be damaged, or of an unusual variety: compare it with the original, or convert it "
    "without loss to a PNG."
)
# Modes of images of Pillow's in memory, and the one that holds the same samples.
_EXACT = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}
_UNSUPPORTED = re.compile("unsupported|not supported|cannot handle", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A decoded photograph.

    Attributes:
        pixels: (H, W, 3) uint8 or uint16, red green blue, as stored (not turned), read-only.
        facts: What the file says about itself.
        sha256: Of exactly the encoded bytes that were decoded, 64 hexadecimal digits.
        source: Name for messages.
        thumbnail: The small JPEG in its EXIF metadata, which may show an earlier state; else empty.
    """

    pixels: NDArray[Any]
    facts: FormatFacts
    sha256: str
    source: str
    thumbnail: bytes = b""

    def __post_init__(self) -> None:
        expected = (self.facts.height, self.facts.width, 3)
        if self.pixels.shape != expected or self.pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"pixels must be {expected} uint8 or uint16, "
                f"not {self.pixels.shape} {self.pixels.dtype}"
            )
        if len(self.sha256) != 64:
            raise ValueError("sha256 must have 64 hexadecimal digits")
        self.pixels.setflags(write=False)


def decode(data: bytes, *, source: str = "<bytes>", max_pixels: int = DEFAULT_MAX_PIXELS) -> Photo:
    """Decode the first picture of an encoded file.

    Args:
        data: The whole file.
        source: Its name, for messages; its suffix helps to tell raw files from TIFF.
        max_pixels: Largest picture accepted, checked before any pixel is decoded.

    Returns:
        The photo, with pixels as stored and all particulars in `Photo.facts`.

    Raises:
        DecodeError: Not a complete picture of a kind that can be read.
        TooLargeError: More pixels than `max_pixels`.
        UsageError: `max_pixels` is not positive.
    """
    if max_pixels < 1:
        raise UsageError(f"max_pixels must be positive, not {max_pixels}")
    kind = "a picture"
    try:
        kind = identify(data, name=source)
        if kind == "HEIF":
            pixels, facts = decode_heif(data, max_pixels)
        else:
            pixels, facts = decode_with_pillow(kind, data, max_pixels)
        traces, thumbnail = provenance(data, kind, pixels)
        facts = replace(facts, provenance=traces)
    except ImlctlError as error:
        raise type(error)(error.what, source=source, remedy=error.remedy) from error
    except Image.DecompressionBombError as error:
        raise TooLargeError(
            "the picture is larger than Pillow reads in this format",
            source=source,
            remedy="Save it as a PNG, and use that.",
        ) from error
    except MemoryError as error:
        raise DecodeError(
            "there is not enough memory to decode it",
            source=source,
            remedy="Free some memory, or lower the pixel limit.",
        ) from error
    except Exception as error:
        # Decoders meet damaged files with nearly every exception that Python has.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if _UNSUPPORTED.search(reason):
            what = f"this is a variety of {kind} that imlctl does not read ({reason})"
            raise DecodeError(what, source=source, remedy=TO_CONVERT) from error
        raise DecodeError(
            f"it cannot be decoded as {kind} ({reason})", source=source, remedy=_REMEDY_UNCLEAR
        ) from error
    return Photo(pixels, facts, hashlib.sha256(data).hexdigest(), source, thumbnail)


def of_pixels(
    pixels: NDArray[Any] | Image.Image,
    *,
    source: str = "<pixels>",
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Photo:
    """Take a picture that is in memory already, as an array or as Pillow has it.

    There is no file, so none is hashed: `Photo.sha256` is that of type, size and samples, and the
    notes say so. What only a file tells, such as its compression, is unknown.

    Args:
        pixels: (H, W) or (H, W, 3), uint8 or uint16, colours as red, green, blue; or an image of
            Pillow's, of whose alpha nothing is kept, and which is turned as its EXIF says.
        source: Its name, for messages.
        max_pixels: Largest picture accepted.

    Raises:
        DecodeError: It is of another shape or type, or of a mode without an exact conversion.
        TooLargeError: More pixels than `max_pixels`.
    """
    mode, orientation, alpha = "array", 1, False
    if isinstance(pixels, Image.Image):
        mode, alpha = pixels.mode, pixels.mode in ("RGBA", "LA", "PA", "RGBa", "La")
        orientation = exif_orientation(pixels.getexif(), [])
        if mode in _EXACT:
            pixels = np.asarray(pixels.convert(_EXACT[mode]))
        elif mode.startswith("I;16"):
            pixels = np.asarray(pixels).astype(np.uint16)
        else:
            raise DecodeError(
                f"an image of Pillow's in mode {mode} has no exact form in 8 or 16 bits",
                source=source,
                remedy="Save it to a file, and give that.",
            )
    kinds = (np.uint8, np.uint16)
    if pixels.ndim == 2 and pixels.dtype in kinds:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype not in kinds or not pixels.size:
        raise DecodeError(
            f"an array of shape {pixels.shape} and type {pixels.dtype} is no picture",
            source=source,
            remedy="Give (H, W) or (H, W, 3) of uint8 or uint16, colours as red, green, blue.",
        )
    height, width, _ = pixels.shape
    check_size(width, height, max_pixels)
    own = np.array(pixels, order="C", copy=True)
    digest = hashlib.sha256(f"{own.dtype.name} {own.shape} ".encode())
    digest.update(own.data)
    facts = FormatFacts(
        "pixels",
        width,
        height,
        mode,
        8 * own.dtype.itemsize,
        orientation,
        alpha=alpha,
        notes=("given as pixels: no file was hashed, the SHA-256 is that of the samples",),
    )
    return Photo(own, facts, digest.hexdigest(), source)


def read(path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Photo:
    """Read a file once, without ever writing to it, and decode what was read.

    Raises:
        InputError: Missing, not readable, not a regular file, or changed while it was read.
        DecodeError: See `decode`.
        TooLargeError: More pixels than `max_pixels`, or more bytes than that many could need.
        UsageError: `max_pixels` is not positive.
    """
    source = os.fspath(path)
    try:
        data = _read_bytes(source, max_pixels)
    except ImlctlError as error:
        raise type(error)(error.what, source=source, remedy=error.remedy) from error
    except FileNotFoundError as error:
        raise InputError(
            "there is no such file",
            source=source,
            remedy="Check the path.",
        ) from error
    except PermissionError as error:
        raise InputError(
            "you are not allowed to read it", source=source, remedy="Check its permissions."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"it cannot be read ({reason})", source=source, remedy="Check the file and its disk."
        ) from error
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
            head = stream.read(HEAD_BYTES)
            identify(head, name=source)  # before a video of many gigabytes is read
            # The widest samples are four of 16 bits; the rest is room for metadata.
            if before.st_size > 8 * max_pixels + 2**26:
                raise TooLargeError(
                    f"the file has {before.st_size} bytes, more than {max_pixels} pixels can need",
                    remedy="Raise the pixel limit if that is right.",
                )
            data = head + stream.read(max(0, before.st_size - len(head)) + 1)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    unchanged = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if not unchanged or len(data) != before.st_size:
        raise InputError(
            "the file changed while it was read",
            remedy="Wait until it is complete, then try again.",
        )
    return data
