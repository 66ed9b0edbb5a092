"""The boxes of a HEIF or AVIF file, and the items that they describe.

Like `exif.py`, this reads by slices and in bounded loops, so that no file can make it fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_BLOCKS = 20_000

Meta = dict[bytes, tuple[int, int]]  # start and end of the content of each box, by name


def boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the content of each ISO box between two offsets."""
    end = min(end, len(data))
    for _ in range(_MAX_BLOCKS):
        if at + 8 > end:
            return
        length, name, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif length == 0:  # to the end
            length = end - at
        if length < head:
            return
        yield name, at + head, min(at + length, end)
        at += length


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
