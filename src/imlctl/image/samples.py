"""Turn each of Pillow's pixel modes into three channels without clipping, and say what was done.

Pillow's own ``convert("RGB")`` clips 16-bit grey to white and warns about transparent palettes, and
its readers keep only the high byte of 16-bit colour; those cases are done here in numpy.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from imlctl.errors import DecodeError

if TYPE_CHECKING:
    from imlctl.image.formats import Layout

Pixels = NDArray[Any]  # (H, W, 3) uint8 or uint16
_OPENCV_LOG = threading.Lock()  # its level is a global


def to_rgb(image: Image.Image, layout: Layout, data: bytes) -> tuple[Pixels, list[str]]:
    """Convert a loaded picture to (H, W, 3), uint8 or uint16, and notes for the record.

    Alpha is dropped and the straight colours kept; nothing is composited over a background.

    Args:
        image: The loaded picture, of any mode.
        layout: What the file says about its samples.
        data: The encoded file, read again by a second decoder for 16-bit colour.

    Raises:
        DecodeError: The samples have no known scale, or two decoders disagree about them.
    """
    mode = image.mode
    if mode in {"RGB", "RGBA"}:
        if layout.bits > 8:
            return _wide_colour(image, data), []
        return _first_three(np.asarray(image)), []
    if mode in {"1", "L", "LA", "La"}:
        straight = {"1": "L", "La": "LA"}.get(mode)
        grey = np.asarray(image.convert(straight) if straight else image)
        return _narrow_grey(grey if grey.ndim == 2 else grey[..., 0], layout)
    if mode in {"P", "PA"}:
        return _palette(image), ["palette colours converted to RGB"]
    if mode.startswith("I;16"):
        return _wide_grey(np.asarray(image).astype(np.uint16), layout)
    if mode == "I":
        return _integer_grey(np.asarray(image), layout)
    if mode == "F":
        return _float_grey(np.asarray(image), layout)
    if mode == "LAB":
        return _lab(image), ["Lab colours converted to sRGB"]
    if mode in {"CMYK", "YCbCr"}:
        narrowed = [f"{layout.bits}-bit samples read as 8-bit"] if layout.bits > 8 else []
        note = f"{mode} converted to RGB without a colour profile"
        return _first_three(np.asarray(image.convert("RGB"))), [note, *narrowed]
    raise DecodeError(f"its pixel mode {mode!r} is not supported", remedy="Save it as a PNG.")


def _first_three(colours: NDArray[Any]) -> Pixels:
    return np.ascontiguousarray(colours[..., :3])


def _three_times(grey: NDArray[Any]) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=2)


def _palette(image: Image.Image) -> Pixels:
    index = np.asarray(image)
    index = index if index.ndim == 2 else index[..., 0]
    stored = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    table = np.zeros((256, 3), np.uint8)  # indices past the palette's end are black
    table[: len(stored)] = stored
    colours: Pixels = table[index]
    return colours


def _narrow_grey(grey: NDArray[Any], layout: Layout) -> tuple[Pixels, list[str]]:
    if layout.signed:
        return _three_times(grey ^ np.uint8(0x80)), ["signed samples shifted to start at 0"]
    return _three_times(grey), []


def _wide_grey(grey: NDArray[np.uint16], layout: Layout) -> tuple[Pixels, list[str]]:
    notes = []
    if 8 < layout.bits < 16:
        top = (1 << layout.bits) - 1
        grey = ((grey.astype(np.uint32) * 65535 + top // 2) // top).astype(np.uint16)
        notes.append(f"{layout.bits}-bit samples scaled to 16 bits")
    # Pillow turns 8-bit pictures that count down from white, and leaves 16-bit ones as they are.
    return _three_times(~grey if layout.white_is_zero else grey), notes


def _integer_grey(grey: NDArray[Any], layout: Layout) -> tuple[Pixels, list[str]]:
    """Scale 32-bit integers: 16-bit values exactly, wider ones by their 16 highest bits.

    Values within 0..255 or 0..65535 are taken for 8 or 16 bits in a wide container.
    """
    if layout.signed and layout.bits == 16:
        shifted = (grey.astype(np.int64) + 32768).astype(np.uint16)
        return _three_times(shifted), ["signed samples shifted to start at 0"]
    if layout.signed and grey.min() < 0:
        top_bits = ((grey.astype(np.int64) + 2**31) >> 16).astype(np.uint16)
        note = "signed 32-bit samples shifted to start at 0 and reduced to their 16 highest bits"
        return _three_times(top_bits), [note]
    unsigned = grey.astype(np.uint32)  # Pillow keeps unsigned 32-bit samples in signed ones
    if (highest := int(unsigned.max())) <= 255:
        return _three_times(unsigned.astype(np.uint8)), ["32-bit samples below 256 read as 8-bit"]
    if highest <= 65535:
        return _three_times(unsigned.astype(np.uint16)), [
            "32-bit samples up to 65535 read as 16-bit"
        ]
    note = "32-bit samples reduced to their 16 highest bits"
    return _three_times((unsigned >> 16).astype(np.uint16)), [note]


def _float_grey(grey: NDArray[Any], layout: Layout) -> tuple[Pixels, list[str]]:
    """Scale floating-point samples whose range is beyond doubt, to 16 bits.

    That is 0..1, or whole numbers within 0..255 or 0..65535. Nothing is stretched or clipped.
    """
    if not np.isfinite(grey).all():
        raise DecodeError("it holds NaN or infinite samples", remedy="Export it as 16-bit PNG.")
    low, high = float(grey.min()), float(grey.max())
    top = 1.0
    if high > 1.0 and (grey == np.floor(grey)).all():
        top = 255.0 if high <= 255.0 else 65535.0
    if low < 0.0 or high > top:
        raise DecodeError(
            f"its floating-point samples run from {low:g} to {high:g}, an unknown scale",
            remedy="Export it as 16-bit TIFF or PNG.",
        )
    wide = np.round(grey.astype(np.float64) * (65535.0 / top)).astype(np.uint16)
    note = f"floating-point samples in 0..{top:g} scaled to 16 bits"
    return _three_times(~wide if layout.white_is_zero else wide), [note]


def _lab(image: Image.Image) -> Pixels:
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
    if converted is None:
        raise DecodeError("its Lab colours cannot be converted", remedy="Save it as RGB.")
    return _first_three(np.asarray(converted))


def _wide_colour(image: Image.Image, data: bytes) -> Pixels:
    """Read 16-bit colour with OpenCV, which must agree with the high bytes that Pillow kept.

    Pillow has found the file whole by now; two independent readers that agree are the proof that
    both understood the samples.
    """
    import cv2

    with _OPENCV_LOG:
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(0)  # it would print warnings about unknown tags
        try:
            wide = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        finally:
            cv2.utils.logging.setLogLevel(level)
    narrow = np.asarray(image)[..., :3]
    if wide is not None and wide.dtype == np.uint16 and wide.ndim == 3:
        pixels: Pixels = np.ascontiguousarray(wide[..., 2::-1])  # from BGR or BGRA
        if pixels.shape == narrow.shape and np.array_equal(pixels >> 8, narrow):
            return pixels
    raise DecodeError(
        "two decoders disagree about its 16-bit colours",
        remedy="Save it as a 16-bit PNG without transparency, and give that.",
    )
