"""Decode HEIC and HEIF photographs through the optional package pillow-heif."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from imlctl.errors import DecodeError
from imlctl.image.layout import damaged, walk_boxes
from imlctl.image.photo import FormatFacts, check_size

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
