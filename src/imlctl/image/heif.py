"""HEIC and HEIF, read by pillow-heif."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from imlctl.errors import DecodeError
from imlctl.image.boxes import walk_boxes
from imlctl.image.facts import FormatFacts
from imlctl.image.formats import check_size, damaged

if TYPE_CHECKING:
    from numpy.typing import NDArray


def decode_heif(data: bytes, max_pixels: int) -> tuple[NDArray[Any], FormatFacts]:
    """Decode the primary picture of a HEIF container.

    The container's own cropping and turning belong to the format and are applied by the decoder;
    an EXIF orientation beside them is informative only, by the standard, and is not.
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
    icc_profile, alpha = bool(info.get("icc_profile")), bool(picture.has_alpha)
    frames = len(container)
    notes = [f"primary of {frames} pictures analysed"] if frames > 1 else []
    notes += left_aside(alpha=alpha, icc_profile=icc_profile)
    if pixels.dtype == np.uint16:
        notes.append(f"{bits}-bit samples shifted up to 16 bits")
    facts = FormatFacts(
        "HEIF",
        width,
        height,
        str(picture.mode),
        bits,
        frames=frames,
        icc_profile=icc_profile,
        alpha=alpha,
        notes=(*layout.notes, *notes),
    )
    return np.ascontiguousarray(pixels[..., :3]), facts


def left_aside(*, alpha: bool, icc_profile: bool) -> list[str]:
    """Name the parts of a picture that are not used."""
    ignored = ["transparency ignored"] if alpha else []
    return [*ignored, "colour profile not applied"] if icc_profile else ignored
