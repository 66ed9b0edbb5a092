"""Bytes to pixels: nothing is repaired, clipped or turned, and whatever is done is recorded."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import replace

from PIL import Image

from imlctl.errors import DecodeError, ImlctlError, InputError, TooLargeError, UsageError
from imlctl.image.heif import decode_heif
from imlctl.image.identify import HEAD_BYTES, identify
from imlctl.image.layout import REMEDY_DAMAGED
from imlctl.image.photo import DEFAULT_MAX_PIXELS, FormatFacts, Photo, pixels_as_float
from imlctl.image.pillow import decode_with_pillow
from imlctl.image.provenance import provenance

__all__ = ["DEFAULT_MAX_PIXELS", "FormatFacts", "Photo", "decode", "pixels_as_float", "read"]


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
        facts = replace(facts, provenance=provenance(data, kind, pixels))
    except ImlctlError as error:
        raise type(error)(error.what, source=source, remedy=error.remedy) from error
    except Image.DecompressionBombError as error:
        raise TooLargeError(
            "the picture is larger than Pillow reads in this format",
            source=source,
            remedy="Save it as a PNG, and give that.",
        ) from error
    except MemoryError as error:
        raise DecodeError(
            "there is not enough memory to decode it",
            source=source,
            remedy="Free some memory, or set a lower limit on the number of pixels.",
        ) from error
    except Exception as error:
        # Decoders meet damaged files with nearly every exception that Python has.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DecodeError(
            f"it cannot be decoded as {kind} ({reason})", source=source, remedy=REMEDY_DAMAGED
        ) from error
    return Photo(pixels=pixels, facts=facts, sha256=hashlib.sha256(data).hexdigest(), source=source)


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
            remedy="Was it moved, or its name mistyped?",
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
            raise InputError("this is a folder", remedy="Name the pictures in it.")
        if not stat.S_ISREG(before.st_mode):
            raise InputError("this is not a regular file", remedy="Copy its content to one.")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            head = stream.read(HEAD_BYTES)
            identify(head, name=source)  # before a video of many gigabytes is read
            # The widest samples are four of 16 bits; the rest is room for metadata.
            if before.st_size > 8 * max_pixels + 2**26:
                raise TooLargeError(
                    f"the file has {before.st_size} bytes, more than {max_pixels} pixels can need",
                    remedy="Raise the limit on the number of pixels if that is right.",
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
