"""Reasons why a picture is unlike those that a model was trained on: it cannot judge them well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imlctl.image.decode import Photo

_LEAST_SIDE = 96  # pixels; a smaller picture holds less than the network looks at for one decision
_LEAST_QUALITY = 50  # of libjpeg; below it little but the compression is left
_FLAT = 2  # levels of 255 that a picture of one colour may differ by
_STRIP_SAMPLES = 1 << 22


def cautions(photo: Photo) -> tuple[str, ...]:
    """Return the reasons as phrases that can stand beside a verdict; none for most photographs."""
    facts = photo.facts
    found = []
    if min(facts.width, facts.height) < _LEAST_SIDE:
        found.append(f"too small to judge: {facts.width} x {facts.height} pixels")
    jpeg = facts.provenance.jpeg if facts.provenance else None
    if jpeg is not None and jpeg.quality is not None and jpeg.quality < _LEAST_QUALITY:
        found.append(f"strongly compressed: JPEG quality {jpeg.quality}")
    if facts.mode in ("P", "PA"):
        found.append("a palette of at most 256 colours, not a photograph's own")
    elif facts.bit_depth == 1:
        found.append("black and white without greys")
    if _of_one_colour(photo.pixels):
        found.append("a single colour throughout")
    return tuple(found)


def _of_one_colour(pixels: NDArray[np.unsignedinteger[Any]]) -> bool:
    """Tell whether no sample differs from another of its channel by more than `_FLAT`."""
    flat = _FLAT * (np.iinfo(pixels.dtype).max // 255)
    lowest = highest = pixels[0, 0]
    rows = max(1, _STRIP_SAMPLES // (3 * pixels.shape[1]))
    for top in range(0, pixels.shape[0], rows):  # most photographs are told after one strip
        strip = pixels[top : top + rows]
        lowest = np.minimum(lowest, strip.min(axis=(0, 1)))
        highest = np.maximum(highest, strip.max(axis=(0, 1)))
        if (highest.astype(int) - lowest.astype(int) > flat).any():
            return False
    return True
