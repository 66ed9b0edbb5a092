"""Find what a picture file carries beside its pixels: EXIF, and a C2PA manifest.

Like `exif.py`, this reads by slices and in bounded loops, so that no file can make it fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imlctl.image.exif import Tiff
from imlctl.image.quantisation import segments

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_BLOCKS = 20_000
_EXIF_MARK = b"Exif\0\0"

# The C2PA specification, on embedding manifests: where each format keeps its manifest store.
_C2PA_STORE = b"jumdc2pa" + bytes.fromhex("00110010800000aa00389b71")  # type of its JUMBF box
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_C2PA_TIFF_TAG = 0xCD41
_C2PA_GIF = b"\x21\xff\x0bC2PA_GIF"


@dataclass(frozen=True, slots=True)
class Embedded:
    """What was found.

    Attributes:
        exif: The EXIF metadata as a TIFF structure.
        c2pa: There is a C2PA manifest store; its signatures are not verified here.
    """

    exif: Tiff | None = None
    c2pa: bool = False


def find_embedded(data: bytes, kind: str) -> Embedded:
    """Look through a file of a kind that `identify` returned."""
    match kind:
        case "JPEG":
            return _in_jpeg(data)
        case "PNG":
            return _in_chunks(_png_chunks(data), exif=b"eXIf", c2pa=b"caBX")
        case "WEBP":
            return _in_chunks(_riff_chunks(data), exif=b"EXIF", c2pa=b"C2PA")
        case "HEIF" | "AVIF":
            return _in_boxes(data)
        case "TIFF":
            tiff = Tiff(data)
            return Embedded(tiff, _C2PA_TIFF_TAG in tiff.directory(tiff.first)[0])
        case "GIF":
            return Embedded(None, _C2PA_GIF in data)
    return Embedded()


def _in_jpeg(data: bytes) -> Embedded:
    exif, c2pa = None, False
    for code, content in segments(data):
        if code == 0xE1 and exif is None and content.startswith(_EXIF_MARK):
            exif = Tiff(content[len(_EXIF_MARK) :])
        elif code == 0xEB and content.startswith(b"JP"):
            c2pa = c2pa or _C2PA_STORE in content[:64]
    return Embedded(exif, c2pa)


def _in_chunks(chunks: Iterator[tuple[bytes, bytes]], *, exif: bytes, c2pa: bytes) -> Embedded:
    metadata, manifest = None, False
    for name, content in chunks:
        if name == exif and metadata is None:
            metadata = Tiff(content.removeprefix(_EXIF_MARK))  # some writers of WebP leave it there
        elif name == c2pa:
            manifest = manifest or _C2PA_STORE in content[:64]
    return Embedded(metadata, manifest)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at, wanted = 8, (b"eXIf", b"caBX")
    for _ in range(_MAX_BLOCKS):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if not name or name == b"IEND":
            return
        if name in wanted:  # nothing else is copied
            yield name, data[at + 8 : at + 8 + length]
        at += 12 + length


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at, wanted = 12, (b"EXIF", b"C2PA")
    for _ in range(_MAX_BLOCKS):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if not name:
            return
        if name in wanted:
            yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
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


def _in_boxes(data: bytes) -> Embedded:
    exif, c2pa = None, False
    for name, start, end in _boxes(data, 0, len(data)):
        if name == b"uuid":
            c2pa = c2pa or data[start : start + 16] == _C2PA_UUID
        elif name == b"meta" and exif is None:
            exif = _exif_item(data, {n: (s, e) for n, s, e in _boxes(data, start + 4, end)})
    return Embedded(exif, c2pa)


def _exif_item(data: bytes, meta: dict[bytes, tuple[int, int]]) -> Tiff | None:
    """Return the EXIF of a HEIF file: `iinf` has the item's number, `iloc` its place."""
    if b"iinf" not in meta or b"iloc" not in meta:
        return None
    start, end = meta[b"iinf"]
    wanted = None
    for name, at, _ in _boxes(data, start + (6 if data[start : start + 1] == b"\0" else 8), end):
        wide = data[at : at + 1] == b"\3"  # version: numbers of 2 or 4 bytes
        number = _Cursor(data, at + 4).integer(4 if wide else 2)
        kind_at = at + 4 + (4 if wide else 2) + 2
        if name == b"infe" and data[kind_at : kind_at + 4] == b"Exif":
            wanted = number
            break
    place = None if wanted is None else _item_place(_Cursor(data, meta[b"iloc"][0]), wanted)
    if place is None:
        return None
    content = data[place[0] : place[0] + place[1]]
    return Tiff(content[4 + int.from_bytes(content[:4], "big") :])


@dataclass(slots=True)
class _Cursor:
    data: bytes
    at: int

    def integer(self, size: int) -> int:
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")


def _item_place(cursor: _Cursor, wanted: int) -> tuple[int, int] | None:
    """Return offset and length of an item that lies in the file in one piece."""
    version = cursor.integer(4) >> 24
    first, second = cursor.integer(1), cursor.integer(1)
    offset_size, length_size = first >> 4, first & 15
    base_size, index_size = second >> 4, second & 15
    wide = 4 if version == 2 else 2
    for _ in range(min(cursor.integer(wide), _MAX_BLOCKS)):
        number = cursor.integer(wide)
        method = cursor.integer(2) & 15 if version else 0
        cursor.integer(2)  # which file: this one
        base = cursor.integer(base_size)
        extents = min(cursor.integer(2), _MAX_BLOCKS)
        if number == wanted:
            cursor.integer(index_size if version else 0)
            offset = base + cursor.integer(offset_size)
            length = cursor.integer(length_size)
            return (offset, length) if method == 0 and extents == 1 else None
        each = (index_size if version else 0) + offset_size + length_size
        cursor.at += extents * each
    return None
