"""Find what a picture file carries beside its pixels: EXIF, and a C2PA manifest.

Like `exif.py`, this reads by slices and in bounded loops, so that no file can make it fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imlctl.image.boxes import boxes, item_places, items, meta_boxes
from imlctl.image.exif import Tiff
from imlctl.image.quantisation import segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imlctl.image.boxes import Meta

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


def _in_boxes(data: bytes) -> Embedded:
    exif, c2pa = None, False
    for name, start, end in boxes(data, 0, len(data)):
        if name == b"uuid":
            c2pa = c2pa or data[start : start + 16] == _C2PA_UUID
        elif name == b"meta" and exif is None:
            exif = _exif_item(data, meta_boxes(data, start, end))
    return Embedded(exif, c2pa)


def _exif_item(data: bytes, meta: Meta) -> Tiff | None:
    """Return the EXIF of a HEIF file."""
    wanted = next((number for number, kind in items(data, meta) if kind == b"Exif"), None)
    place = None if wanted is None else item_places(data, meta).get(wanted)
    if place is None:
        return None
    content = data[place[0] : place[0] + place[1]]
    return Tiff(content[4 + int.from_bytes(content[:4], "big") :])
