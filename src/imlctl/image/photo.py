"""What a decoded photograph is, and what is recorded about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imlctl.errors import TooLargeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imlctl.image.provenance import Provenance

# 16384 x 16384: beyond any phone (200 MP) or medium-format camera (150 MP), and a fraction of what
# a decompression bomb needs. Pillow itself stops at 179 MP for WebP.
DEFAULT_MAX_PIXELS = 2**28

_MAX_NOTES = 20  # a file made to annoy cannot flood the record
_LEAST_SIDE = 64  # what a strip is widened to before it is analysed, see `prepare`
_HARMLESS = 2**22  # that many pixels fit anywhere


@dataclass(frozen=True, slots=True)
class FormatFacts:
    """What a file says about its picture, for the record.

    Attributes:
        format: ``JPEG``, ``MPO``, ``PNG``, ``WEBP``, ``TIFF``, ``BMP``, ``GIF``, ``HEIF``, or
            ``AVIF``.
        width: Stored width in pixels, before turning upright.
        height: Stored height in pixels.
        mode: Pixel mode as stored, in Pillow's words: ``RGB``, ``CMYK``, ``P``, ``I;16``, ...
        bit_depth: Bits per sample as stored.
        orientation: EXIF orientation, 1 to 8; 1 when absent or invalid.
        frames: Number of pictures in the file; one is analysed.
        icc_profile: A colour profile is embedded; it is never applied.
        alpha: There is transparency; it is ignored.
        notes: Sentences without a full stop, one for each thing out of the ordinary.
        provenance: Traces of the file's history; `decode` adds them.
    """

    format: str
    width: int
    height: int
    mode: str
    bit_depth: int
    orientation: int = 1
    frames: int = 1
    icc_profile: bool = False
    alpha: bool = False
    notes: tuple[str, ...] = ()
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.bit_depth, self.frames) < 1:
            raise ValueError("width, height, bit_depth and frames must be positive")
        if not 1 <= self.orientation <= 8:
            raise ValueError(f"orientation must be 1 to 8, not {self.orientation}")
        # Repeated warnings say nothing new.
        object.__setattr__(self, "notes", tuple(dict.fromkeys(self.notes))[:_MAX_NOTES])


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A decoded photograph.

    Attributes:
        pixels: (H, W, 3) uint8 or uint16, red green blue, as stored (not turned), read-only.
        facts: What the file says about itself.
        sha256: Of exactly the encoded bytes that were decoded, 64 hexadecimal digits.
        source: Name for messages.
    """

    pixels: NDArray[Any]
    facts: FormatFacts
    sha256: str
    source: str

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


def pixels_as_float(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Scale uint8 or uint16 samples to float32 in [0, 1] by the maximum of their type."""
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture by the size in its header, before anything is decoded.

    Raises:
        TooLargeError: It has more pixels than `max_pixels`, or would have once it is as wide and
            as high as a model needs: a strip one pixel high grows 64 times.
    """
    widened = max(width, _LEAST_SIDE) * max(height, _LEAST_SIDE)
    if width * height > max_pixels or widened > max(max_pixels, _HARMLESS):
        raise TooLargeError(
            f"the picture is {width} x {height}, more than the limit of {max_pixels} pixels"
            + ("" if width * height > max_pixels else f", once no side is under {_LEAST_SIDE}"),
            remedy="Raise the limit on the number of pixels if that is its true size.",
        )
