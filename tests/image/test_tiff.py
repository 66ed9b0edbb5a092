from __future__ import annotations

import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imlctl.errors import DecodeError
from imlctl.image.decode import decode
from imlctl.image.tiff import walk_tiff


def test_plain_page_is_described(makers: Any) -> None:
    layout = walk_tiff(makers.tiff(makers.grey_page(), makers.grey_page()))
    assert (layout.size, layout.frames, layout.bits) == ((8, 8), 2, 8)
    assert not layout.signed
    assert not layout.white_is_zero
    other = walk_tiff(makers.tiff(makers.grey_page(t262=0, t339=2)))
    assert other.signed
    assert other.white_is_zero


def test_big_endian_and_bigtiff(makers: Any) -> None:
    values = {256: 8, 257: 8, 258: 8, 262: 1, 273: 8, 277: 1, 279: 8}
    big = b"MM\x00+\x00\x08\x00\x00" + struct.pack(">QQ", 16, len(values))
    big += b"".join(struct.pack(">HHQQ", tag, 16, 1, value) for tag, value in values.items())
    layout = walk_tiff(big + bytes(8))
    assert (layout.size, layout.frames, layout.bits) == ((8, 8), 1, 8)


@pytest.mark.parametrize("name", ["nef", "pef", "srw", "dng"])
def test_raw_files_in_the_clothes_of_a_tiff(makers: Any, name: str) -> None:
    with pytest.raises(DecodeError, match="raw file"):
        walk_tiff(makers.raw_photos()[name])


