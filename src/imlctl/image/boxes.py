"""The boxes of a HEIF or AVIF file, read by slices and in bounded loops, which cannot fail.

An AVIF must be as large as it says, since libavif enlarges what is not, without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from imlctl.image.containers import refuse_zero_tail
from imlctl.image.formats import FileLayout, check_pieces, damaged, truncated

_MAX_BLOCKS = 20_000
_SEQUENCE_HEADER = 1
_MAX_UNITS = 16  # before the first sequence header there is a delimiter, if anything
_FRONT = 512  # bytes of a picture that are looked through

_AV1_FLAGS = re.compile(rb"av1C..(.)", re.DOTALL)  # of an AV1 codec configuration

Meta = dict[bytes, tuple[int, int]]  # start and end of the content of each box, by name
Size = tuple[int, int]  # width and height


def boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the content of each ISO box between two offsets."""
    end = min(end, len(data))
    for _ in range(_MAX_BLOCKS):
        name, head, length = _box(data, at, end)
        if at + 8 > end or length < head:
            return
        yield name, at + head, min(at + length, end)
        at += length


def _box(data: bytes, at: int, end: int) -> tuple[bytes, int, int]:
    """Return name, size of the header, and length of the box at an offset."""
    length, head = int.from_bytes(data[at : at + 4], "big"), 8
    if length == 1:
        length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
    elif length == 0:  # to the end
        length = end - at
    return data[at + 4 : at + 8], head, length


def meta_boxes(data: bytes, start: int, end: int) -> Meta:
    """Return the boxes within the content of a ``meta`` box."""
    return {name: (at, stop) for name, at, stop in boxes(data, start + 4, end)}


def items(data: bytes, meta: Meta) -> Iterator[tuple[int, bytes]]:
    """Yield number and kind of each item."""
    start, end = meta.get(b"iinf", (0, 0))
    for name, at, _ in boxes(data, start + (6 if data[start : start + 1] == b"\0" else 8), end):
        wide = 4 if data[at : at + 1] == b"\3" else 2  # by version: numbers of 2 or 4 bytes
        if name == b"infe":
            number = Cursor(data, at + 4).integer(wide)
            yield number, data[at + 6 + wide : at + 10 + wide]


