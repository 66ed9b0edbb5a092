"""Turn each of Pillow's pixel modes into three channels without clipping, and say what was done.

Pillow clips 16-bit grey to white and keeps only the high byte of 16-bit colour; not so here.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from imlctl.errors import DecodeError
from imlctl.image.formats import damaged
from imlctl.image.tiff import wide_samples

if TYPE_CHECKING:
    from imlctl.image.formats import FileLayout

Pixels = NDArray[Any]  # (H, W, 3) uint8 or uint16
_SHIFTED = "signed samples shifted to start at 0"
_AVIF_STEPS = 16  # of 255
_OPENCV_LOG = threading.Lock()  # its level is a global


def to_rgb(image: Image.Image, layout: FileLayout, data: bytes) -> tuple[Pixels, list[str]]:
    """Convert a loaded picture to (H, W, 3), uint8 or uint16, and notes for the record.

    Alpha is dropped, and composited over nothing. A second decoder reads the file, `data`, again
    for its 16-bit colours. DecodeError where samples have no known scale, or the decoders disagree.
    """
    mode = image.mode
    colours, avif_grey = mode in {"RGB", "RGBA"}, mode in {"L", "LA"} and 8 < layout.bits < 16
    if avif_grey or (colours and layout.bits > 8):
        return _wide_colour(np.asarray(image.convert("RGB")), layout, data)
    if colours:
        return _first_three(np.asarray(image)), []
    if mode in {"1", "L", "LA", "La"}:
        grey = _first_plane(image.convert({"1": "L", "La": "LA"}.get(mode, mode)))
        return _three_times(grey ^ np.uint8(0x80 * layout.signed)), [_SHIFTED] * layout.signed
    if mode in {"P", "PA"}:
        stored = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        table = np.zeros((256, 3), np.uint8)
        table[: len(stored)] = stored
        indices = _first_plane(image)
        past = ["colours past the palette's end read as black"] * bool(indices.max() >= len(stored))
        return np.asarray(table[indices]), ["palette colours converted to RGB", *past]
    if mode.startswith("I;16"):
        wide, notes = _to_sixteen_bits(np.asarray(image).astype(np.uint16), layout.bits)
        # Pillow turns 8-bit pictures that count down from white, and leaves 16-bit ones alone.
        return _three_times(~wide if layout.white_is_zero else wide), notes
    if mode == "I":
        grey, note = _from_integers(np.asarray(image).astype(np.int64), layout)
        return _three_times(grey), [note]
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


def _first_plane(image: Image.Image) -> NDArray[Any]:
    planes = np.asarray(image)
    return planes if planes.ndim == 2 else planes[..., 0]


def _three_times(grey: NDArray[Any]) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=2)


def _from_integers(grey: NDArray[np.int64], layout: FileLayout) -> tuple[NDArray[Any], str]:
    """Scale 32-bit integers: exactly if they fit 16 bits, else by their 16 highest bits."""
    if layout.signed and layout.bits == 16:
        return (grey + 32768).astype(np.uint16), _SHIFTED
    if layout.signed and grey.min() < 0:
        note = "signed 32-bit samples shifted to start at 0 and reduced to their 16 highest bits"
        return ((grey + 2**31) >> 16).astype(np.uint16), note
    grey = grey & 0xFFFFFFFF  # Pillow keeps unsigned 32-bit samples in signed ones
    if (highest := int(grey.max())) <= 255:
        return grey.astype(np.uint8), "32-bit samples below 256 read as 8-bit"
    if highest <= 65535:
        return grey.astype(np.uint16), "32-bit samples up to 65535 read as 16-bit"
    return (grey >> 16).astype(np.uint16), "32-bit samples reduced to their 16 highest bits"


def _float_grey(grey: NDArray[Any], layout: FileLayout) -> tuple[Pixels, list[str]]:
    """Scale floating-point samples of 0..1, or whole ones of 0..255 or 0..65535, to 16 bits."""
    if not np.isfinite(grey).all():
        raise DecodeError("it holds NaN or infinite samples", remedy="Export it as 16-bit PNG.")
    low, high = float(grey.min()), float(grey.max())
    top = 1.0
    if high > 1.0 and (grey == np.floor(grey)).all():
        top = 255.0 if high <= 255.0 else 65535.0
    if low < 0.0 or high > top:
        what = f"its floating-point samples run from {low:g} to {high:g}, an unknown scale"
        raise DecodeError(what, remedy="Export it as 16-bit TIFF or PNG.")
    wide = np.round(grey.astype(np.float64) * (65535.0 / top)).astype(np.uint16)
    note = f"floating-point samples in 0..{top:g} scaled to 16 bits"
    return _three_times(~wide if layout.white_is_zero else wide), [note]


def _lab(image: Image.Image) -> Pixels:
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
    if converted is None:
        raise DecodeError("its Lab colours cannot be converted", remedy="Save it as RGB.")
    return _first_three(np.asarray(converted))


def _wide_colour(narrow: Pixels, layout: FileLayout, data: bytes) -> tuple[Pixels, list[str]]:
    """Read colours of more than 8 bits by a second way, which must agree with Pillow's high bytes.

    Of a lossy AVIF within a few steps, since each decoder converts its colours in its own way.
    """
    wide = wide_samples(data) if layout.kind else _with_opencv(data)
    if wide is not None and wide.dtype == np.uint16 and wide.shape[:2] == narrow.shape[:2]:
        pixels, notes = _to_sixteen_bits(_first_three(wide), layout.bits)
        apart = np.abs((pixels >> 8).astype(np.int16) - narrow)
        if apart.mean() <= 1 and apart.max() <= (_AVIF_STEPS if layout.bits < 16 else 0):
            return pixels, notes
    if layout.bits < 16:
        return narrow, [f"{layout.bits}-bit samples read as 8-bit"]
    raise DecodeError(
        "two decoders disagree about its 16-bit colours, or one cannot read them",
        remedy="Convert it without loss to a 16-bit PNG without transparency, and use that.",
    )


def check_avif(data: bytes) -> None:
    """Decode an AVIF again, with OpenCV's libaom, or DecodeError: dav1d reads damage as well."""
    import cv2

    # Its reader is built together with the writer.
    if cv2.haveImageWriter(".avif") and _with_opencv(data) is None:
        raise damaged("libaom, the stricter of two AVIF decoders, rejects its picture data")


def _with_opencv(data: bytes) -> NDArray[Any] | None:
    """Decode a PNG or AVIF with OpenCV: (H, W, C), red first; None if it cannot."""
    import cv2

    with _OPENCV_LOG:
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(0)  # it would print warnings about unknown tags
        try:
            found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            return None
        finally:
            cv2.utils.logging.setLogLevel(level)
    if found is None:
        return None
    return _three_times(found) if found.ndim == 2 else found[..., [2, 1, 0, 3][: found.shape[2]]]


def _to_sixteen_bits(samples: NDArray[Any], bits: int) -> tuple[NDArray[Any], list[str]]:
    if not 8 < bits < 16:
        return samples, []
    top = (1 << bits) - 1
    wide = ((samples.astype(np.uint32) * 65535 + top // 2) // top).astype(np.uint16)
    return wide, [f"{bits}-bit samples scaled to 16 bits"]
