from __future__ import annotations

from typing import Any

import pytest

from imlctl.errors import DecodeError
from imlctl.image.layout import (
    walk_bmp,
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


def test_a_jpeg_of_very_many_scans_is_refused(makers: Any) -> None:
    data = makers.samples()["jpeg-progressive"]
    last = data[data.rindex(b"\xff\xda") : -2]
    usual = walk_jpeg(data).scans
    most = data[:-2] + last * (64 - usual) + b"\xff\xd9"
    assert walk_jpeg(most).scans == 64
    with pytest.raises(DecodeError, match="more than 64 scans"):
        walk_jpeg(most[:-2] + last + b"\xff\xd9")


def test_stray_bytes_before_a_jpeg_picture_are_bounded(makers: Any) -> None:
    data = makers.samples()["jpeg"]
    walk_jpeg(data[:2] + b"\xff" * 65_000 + data[2:])
    with pytest.raises(DecodeError, match="stray bytes"):
        walk_jpeg(data[:2] + b"\xff" * 66_000 + data[2:])


@pytest.mark.parametrize("count", [40_000, 60_000])
def test_files_of_very_many_pieces_are_refused(makers: Any, count: int) -> None:
    samples = makers.samples()
    jpeg, gif, webp = samples["jpeg"], samples["gif"], samples["webp-animated"]
    riff = b"RIFF" + (len(webp) - 8 + 8 * count).to_bytes(4, "little") + webp[8:]
    cases = (
        (walk_jpeg, jpeg[:2] + b"\xff\xfe\0\2" * count + jpeg[2:]),
        (walk_png, makers.png(makers.texture(), depth=8, extra=makers.chunk(b"abCd", b"") * count)),
        (walk_gif, gif[:205] + b"\x21\xfe\x01a\0" * count + gif[205:]),
        (walk_webp, riff + b"abcd\0\0\0\0" * count),
        (walk_boxes, samples["avif"] + b"\0\0\0\x08free" * count),
    )
    for walk, data in cases:
        if count == 40_000:
            assert walk(data).trailing == 0
        else:
            with pytest.raises(DecodeError, match="pieces"):
                walk(data)


def test_a_long_animation_is_not_very_many_pieces(makers: Any) -> None:
    frame = b"\x2c" + bytes(4) + b"\1\0\1\0\0\2\0"
    assert walk_gif(makers.samples()["gif"][:-1] + frame * 60_000 + b";").frames == 60_001


def test_what_follows_a_bmp_is_counted(makers: Any) -> None:
    data = makers.samples()["bmp"]
    assert (walk_bmp(data).trailing, walk_bmp(data).notes) == (0, ())
    assert walk_bmp(data + b"tail").trailing == 4
    unknown = data[:2] + bytes(4) + data[6:]
    assert (walk_bmp(unknown).trailing, walk_bmp(unknown).notes) == (0, ())
    for too_few in (12, len(data) - 54):
        assert walk_bmp(data[:2] + too_few.to_bytes(4, "little") + data[6:]).trailing == 0
    for length in range(34):
        assert walk_bmp(data[:length]).end == length
    runs = makers.samples()["bmp-runs"]
    assert "run-length" in walk_bmp(runs).notes[0]
    assert f"announces {len(runs)} bytes" in walk_bmp(runs[:-1]).notes[1]