def test_a_first_page_that_is_only_a_preview(makers: Any) -> None:
    with pytest.raises(DecodeError, match="reduced copy of another"):
        walk_tiff(makers.tiff(makers.grey_page(t254=1), makers.grey_page()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t279": 10_000}, "ends at byte"),
        ({"t273": 1_000_000}, "ends at byte"),
        ({"t278": 4}, "parts of page 1"),
        ({"t278": 0}, "without a size"),
        ({"t257": 0}, "no picture"),
        ({"t277": 3, "t284": 2}, "parts of page 1"),
    ],
)
def test_missing_picture_data(makers: Any, changes: dict[str, int], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        walk_tiff(makers.tiff(makers.grey_page(**changes)))


def jpeg_strip(makers: Any, strip: bytes) -> bytes:
    page = makers.grey_page(makers.WIDTH, makers.HEIGHT, t259=7, t279=len(strip))
    data: bytes = makers.tiff(page, body=strip)
    return data


def test_jpeg_strips_must_be_whole(makers: Any) -> None:
    strip = makers.samples()["jpeg-grey"]
    assert walk_tiff(jpeg_strip(makers, strip)).size == (makers.WIDTH, makers.HEIGHT)
    with pytest.raises(DecodeError, match="no end marker"):
        walk_tiff(jpeg_strip(makers, strip[: len(strip) // 2]))
    low = makers.encode(makers.texture(makers.HEIGHT - 8)[..., 0], "JPEG")
    with pytest.raises(DecodeError, match="lacks rows"):
        walk_tiff(jpeg_strip(makers, low))


def test_too_many_samples(makers: Any) -> None:
    with pytest.raises(DecodeError, match="7 samples per pixel"):
        walk_tiff(makers.tiff(makers.grey_page(t277=7)))


def test_a_later_page_cut_off(makers: Any) -> None:
    with pytest.raises(DecodeError, match="page 2"):
        walk_tiff(makers.tiff(makers.grey_page(), makers.grey_page(t279=10_000)))


def test_wide_samples_in_separate_planes_are_refused(makers: Any) -> None:
    tags = makers.grey_page(t277=3, t284=2).tags
    planes = makers.Directory({**tags, 258: (16, 16, 16), 273: (8, 8, 8), 279: (8, 8, 8)})
    with pytest.raises(DecodeError, match="separate planes"):
        walk_tiff(makers.tiff(planes))


def test_directories_in_a_circle_end(makers: Any) -> None:
    data = bytearray(makers.tiff(makers.grey_page()))
    first = struct.unpack_from("<I", data, 4)[0]
    data[-4:] = struct.pack("<I", first)
    assert walk_tiff(bytes(data)).frames == 1


def test_directories_cannot_make_us_read_more_than_the_file(makers: Any) -> None:
    strips = tuple([8] * 3000)
    page = makers.Directory({**makers.grey_page().tags, 273: strips, 279: tuple([1] * 3000)})
    data = bytearray(makers.tiff(page))
    first = struct.unpack_from("<I", data, 4)[0]
    directory = bytes(data[first:-4])
    for _ in range(20):  # twenty more pages, all pointing at the same 24 kB of tables
        data[-4:] = struct.pack("<I", len(data))
        data += directory + bytes(4)
    with pytest.raises(DecodeError, match="overlap"):
        walk_tiff(bytes(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"II*\x00\x00\x00\x00\x00", "no picture"),
        (b"II*\x00\x08\x00\x00\x00", "cut off"),
        (b"II*\x00\x08\x00\x00\x00\xff\xff\x00\x00", "cut off"),
        (b"MM\x00", "cut off"),
    ],
)
def test_broken_directories(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        walk_tiff(data)


def test_tag_of_an_unusable_type(makers: Any) -> None:
    data = bytearray(makers.tiff(makers.grey_page()))
    first = struct.unpack_from("<I", data, 4)[0]
    data[first + 4] = 12  # the width becomes a double
    with pytest.raises(DecodeError, match="tag 256 has an unusable type"):
        walk_tiff(bytes(data))


def test_an_old_style_jpeg_is_refused(makers: Any) -> None:
    with pytest.raises(DecodeError, match="old-style JPEG"):
        walk_tiff(makers.tiff(makers.grey_page(t259=6)))


@pytest.mark.parametrize("compression", [3, 4])
def test_fax_compression_is_noted(makers: Any, compression: int) -> None:
    layout = walk_tiff(makers.tiff(makers.grey_page(t259=compression)))
    assert "fax compression" in layout.notes[0]


@pytest.mark.parametrize("compression", [1, 5, 8])
def test_a_piece_that_is_nowhere_is_missing(makers: Any, compression: int) -> None:
    with pytest.raises(DecodeError, match="parts of page 1"):
        walk_tiff(makers.tiff(makers.grey_page(t259=compression, t273=0, t279=0)))


def test_uncompressed_rows_are_counted_and_not_believed(makers: Any) -> None:
    assert walk_tiff(makers.tiff(makers.grey_page())).notes == ()
    assert "too small" in walk_tiff(makers.tiff(makers.grey_page(t279=63))).notes[0]
    body = bytes(8 * 8)
    for changes in ({"t258": 32}, {"t277": 3}, {"t257": 60, "t278": 60}):
        with pytest.raises(DecodeError, match="ends at byte"):
            walk_tiff(makers.tiff(makers.grey_page(**changes), body=body))


def test_an_uncompressed_picture_whose_strip_has_no_size_is_read(makers: Any) -> None:
    tags = {tag: values for tag, values in makers.grey_page().tags.items() if tag != 279}
    photo = decode(makers.tiff(makers.Directory(tags), body=bytes(range(64))))
    assert photo.pixels[..., 0].ravel().tolist() == list(range(64))
    assert any("too small" in note for note in photo.facts.notes)


def test_pieces_that_overlap_are_refused(makers: Any) -> None:
    strip = makers.encode(makers.texture(8, 16)[..., 0], "JPEG")
    tags = makers.grey_page(16, 8 * 500, t259=7, t278=8).tags
    tags |= {273: (8,) * 500, 279: (len(strip),) * 500}
    with pytest.raises(DecodeError, match="overlap"):
        walk_tiff(makers.tiff(makers.Directory(tags), body=strip + bytes(len(strip) % 2)))


def test_a_picture_in_very_many_pieces_is_refused(makers: Any) -> None:
    data = bytearray(makers.tiff(makers.grey_page()))
    at = data.index(struct.pack("<HH", 273, 4)) + 4
    data[at : at + 4] = struct.pack("<I", 2**20 + 1)
    with pytest.raises(DecodeError, match="tag 273 has 1048577 values"):
        walk_tiff(bytes(data))


def test_a_directory_of_very_many_tags_is_refused(makers: Any) -> None:
    tags = {**makers.grey_page().tags, **dict.fromkeys(range(33_000, 37_100), (1,))}
    with pytest.raises(DecodeError, match="4109 entries"):
        walk_tiff(makers.tiff(makers.Directory(tags)))


def sixteen_bits(channels: int = 3) -> Any:
    return np.random.default_rng(0).integers(0, 65536, (40, 24, channels)).astype(np.uint16)


COMPRESSIONS = {"none": 1, "LZW": 5, "Deflate": 8, "PackBits": 32773, "LZMA": 34925, "ZSTD": 50000}


@pytest.mark.parametrize("compression", COMPRESSIONS.values(), ids=list(COMPRESSIONS))
@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_colours_are_exact_however_they_are_stored(
    makers: Any, compression: int, orientation: int
) -> None:
    for channels in (3, 4):
        samples = sixteen_bits(channels)
        data = makers.colour_tiff(samples, compression, t274=orientation)
        photo = decode(data)
        assert photo.facts.orientation == orientation
        assert photo.pixels.dtype == np.uint16
        assert np.array_equal(photo.pixels, samples[..., :3])


def test_16_bit_colours_obey_our_size_limit_alone(
    makers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = sixteen_bits()
    data = makers.colour_tiff(samples, 5)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert np.array_equal(decode(data).pixels, samples)


@pytest.mark.parametrize("compression", [5, 8, 50000])
def test_differences_from_the_left_are_added_up(makers: Any, compression: int) -> None:
    samples = sixteen_bits()
    photo = decode(makers.colour_tiff(samples, compression, predictor=2))
    assert np.array_equal(photo.pixels, samples)


@pytest.mark.parametrize("compression", [5, 8, 32773, 34925])
@pytest.mark.parametrize("depth", [8, 16])
def test_damaged_parts_are_refused(makers: Any, compression: int, depth: int) -> None:
    samples = np.kron(sixteen_bits(), np.ones((8, 8, 1), np.uint16))  # squares, which compress
    if depth == 8:
        samples = (samples >> 8).astype(np.uint8)
    data = makers.colour_tiff(samples, compression, rows=64)
    assert decode(data).facts.notes == ()
    draw = random.Random(0)
    for at in draw.sample(range(100, len(data) // 2), 3):
        for block in (draw.randbytes(512), bytes(512), b"bad sector. " * 43):
            with pytest.raises(DecodeError):
                decode(data[:at] + block[:512] + data[at + 512 :])


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "zstd"])
def test_damaged_brightness_and_colour_differences_are_refused(
    makers: Any, compression: str
) -> None:
    squares = np.kron(makers.texture(40, 60), np.ones((8, 8, 1), np.uint8))
    picture = Image.fromarray(squares).convert("YCbCr")
    data = makers.encode(picture, "TIFF", compression=compression)
    assert decode(data).facts.notes == ()
    at = len(data) // 2
    with pytest.raises(DecodeError):
        decode(data[:at] + random.Random(0).randbytes(300) + data[at + 300 :])


def test_packbits_that_go_over_the_ends_of_rows_are_no_damage(makers: Any) -> None:
    plain = np.full((16, 200, 3), 77, np.uint8)
    squeezed = b"".join(bytes([257 - 120, 77]) for _ in range(plain.size // 120))
    page = {**makers.grey_page(200, 16, t262=2, t277=3, t259=32773, t279=len(squeezed)).tags}
    page[258] = (8, 8, 8)
    data = makers.tiff(makers.Directory(page), body=squeezed)
    assert np.array_equal(decode(data).pixels, plain)


def test_a_damaged_jpeg_within_a_tiff_is_refused(makers: Any) -> None:
    picture = Image.fromarray(np.kron(makers.texture(40, 60), np.ones((8, 8, 1), np.uint8)))
    data = makers.encode(picture, "TIFF", compression="jpeg", quality=90)
    assert decode(data).facts.notes == ()
    at = len(data) // 2
    with pytest.raises(DecodeError, match="plain text in the picture data"):
        decode(data[:at] + b"A sector of another file. " * 20 + data[at + 520 :])


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({"t259": 34712}, "holds a JPEG 2000 picture"),
        ({"t259": 50001}, "holds a WebP picture"),
        ({"t259": 50002}, "holds a JPEG XL picture"),
        ({"t259": 12345}, "data of compression 12345"),
        ({"t339": 3}, "3 floating-point samples of 16 bits"),
        ({"t262": 8}, r"\(Lab\)"),
    ],
)
def test_kinds_that_are_not_read_are_named_and_not_called_damaged(
    makers: Any, tags: dict[str, int], told: str
) -> None:
    samples = sixteen_bits()
    data = makers.colour_tiff(samples, **tags)
    with pytest.raises(DecodeError, match=told) as caught:
        decode(data)
    assert "which imlctl does not read" in caught.value.what
    assert "original" not in caught.value.remedy


def test_a_big_endian_bigtiff_is_not_called_damaged() -> None:
    values = {256: 8, 257: 8, 258: 8, 262: 1, 273: 8, 277: 1, 279: 8}
    data = b"MM\x00+\x00\x08\x00\x00" + struct.pack(">QQ", 16, len(values))
    data += b"".join(struct.pack(">HHQQ", tag, 16, 1, value) for tag, value in values.items())
    with pytest.raises(DecodeError, match="a big-endian BigTIFF, which imlctl does not read"):
        decode(data + bytes(8))


@pytest.mark.parametrize("compression", [8, 32773, 34925])
def test_a_last_strip_filled_up_is_no_damage_and_a_bomb_ends(makers: Any, compression: int) -> None:
    samples = np.kron(sixteen_bits(), np.ones((2, 2, 1), np.uint16))  # 80 rows
    padded = np.concatenate([samples, samples[:16]])  # to three strips of 32 rows
    data = makers.colour_tiff(padded, compression, rows=32)
    shorter = makers.colour_tiff(padded, compression, rows=32, t257=80)
    assert np.array_equal(decode(shorter).pixels, samples)
    assert np.array_equal(decode(data).pixels, padded)
    bomb = makers.tiff(
        makers.grey_page(t259=8, t279=200_000), body=zlib.compress(bytes(200_000_000))[:200_000]
    )
    with pytest.raises(DecodeError):
        decode(bomb)
