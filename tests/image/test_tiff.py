from __future__ import annotations

import struct
from typing import Any

import pytest

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
    with pytest.raises(DecodeError, match="small copy of another"):
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
