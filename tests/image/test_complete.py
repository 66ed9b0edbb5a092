from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest

from imlctl.errors import DecodeError
from imlctl.image.decode import decode
from imlctl.image.layout import walk_jpeg


@pytest.mark.parametrize("name", ["jpeg", "jpeg-progressive", "jpeg-grey", "jpeg-cmyk"])
@pytest.mark.parametrize("share", [0.75, 0.9, 0.98])
def test_cut_jpeg_with_an_end_marker_put_back(makers: Any, name: str, share: float) -> None:
    data = makers.samples()[name]
    cut = data[: int(len(data) * share)].rstrip(b"\xff") + b"\xff\xd9"
    assert walk_jpeg(cut).trailing == 0  # the structure alone shows nothing
    with pytest.raises(DecodeError, match="JPEG data end before the picture"):
        decode(cut)


@pytest.mark.parametrize("name", ["jpeg", "jpeg-progressive"])
def test_jpeg_that_claims_more_rows_than_it_has(makers: Any, name: str) -> None:
    data = bytearray(makers.samples()[name])
    frame = data.index(b"\xff\xc0" if name == "jpeg" else b"\xff\xc2")
    data[frame + 5 : frame + 7] = (2 * makers.HEIGHT).to_bytes(2, "big")
    with pytest.raises(DecodeError, match="JPEG data end before the picture"):
        decode(bytes(data))


def test_jpeg_that_is_really_grey_is_fine(makers: Any) -> None:
    grey = np.full((40, 40, 3), 128, np.uint8)
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        assert np.array_equal(decode(makers.encode(grey, "JPEG", **options)).pixels, grey)


def rows_missing(makers: Any, colour: Any, rows: int) -> bytes:
    """A PNG whose data are properly ended, a number of rows too soon."""
    height, width, _ = colour.shape
    raw = b"".join(b"\x00" + row.tobytes() for row in colour[: height - rows])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = makers.chunk(b"IHDR", header) + makers.chunk(b"IDAT", zlib.compress(raw)[:7])
    body += makers.chunk(b"IDAT", zlib.compress(raw)[7:]) + makers.chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + bytes(body)


@pytest.mark.parametrize("rows", [1, 20])
def test_png_with_rows_missing(makers: Any, rows: int) -> None:
    with pytest.raises(DecodeError, match="PNG data end before the picture"):
        decode(rows_missing(makers, makers.texture(), rows))


def test_png_that_is_really_black_below_is_fine(makers: Any) -> None:
    colour = makers.texture()
    colour[-9:] = 0
    assert np.array_equal(decode(rows_missing(makers, colour, 0)).pixels, colour)
    assert not decode(makers.black_png(60, 60)).pixels.any()
    wide = np.zeros((5, 7, 4), np.uint16)
    assert not decode(makers.png(wide, depth=16)).pixels.any()


@pytest.mark.parametrize("shape", [(16, 16), (9, 11), (1, 1), (3, 5), (2, 1)])
def test_interlaced_png(makers: Any, shape: tuple[int, int]) -> None:
    colour = makers.texture(*shape)
    assert np.array_equal(decode(makers.interlaced_png(colour)).pixels, colour)


@pytest.mark.parametrize("passes", [1, 5, 6])
def test_interlaced_png_with_passes_missing(makers: Any, passes: int) -> None:
    with pytest.raises(DecodeError, match="PNG data end before the picture"):
        decode(makers.interlaced_png(makers.texture(17, 17), passes=passes))