def item_sizes(data: bytes, meta: Meta) -> dict[int, tuple[int, int]]:
    """Return width and height that the first ``ispe`` property gives for each item."""
    inner = {name: (at, stop) for name, at, stop in boxes(data, *meta.get(b"iprp", (0, 0)))}
    properties = list(boxes(data, *inner.get(b"ipco", (0, 0))))
    if b"ipma" not in inner:
        return {}
    start, end = inner[b"ipma"]
    cursor, sizes = Cursor(data, start), dict[int, tuple[int, int]]()
    head = cursor.integer(4)
    for _ in range(min(cursor.integer(4), (end - start) // 3, _MAX_BLOCKS)):
        item = cursor.integer(4 if head >> 24 else 2)
        for _ in range(cursor.integer(1)):
            index = cursor.integer(2) & 0x7FFF if head & 1 else cursor.integer(1) & 0x7F
            if 0 < index <= len(properties) and properties[index - 1][0] == b"ispe":
                size = Cursor(data, properties[index - 1][1] + 4)
                sizes.setdefault(item, (size.integer(4), size.integer(4)))
    return sizes


@dataclass(slots=True)
class Cursor:
    """Reads one big-endian number after another; past the end they are 0."""

    data: bytes
    at: int

    def integer(self, size: int) -> int:
        """Read the next number of so many bytes."""
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")


def item_places(data: bytes, meta: Meta) -> dict[int, tuple[int, int]]:
    """Return offset and length of each item that lies in the file in one piece."""
    start, end = meta.get(b"iloc", (0, 0))
    cursor, places = Cursor(data, start), dict[int, tuple[int, int]]()
    version = cursor.integer(4) >> 24
    first, second = cursor.integer(1), cursor.integer(1)
    offset_size, length_size = first >> 4, first & 15
    base_size, index_size = second >> 4, second & 15 if version else 0
    wide = 4 if version == 2 else 2
    for _ in range(min(cursor.integer(wide), (end - start) // (wide + 4), _MAX_BLOCKS)):
        number = cursor.integer(wide)
        method = cursor.integer(2) & 15 if version else 0
        cursor.integer(2)  # which file: this one
        base = cursor.integer(base_size)
        extents = cursor.integer(2)
        following = cursor.at + extents * (index_size + offset_size + length_size)
        cursor.integer(index_size)
        if method == 0 and extents == 1:
            offset = base + cursor.integer(offset_size)
            places.setdefault(number, (offset, cursor.integer(length_size)))
        cursor.at = following
    return places


def walk_boxes(data: bytes) -> FileLayout:
    """Check that the top-level boxes of a HEIF or AVIF file fill it; raise DecodeError if not."""
    position, pieces = 0, 0
    while position < len(data):
        pieces += 1
        check_pieces(pieces, data)
        kind, header, length = _box(data, position, len(data))
        if position + header > len(data) or position + length > len(data):
            raise truncated(f"the box at byte {position} is cut off")
        if length < header:
            raise damaged(f"the box at byte {position} has no length")
        position += length
        if kind == b"mdat":
            refuse_zero_tail(data, position)
    return FileLayout(end=position, bits=_av1_bits(data))


def _av1_bits(data: bytes) -> int:
    """Return the sample depth of the first AV1 codec configuration, 8 where there is none."""
    found = _AV1_FLAGS.search(data)
    return {0x40: 10, 0x60: 12}.get(found[1][0] & 0x60, 8) if found else 8


def walk_avif(data: bytes) -> FileLayout:
    """Check the boxes of an AVIF, and the announced size of every picture coded in it."""
    layout, compared = walk_boxes(data), False
    for announced, coded in _sizes(data):
        compared = announced is not None and coded is not None
        if not announced or not coded:
            break
        if announced != coded:
            says, has = (f"{width} x {height}" for width, height in (announced, coded))
            raise damaged(f"its header says {says}, its data {has}")
    if compared and data[8:12] != b"avis":  # the pictures of an animation are no items
        return layout
    note = "the size in its header was not compared with that of the coded picture"
    return replace(layout, notes=(*layout.notes, note))


def _sizes(data: bytes) -> Iterator[tuple[Size | None, Size | None]]:
    """Yield the announced and the true size of each coded picture, None where unknown."""
    for name, start, end in boxes(data, 0, len(data)):
        if name != b"meta":
            continue
        meta = meta_boxes(data, start, end)
        announced, places = item_sizes(data, meta), item_places(data, meta)
        for number, kind in items(data, meta):
            if kind == b"av01":
                start, length = places.get(number, (0, 0))
                coded = coded_size(data[start : start + min(length, _FRONT)])
                yield announced.get(number), coded


def coded_size(data: bytes) -> Size | None:
    """Return width and height from an AV1 stream (its specification, 5.3 and 5.5), or None."""
    at = 0
    for _ in range(_MAX_UNITS):
        head = data[at : at + 1]
        if not head:
            return None
        kind, extended, sized = head[0] >> 3 & 15, head[0] >> 2 & 1, head[0] >> 1 & 1
        at += 1 + extended
        length = len(data) - at
        if sized:
            length, shift, more = 0, 0, True
            while more and shift < 56:
                byte = data[at] if at < len(data) else 0
                length |= (byte & 0x7F) << shift
                more, shift, at = byte > 0x7F, shift + 7, at + 1
        if kind == _SEQUENCE_HEADER:
            return _sequence_size(data[at : at + length])
        at += length
    return None


def _sequence_size(header: bytes) -> Size:
    """Read a sequence header, from the highest bit of each byte on, up to the size in it."""
    value, left = int.from_bytes(header, "big"), 8 * len(header)

    def take(count: int) -> int:  # past the end, bits are 0
        nonlocal left
        left -= count
        return (value >> left if left >= 0 else value << -left) & (1 << count) - 1

    delay_bits = 0
    take(4)  # profile, still picture
    if take(1):  # reduced header
        take(5)
    else:
        if take(1):  # timing
            take(64)
            if take(1):  # a number that has as many bits as zeros before it
                zeros = 0
                while zeros < 32 and not take(1):
                    zeros += 1
                take(zeros)
            if take(1):  # decoder model
                delay_bits = take(5) + 1
                take(42)
        delays = take(1)
        for _ in range(take(5) + 1):  # operating points
            take(12)
            if take(5) > 7:
                take(1)
            if delay_bits and take(1):
                take(2 * delay_bits + 1)
            if delays and take(1):
                take(4)
    wide, high = take(4) + 1, take(4) + 1
    return take(wide) + 1, take(high) + 1
