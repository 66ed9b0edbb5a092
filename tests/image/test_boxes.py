from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imlctl.errors import DecodeError
from imlctl.image.boxes import coded_size, item_places, item_sizes, items, meta_boxes, walk_avif
from imlctl.image.metadata import find_embedded


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + name + body


def meta(*parts: bytes) -> tuple[bytes, dict[bytes, tuple[int, int]]]:
    data = box(b"meta", bytes(4) + b"".join(parts))
    return data, meta_boxes(data, 8, len(data))


def test_items_and_where_they_lie() -> None:
    for version, wide in ((0, ">H"), (1, ">H"), (2, ">I")):
        entries = b""
        for number, base, length in ((1, 100, 7), (300, 200, 8)):
            entries += struct.pack(wide, number) + (b"\0\0" if version else b"") + bytes(2)
            entries += struct.pack(">IHII", base, 1, 10, length)
        head = bytes([version, 0, 0, 0, 0x44, 0x40]) + struct.pack(wide, 2)
        data, boxes = meta(box(b"iloc", head + entries))
        assert item_places(data, boxes) == {1: (110, 7), 300: (210, 8)}


def test_an_item_in_several_pieces_has_no_one_place() -> None:
    many = struct.pack(">HHIH", 1, 0, 0, 2) + struct.pack(">IIII", 5, 6, 7, 8)
    one = struct.pack(">HHIH", 2, 0, 0, 1) + struct.pack(">II", 9, 10)
    head = bytes([0, 0, 0, 0, 0x44, 0x40]) + struct.pack(">H", 2)
    data, boxes = meta(box(b"iloc", head + many + one))
    assert item_places(data, boxes) == {2: (9, 10)}


def test_kinds_and_sizes_of_items() -> None:
    infe = [
        box(b"infe", bytes([2, 0, 0, 0]) + struct.pack(">HH", 1, 0) + b"av01\0"),
        box(b"infe", bytes([3, 0, 0, 0]) + struct.pack(">IH", 70_000, 0) + b"Exif\0"),
    ]
    ispe = [box(b"ispe", bytes(4) + struct.pack(">II", 7 * n, 5 * n)) for n in (1, 2)]
    links = struct.pack(">IH", 2, 1) + bytes([2, 1, 0x83])
    links += struct.pack(">H", 9) + bytes([1, 99])
    data, boxes = meta(
        box(b"iinf", bytes(4) + struct.pack(">H", 2) + b"".join(infe)),
        box(
            b"iprp",
            box(b"ipco", ispe[0] + box(b"pixi", b"xx") + ispe[1]) + box(b"ipma", bytes(4) + links),
        ),
    )
    assert list(items(data, boxes)) == [(1, b"av01"), (70_000, b"Exif")]
    assert item_sizes(data, boxes) == {1: (7, 5)}  # the first that is named


def test_what_is_missing_is_empty() -> None:
    data, boxes = meta()
    assert (item_places(data, boxes), item_sizes(data, boxes)) == ({}, {})
    assert list(items(data, boxes)) == []


def test_counts_that_lie_cost_no_time() -> None:
    """Each of many boxes claims as many entries as there can be."""
    exif = box(b"infe", bytes([2, 0, 0, 0]) + struct.pack(">HH", 1, 0) + b"Exif\0")
    iinf = box(b"iinf", bytes(4) + b"\0\1" + exif)
    iloc = box(b"iloc", bytes([1, 0, 0, 0, 0x44, 0x44]) + b"\xff\xff")
    one = box(b"meta", bytes(4) + iinf + iloc)
    found = find_embedded(box(b"ftyp", b"avif\0\0\0\0") + one * 5000, "AVIF")
    assert found.exif is None


