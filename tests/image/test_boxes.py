from __future__ import annotations

import struct
import time

from imlctl.image.boxes import item_places, item_sizes, items, meta_boxes
from imlctl.image.embedded import find_embedded


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
    began = time.process_time()
    found = find_embedded(box(b"ftyp", b"avif\0\0\0\0") + one * 5000, "AVIF")
    assert found.exif is None
    assert time.process_time() - began < 2
