"""Is an AVIF as large as it says? Its decoder stretches what is not, without a word.

Measured with Pillow 13 (libavif): a header that says 144 x 112 over data of 72 x 56 yields a
picture of 144 x 112, all of it made up by an interpolation; 1.6 kB can claim 16000 x 16000.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from imlctl.image.boxes import boxes, item_places, item_sizes, items, meta_boxes
from imlctl.image.layout import damaged, walk_boxes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imlctl.image.layout import Layout

_SEQUENCE_HEADER = 1
_MAX_UNITS = 16  # before the first sequence header there is a delimiter, if anything
_FRONT = 512  # bytes of a picture that are looked through


def walk_avif(data: bytes) -> Layout:
    """Check the boxes of an AVIF, and the announced size of every picture coded in it.

    Raises:
        DecodeError: A box is cut off, or a picture has another size than its header says.
    """
    layout = walk_boxes(data)
    compared = 0
    for announced, coded in _sizes(data):
        if announced is None or coded is None:
            compared = 0
            break
        if announced != coded:
            raise damaged(
                f"its header says {announced[0]} x {announced[1]}, its data {coded[0]} x {coded[1]}"
            )
        compared += 1
    if compared and data[8:12] != b"avis":  # the pictures of an animation are no items
        return layout
    note = "the size in its header was not compared with that of the coded picture"
    return replace(layout, notes=(*layout.notes, note))


def coded_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height from the sequence header of an AV1 stream; None without one.

    AV1 Bitstream & Decoding Process Specification, sections 5.3 and 5.5.
    """
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
            return _read_sequence_header(_Bits(data[at : at + length]))
        at += length
    return None


def _sizes(data: bytes) -> Iterator[tuple[tuple[int, int] | None, tuple[int, int] | None]]:
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


class _Bits:
    """Reads bits from the highest of the first byte on; past the end they are 0."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        value = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return value & (1 << count) - 1

    def skip_variable(self) -> None:
        """Pass over a number that has as many bits as zeros before it."""
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        self.take(zeros)


def _read_sequence_header(bits: _Bits) -> tuple[int, int]:
    bits.take(4)  # profile, still picture
    if bits.take(1):  # reduced header
        bits.take(5)
    else:
        _skip_operating_points(bits)
    wide, high = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(wide) + 1, bits.take(high) + 1


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):
            bits.skip_variable()
        if bits.take(1):  # decoder model
            delay_bits = bits.take(5) + 1
            bits.take(42)
    delays = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if delays and bits.take(1):
            bits.take(4)
