from __future__ import annotations

from typing import Any

import pytest

from imlctl.errors import DecodeError
from imlctl.image.layout import (
    walk_boxes,
    walk_gif,
    walk_jpeg,
    walk_mpo,
    walk_png,
    walk_webp,
)


def test_jpeg_end_is_not_that_of_an_embedded_thumbnail(makers: Any) -> None:
    inner = makers.samples()["jpeg-grey"]
    thumbnail = b"\xff\xe2" + (len(inner) + 2).to_bytes(2, "big") + inner
    whole = makers.samples()["jpeg"]
    data = whole[:2] + thumbnail + whole[2:]
    layout = walk_jpeg(data + b"tail")
    assert (layout.end, layout.trailing, layout.scans) == (len(data), 4, 1)
    assert layout.size == (makers.WIDTH, makers.HEIGHT)
    assert not layout.arithmetic


def test_jpeg_scans_are_counted_and_fill_bytes_skipped(makers: Any) -> None:
    data = makers.samples()["jpeg-progressive"]
    assert walk_jpeg(data).scans > 1
    filled = data[:-2] + b"\xff\xff\xff\xd9"
    assert walk_jpeg(filled).end == len(filled)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xd8\xff\xd9", "before its picture begins"),
        (b"\xff\xd8\xff\xe0\x00\x01\xff\xd9", "no length"),
        (b"\xff\xd8\xff\xe0\xff\xff\xff\xd9", "no end marker"),
        (b"\xff\xd8\xff", "no end marker"),
    ],
)
def test_broken_jpeg_structure(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        walk_jpeg(data)


def test_mpo_reduced_to_its_first_picture_is_whole_and_noted(makers: Any) -> None:
    data = makers.samples()["mpo"]
    first = walk_jpeg(data)
    both = walk_mpo(data, first, 2)
    assert (both.frames, both.trailing, both.end) == (2, 0, first.end)
    alone = walk_mpo(data[: first.end], walk_jpeg(data[: first.end]), 2)
    assert alone.frames == 1
    assert "first only" in alone.notes[0]
    with pytest.raises(DecodeError, match="picture 2 of 2"):
        walk_mpo(data[: first.end] + b"xy", first, 2)
    with pytest.raises(DecodeError, match="no end marker"):
        walk_mpo(data[:-1], first, 2)


def test_png_checksum_end_and_depth(makers: Any) -> None:
    data = makers.samples()["png-16"]
    layout = walk_png(data + b"tail")
    assert (layout.end, layout.trailing, layout.bits) == (len(data), 4, 16)
    broken = bytearray(data)
    broken[-20] ^= 1  # in the data chunk, which Pillow does not check
    with pytest.raises(DecodeError, match="checksum of PNG chunk b'IDAT'"):
        walk_png(bytes(broken))
    with pytest.raises(DecodeError, match="no end chunk"):
        walk_png(data[:-12])
    with pytest.raises(DecodeError, match="does not begin with its header"):
        walk_png(data[:8] + makers.chunk(b"tEXt", b"a\x00b") + data[8:])


def test_gif_pictures_are_counted(makers: Any) -> None:
    assert walk_gif(makers.samples()["gif"]).frames == 1
    data = makers.samples()["gif-animated"]
    assert walk_gif(data).frames == 2
    assert walk_gif(data[:-1] + b"\x00;more").trailing == 4
    with pytest.raises(DecodeError, match="unknown GIF block"):
        walk_gif(data[:-1] + b"?")
    with pytest.raises(DecodeError, match="no trailer"):
        walk_gif(data[:-1])
    with pytest.raises(DecodeError, match="no picture"):
        walk_gif(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;")


def test_gif_frame_of_another_size_is_noted(makers: Any) -> None:
    data = bytearray(makers.samples()["gif"])
    data[6] += 8
    assert "size of its own" in walk_gif(bytes(data)).notes[0]


def test_webp_size_is_read_from_each_kind_of_header(makers: Any) -> None:
    for name in ("webp", "webp-lossless", "webp-animated"):
        data = makers.samples()[name]
        assert walk_webp(data + b"tail").size == (makers.WIDTH, makers.HEIGHT)
        assert walk_webp(data + b"tail").trailing == 4
        with pytest.raises(DecodeError, match="announces"):
            walk_webp(data[:-2])
    with pytest.raises(DecodeError, match="does not begin"):
        walk_webp(data[:12] + b"ALPH" + data[16:])


@pytest.mark.parametrize("name", ["webp", "webp-lossless", "webp-animated", "avif"])
def test_a_tail_of_zeros_is_a_failed_copy(makers: Any, name: str) -> None:
    data = makers.samples()[name]
    walk = walk_boxes if name == "avif" else walk_webp
    walk(data)
    with pytest.raises(DecodeError, match="ends in zeros"):
        walk(data[:-1030] + bytes(1030))


def test_padding_beside_the_picture_is_no_failed_copy(makers: Any) -> None:
    data = makers.samples()["avif"] + (2008).to_bytes(4, "big") + b"free" + bytes(2000)
    assert walk_boxes(data).end == len(data)
    webp = makers.samples()["webp-animated"]
    webp += b"EXIF" + (2000).to_bytes(4, "little") + bytes(2000)
    assert walk_webp(webp[:4] + (len(webp) - 8).to_bytes(4, "little") + webp[8:]).trailing == 0


def test_boxes_must_fill_the_file(makers: Any) -> None:
    data = makers.samples()["avif"]
    assert walk_boxes(data).bits == 8
    with pytest.raises(DecodeError, match="cut off"):
        walk_boxes(data[:-1])
    wide = b"\x00\x00\x00\x01free" + (20).to_bytes(8, "big") + bytes(4)
    rest = b"\x00\x00\x00\x00mdat" + bytes(9)
    assert walk_boxes(data + wide + rest).end == len(data) + len(wide) + len(rest)
    with pytest.raises(DecodeError, match="no length"):
        walk_boxes(b"\x00\x00\x00\x02ftypavif")


@pytest.mark.parametrize(("flags", "bits"), [(0x0C, 8), (0x4C, 10), (0x6C, 12)])
def test_av1_depth(flags: int, bits: int) -> None:
    box = b"\x00\x00\x00\x0cav1C\x81\x00" + bytes([flags]) + b"\x00"
    assert walk_boxes(box).bits == bits
