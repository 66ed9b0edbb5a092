from __future__ import annotations

import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imlctl.errors import DecodeError
from imlctl.image.boxes import walk_boxes
from imlctl.image.containers import walk_bmp, walk_gif, walk_png, walk_webp, without_metadata
from imlctl.image.decode import decode
from imlctl.image.jpeg import walk_jpeg


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
    decode(data)
    with pytest.raises(DecodeError, match=r"ends in zeros|used up before their end"):
        decode(data[:-1030] + bytes(1030))


@pytest.mark.parametrize("animated", [False, True])
def test_damage_by_which_a_webp_decoder_loses_its_way(makers: Any, animated: bool) -> None:
    second = [Image.fromarray(makers.texture(200, 240, seed=1))] * animated
    data = makers.encode(makers.texture(200, 240), "WEBP", save_all=animated, append_images=second)
    start, draw = data.index(b"VP8 ") + 1000, random.Random(0)
    refused = 0
    for _ in range(20):
        at = draw.randrange(start, start + 4000)
        try:
            decode(data[:at] + draw.randbytes(32) + data[at + 32 :])
        except DecodeError:
            refused += 1
    assert refused >= 18


@pytest.mark.parametrize("quality", [1, 75, 100])
@pytest.mark.parametrize("lossless", [False, True])
def test_whole_webps_need_all_their_data(makers: Any, quality: int, lossless: bool) -> None:
    half = np.full((160, 160, 3), 77, np.uint8)
    half[:40] = makers.texture(40, 160)
    for pixels in (makers.texture(90, 130), half, half[::-1], np.zeros_like(half), half[60:62, :2]):
        for method in (0, 4, 6):
            how = {"quality": quality, "lossless": lossless, "method": method}
            data = makers.encode(np.ascontiguousarray(pixels), "WEBP", **how)
            assert decode(data).facts.notes == ()


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


def test_a_png_is_decoded_without_its_profile_and_texts(makers: Any) -> None:
    pixels = makers.texture()
    profile = makers.chunk(b"iCCP", b"a\0\0" + zlib.compress(np.random.default_rng(0).bytes(9999)))
    large = zlib.compress(bytes(3_000_000))
    texts = (
        makers.chunk(b"tEXt", b"Title\0iCCP"),
        makers.chunk(b"zTXt", b"Comment\0\0" + large),
        makers.chunk(b"zTXt", b"Raw profile type exif\0\0" + large),
        makers.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + large),
        makers.chunk(b"zTXt", b"Raw profile type exif\0\0not compressed"),
    )
    plain = makers.png(pixels, depth=8)
    assert without_metadata(plain) is plain
    for extra in (profile, *texts, profile + texts[1], texts[1] + profile):
        data = makers.png(pixels, depth=8, extra=extra)
        assert without_metadata(data) == plain
        assert without_metadata(data + b"tail") == plain + b"tail"
        photo = decode(data)
        assert np.array_equal(photo.pixels, pixels)
        assert photo.facts.icc_profile == (profile in extra)


@pytest.mark.parametrize("packed", [False, True])
def test_exif_in_a_text_is_kept(makers: Any, packed: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes()
    text = f"\nexif\n{len(body):8}\n{body.hex()}\n".encode()
    key = b"Raw profile type exif\0"
    chunk = (b"zTXt", key + b"\0" + zlib.compress(text)) if packed else (b"tEXt", key + text)
    data = makers.png(makers.texture(), depth=8, extra=makers.chunk(*chunk))
    assert decode(data).facts.orientation == 6


def test_kinds_that_are_not_read_are_not_called_damaged(makers: Any) -> None:
    data = makers.samples()["png"]
    iphone = data[:8] + makers.chunk(b"CgBI", b"\x50\0\x20\2") + data[8:]
    files = {"iPhone": iphone}
    for compression, kind in ((4, "JPEG"), (5, "PNG")):
        bmp = bytearray(makers.samples()["bmp"])
        bmp[30] = compression
        files[kind] = bytes(bmp)
    for word, file in files.items():
        with pytest.raises(DecodeError, match=word) as caught:
            decode(file)
        assert "which imlctl does not read" in caught.value.what
        assert "original" not in caught.value.remedy


def test_a_profile_beyond_a_megabyte_is_no_obstacle(makers: Any) -> None:
    pixels = makers.texture()
    profile = zlib.compress(np.random.default_rng(0).bytes(1_500_000))
    data = makers.png(pixels, depth=8, extra=makers.chunk(b"iCCP", b"a\0\0" + profile))
    photo = decode(data)
    assert np.array_equal(photo.pixels, pixels)
    assert photo.facts.icc_profile
    assert not decode(makers.png(pixels, depth=8)).facts.icc_profile