class Writer:
    """Writes bits, the highest first; the reverse of what is tested."""

    def __init__(self) -> None:
        self.bits = ""

    def put(self, count: int, value: int = 0) -> Writer:
        self.bits += f"{value:0{count}b}" if count else ""
        return self

    def unit(self, kind: int = 1, *, sized: bool = True, extended: bool = False) -> bytes:
        whole = self.bits + "0" * (-len(self.bits) % 8)
        body = int(whole, 2).to_bytes(len(whole) // 8, "big") if whole else b""
        head = bytes([kind << 3 | extended << 2 | sized << 1]) + b"\0" * extended
        return head + (bytes([len(body)]) if sized else b"") + body


def reduced(width: int, height: int) -> Writer:
    """The short header of a still picture."""
    writer = Writer().put(3).put(1, 1).put(1, 1).put(5)
    return sides(writer, width, height)


def sides(writer: Writer, width: int, height: int) -> Writer:
    bits = [(side - 1).bit_length() or 1 for side in (width, height)]
    writer.put(4, bits[0] - 1).put(4, bits[1] - 1)
    return writer.put(bits[0], width - 1).put(bits[1], height - 1)


@given(width=st.integers(1, 65536), height=st.integers(1, 65536), extended=st.booleans())
def test_size_of_a_still_picture(width: int, height: int, extended: bool) -> None:
    header = reduced(width, height)
    assert coded_size(header.unit(extended=extended)) == (width, height)
    assert coded_size(Writer().unit(2) + header.unit()) == (width, height)
    assert coded_size(header.unit(sized=False) + b"\xff\xff") == (width, height)


@given(st.data())
def test_size_behind_every_optional_part(data: st.DataObject) -> None:
    """Section 5.5.1 of the specification, written down once more from the writer's side."""
    draw, writer = data.draw, Writer().put(3, 1).put(1).put(1)
    timing, model = draw(st.booleans()), False
    writer.put(1, timing)
    if timing:
        writer.put(32, 1).put(32, 30)
        equal = draw(st.booleans())
        writer.put(1, equal)
        if equal:
            zeros = draw(st.integers(0, 20))
            writer.put(zeros).put(1, 1).put(zeros)
        model = draw(st.booleans())
        writer.put(1, model)
        delay = draw(st.integers(1, 32))
        if model:
            writer.put(5, delay - 1).put(32).put(5).put(5)
    display = draw(st.booleans())
    points = draw(st.integers(1, 5))
    writer.put(1, display).put(5, points - 1)
    for _ in range(points):
        level = draw(st.integers(0, 31))
        writer.put(12).put(5, level)
        if level > 7:
            writer.put(1)
        if model:
            here = draw(st.booleans())
            writer.put(1, here)
            if here:
                writer.put(delay).put(delay).put(1)
        if display:
            here = draw(st.booleans())
            writer.put(1, here)
            if here:
                writer.put(4, 9)
    assert coded_size(sides(writer, 4032, 3024).unit()) == (4032, 3024)


@given(st.binary(max_size=80))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    size = coded_size(data)
    assert size is None or min(size) >= 1


@pytest.mark.parametrize("shape", [(1, 1), (56, 72), (333, 517)])
@pytest.mark.parametrize("channels", [3, 4])
def test_pictures_that_are_as_large_as_they_say(
    makers: Any, shape: tuple[int, int], channels: int
) -> None:
    pixels = np.repeat(makers.texture(*shape), 2, axis=2)[..., :channels]
    assert walk_avif(makers.encode(pixels, "AVIF")).notes == ()


@pytest.mark.parametrize("size", [(144, 112), (36, 28), (73, 56), (72, 55)])
def test_a_picture_that_its_decoder_would_stretch(makers: Any, size: tuple[int, int]) -> None:
    data = bytearray(makers.samples()["avif"])
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", *size)
    with pytest.raises(DecodeError, match=f"says {size[0]} x {size[1]}, its data 72 x 56"):
        walk_avif(bytes(data))


@pytest.mark.parametrize("box", [b"ispe", b"ipma", b"iloc", b"iinf"])
def test_what_cannot_be_compared_is_noted(makers: Any, box: bytes) -> None:
    data = makers.samples()["avif"].replace(box, b"free")
    assert "was not compared" in walk_avif(data).notes[0]


def test_an_animation_is_noted(makers: Any) -> None:
    data = makers.encode(Image.fromarray(makers.texture()), "AVIF", **makers.two())
    assert "was not compared" in walk_avif(data).notes[0]
