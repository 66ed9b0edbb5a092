"""What a file says about where it comes from, read from the very bytes that were decoded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imlctl.image.embedded import find_embedded
from imlctl.image.exif import ExifSummary, summarise
from imlctl.image.quantisation import JpegFacts, jpeg_facts

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRIP_SAMPLES = 1 << 22


@dataclass(frozen=True, slots=True)
class Provenance:
    """Traces of a file's history. Absent ones prove nothing, and present ones can be forged.

    Attributes:
        bytes: Size of the file.
        pixels_sha256: Of the decoded samples, see `pixels_sha256`; the same for two files that
            differ in their metadata only.
        jpeg: How a JPEG was compressed; None for other formats.
        exif: What EXIF says; None where there is none.
        c2pa: A C2PA manifest store (content credentials) is embedded; it is not verified.
    """

    bytes: int
    pixels_sha256: str
    jpeg: JpegFacts | None = None
    exif: ExifSummary | None = None
    c2pa: bool = False


def provenance(data: bytes, kind: str, pixels: NDArray[Any]) -> Provenance:
    """Gather the traces in a file that was decoded; no file can make it fail.

    Args:
        data: The whole file.
        kind: As `identify` returned it.
        pixels: As `decode` returns them.
    """
    embedded = find_embedded(data, kind)
    return Provenance(
        bytes=len(data),
        pixels_sha256=pixels_sha256(pixels),
        jpeg=jpeg_facts(data) if kind == "JPEG" else None,
        exif=summarise(embedded.exif) if embedded.exif else None,
        c2pa=embedded.c2pa,
    )


def pixels_sha256(pixels: NDArray[Any]) -> str:
    """Hash decoded samples: row by row as stored, red green blue, 16-bit ones little-endian.

    Args:
        pixels: (H, W, 3) uint8 or uint16.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    rows = max(1, _STRIP_SAMPLES // (3 * pixels.shape[1]))
    for top in range(0, pixels.shape[0], rows):  # no copy of the whole where it is a view
        strip = np.ascontiguousarray(pixels[top : top + rows])
        little = strip.astype(strip.dtype.newbyteorder("<"), copy=False)
        digest.update(little.tobytes())
    return digest.hexdigest()
