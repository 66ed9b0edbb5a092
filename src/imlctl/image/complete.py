"""Make sure that the compressed data of a decoded picture reached its last pixel.

A file that was cut and then properly ended, by a repair or by a forger, has rows that its decoder
made up: libjpeg paints them mid-grey, Pillow leaves them black in a PNG. Only where the end of the
picture has that look is it worth a second pass over the data.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import JpegImagePlugin

from imlctl.image.layout import truncated

if TYPE_CHECKING:
    from PIL import Image

    from imlctl.image.layout import Layout

# Stands in for data that a JPEG lacks; has no 0xFF, which would start a marker.
_FILLER = bytes(i * 89 % 251 for i in range(4096))
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG colour type
# Adam7: first column, first row, column step, row step of each pass.
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_PIECE = 1 << 20  # bytes inflated at a time


def check_jpeg(image: Image.Image, layout: Layout, data: bytes) -> None:
    """Check a loaded JPEG whose last pixel is grey, or that came in several scans.

    If other bytes in place of the end marker change the picture, the decoder had gone past the
    data. An arithmetic decoder may do so by the standard, and is exempt.

    Raises:
        DecodeError: The data end before the picture is complete.
    """
    corner = np.asarray(image.getpixel((image.width - 1, image.height - 1)))
    grey = bool(np.isin(corner, (127, 128)).all())
    if layout.arithmetic or not (grey or layout.scans > 1):
        return
    body = data[: layout.end - 2].rstrip(b"\xff")
    other = JpegImagePlugin.JpegImageFile(BytesIO(body + _FILLER + b"\xff\xd9"))
    other.load()
    if not np.array_equal(np.asarray(other), np.asarray(image)):
        raise truncated("the JPEG data end before the picture is complete")


def check_png(image: Image.Image, data: bytes) -> None:
    """Check a loaded PNG whose last row is zero, or that is interlaced, by counting its bytes.

    Raises:
        DecodeError: The data end before the picture is complete.
    """
    interlaced = data[28] == 1
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    if not interlaced and np.asarray(last_row).any():
        return
    bits = data[24] * _CHANNELS[data[25]]
    expected = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns = -(-(image.width - left) // across)
        rows = -(-(image.height - top) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + -(-columns * bits // 8))
    if _inflated_size(data) < expected:
        raise truncated("the PNG data end before the picture is complete")


def _inflated_size(data: bytes) -> int:
    """Count what the data chunks of a PNG inflate to, a piece at a time."""
    inflate, total, position = zlib.decompressobj(), 0, 8
    view = memoryview(data)
    while (kind := data[position + 4 : position + 8]) != b"IEND":
        length = int.from_bytes(data[position : position + 4], "big")
        if kind == b"IDAT":
            rest: bytes | memoryview = view[position + 8 : position + 8 + length]
            while rest and not inflate.eof:
                total += len(inflate.decompress(rest, _PIECE))
                rest = inflate.unconsumed_tail
        position += 12 + length
    return total
