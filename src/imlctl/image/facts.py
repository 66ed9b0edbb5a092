"""What a file says about itself and where it comes from, read from the bytes that were decoded.

Metadata are read by slices, which cannot fail, and in bounded loops: what was made to annoy costs
its own fields and nothing else. Anybody can write metadata, and nothing in them is verified.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imlctl.image.boxes import boxes, item_places, items, meta_boxes
from imlctl.image.jpeg import readable_segments
from imlctl.image.jpeg_facts import JpegFacts, jpeg_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from imlctl.image.boxes import Meta

_MAKE, _MODEL, _SOFTWARE, _MODIFIED = 0x010F, 0x0110, 0x0131, 0x0132
_EXIF, _GPS, _THUMBNAIL = 0x8769, 0x8825, 0x0201  # offsets of what they are called
_TAKEN, _WIDTH, _HEIGHT, _LENS = 0x9003, 0xA002, 0xA003, 0xA434

_TEXT, _SHORT, _LONG, _DIRECTORY, _UTF8 = 2, 3, 4, 13, 129
_MAX_ENTRIES = 1000
_MAX_TEXT = 200  # characters kept of a field
_MAX_BLOCKS = 20_000
_EXIF_MARK = b"Exif\0\0"

# The C2PA specification, on embedding manifests: where each format keeps its manifest store.
_C2PA_STORE = b"jumdc2pa" + bytes.fromhex("00110010800000aa00389b71")  # type of its JUMBF box
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_C2PA_TIFF_TAG = 0xCD41
_C2PA_GIF = b"\x21\xff\x0bC2PA_GIF"
_MAX_NOTES = 20  # a file made to annoy cannot flood the record
_STRIP_SAMPLES = 1 << 22


@dataclass(frozen=True, slots=True)
class ExifSummary:
    """What EXIF claims; anybody can write it, and nothing in it is checked.

    Attributes:
        make: Maker of the camera.
        model: Camera.
        lens: Lens.
        software: Program that wrote the file, or the camera's firmware.
        taken: When the picture was taken, as written: usually ``2024:05:17 08:30:00``.
        modified: When the file was changed, as written.
        width: Of the picture by its EXIF, in pixels; differs after cropping by some programs.
        height: Likewise.
        gps: A position is given; it is not copied here.
        thumbnail: There is a thumbnail, which may show an earlier state.
    """

    make: str | None = None
    model: str | None = None
    lens: str | None = None
    software: str | None = None
    taken: str | None = None
    modified: str | None = None
    width: int | None = None
    height: int | None = None
    gps: bool = False
    thumbnail: bool = False


@dataclass(frozen=True, slots=True)
class Provenance:
    """Traces of a file's history. Absent ones prove nothing, and present ones can be forged.

    Attributes:
        bytes: Size of the file.
        pixels_sha256: Of the decoded samples, see `pixels_sha256`; the same for two files that
            differ in their metadata only.
        jpeg: How a JPEG was compressed; None for other formats.
        exif: What EXIF says; None where there is none.
        c2pa: A C2PA manifest store (content credentials) is embedded; it is not verified.
    """

    bytes: int
    pixels_sha256: str
    jpeg: JpegFacts | None = None
    exif: ExifSummary | None = None
    c2pa: bool = False


@dataclass(frozen=True, slots=True)
class FormatFacts:
    """What a file says about its picture, for the record.

    Attributes:
        format: ``JPEG``, ``MPO``, ``PNG``, ``WEBP``, ``TIFF``, ``BMP``, ``GIF``, ``HEIF``, or
            ``AVIF``.
        width: Stored width in pixels, before turning upright.
        height: Stored height in pixels.
        mode: Pixel mode as stored, in Pillow's words: ``RGB``, ``CMYK``, ``P``, ``I;16``, ...
        bit_depth: Bits per sample as stored.
        orientation: EXIF orientation, 1 to 8; 1 when absent or invalid.
        frames: Number of pictures in the file; one is analysed.
        icc_profile: A colour profile is embedded; it is never applied.
        alpha: There is transparency; it is ignored.
        notes: Sentences without a full stop, one for each thing out of the ordinary.
        provenance: Traces of the file's history; `decode` adds them.
    """

    format: str
    width: int
    height: int
    mode: str
    bit_depth: int
    orientation: int = 1
    frames: int = 1
    icc_profile: bool = False
    alpha: bool = False
    notes: tuple[str, ...] = ()
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.bit_depth, self.frames) < 1:
            raise ValueError("width, height, bit_depth and frames must be positive")
        if not 1 <= self.orientation <= 8:
            raise ValueError(f"orientation must be 1 to 8, not {self.orientation}")
        # Repeated warnings say nothing new.
        object.__setattr__(self, "notes", tuple(dict.fromkeys(self.notes))[:_MAX_NOTES])


def provenance(data: bytes, kind: str, pixels: NDArray[Any]) -> Provenance:
    """Gather the traces in a file that was decoded; no file can make it fail.

    Args:
        data: The whole file.
        kind: As `identify` returned it.
        pixels: As `decode` returns them.
    """
    embedded = find_embedded(data, kind)
    return Provenance(
        bytes=len(data),
        pixels_sha256=pixels_sha256(pixels),
        jpeg=jpeg_facts(data) if kind == "JPEG" else None,
        exif=summarise(embedded.exif) if embedded.exif else None,
        c2pa=embedded.c2pa,
    )


def pixels_sha256(pixels: NDArray[Any]) -> str:
    """Hash decoded samples: row by row as stored, red green blue, 16-bit ones little-endian.

    Args:
        pixels: (H, W, 3) uint8 or uint16.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    rows = max(1, _STRIP_SAMPLES // (3 * pixels.shape[1]))
    for top in range(0, pixels.shape[0], rows):  # no copy of the whole where it is a view
        strip = np.ascontiguousarray(pixels[top : top + rows])
        little = strip.astype(strip.dtype.newbyteorder("<"), copy=False)
        digest.update(little.tobytes())
    return digest.hexdigest()


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
    for each in readable_segments(data):
        content = data[each.start : each.end]
        if each.code == 0xE1 and exif is None and content.startswith(_EXIF_MARK):
            exif = Tiff(content[len(_EXIF_MARK) :])
        elif each.code == 0xEB and content.startswith(b"JP"):
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


def summarise(tiff: Tiff) -> ExifSummary | None:
    """Return what EXIF says, or None where it says nothing of this."""
    first, following = tiff.directory(tiff.first)
    inner, _ = tiff.directory(tiff.number(first, _EXIF))
    position, _ = tiff.directory(tiff.number(first, _GPS))
    second, _ = tiff.directory(following)
    found = ExifSummary(
        make=tiff.text(first, _MAKE),
        model=tiff.text(first, _MODEL),
        lens=tiff.text(inner, _LENS),
        software=tiff.text(first, _SOFTWARE),
        taken=tiff.text(inner, _TAKEN),
        modified=tiff.text(first, _MODIFIED),
        width=tiff.number(inner, _WIDTH),
        height=tiff.number(inner, _HEIGHT),
        gps=any(tag != 0 for tag in position),  # tag 0 is the version alone
        thumbnail=_THUMBNAIL in second,
    )
    return None if found == ExifSummary() else found


@dataclass(frozen=True, slots=True)
class Tiff:
    """A classic TIFF structure, as EXIF has one: read by slices, so that nothing is out of bounds.

    Attributes:
        data: From its ``II*`` or ``MM*`` on.
    """

    data: bytes

    @property
    def first(self) -> int | None:
        """Offset of the first directory; None where this is no classic TIFF."""
        known = self.data[:4] in (b"II*\0", b"MM\0*")
        return self._integer(4, 4) if known else None

    def directory(self, at: int | None) -> tuple[dict[int, int], int | None]:
        """Return where the entry of each tag lies, and the offset of the next directory."""
        if not at or at + 2 > len(self.data):
            return {}, None
        count = min(self._integer(at, 2), _MAX_ENTRIES)
        end = at + 2 + 12 * count
        places = range(at + 2, min(end, len(self.data) - 11), 12)
        return {self._integer(place, 2): place for place in places}, self._integer(end, 4)

    def number(self, tags: dict[int, int], tag: int) -> int | None:
        """Return the first value of a tag that holds positive integers."""
        at = tags.get(tag)
        size = {_SHORT: 2, _LONG: 4, _DIRECTORY: 4}.get(self._integer(at + 2, 2), 0) if at else 0
        return self._integer(at + 8, size) or None if at and size else None

    def text(self, tags: dict[int, int], tag: int) -> str | None:
        """Return a tag's text on one line, cut to a length that a record can hold."""
        at = tags.get(tag)
        if not at or self._integer(at + 2, 2) not in (_TEXT, _UTF8):
            return None
        length = self._integer(at + 4, 4)
        start = at + 8 if length <= 4 else self._integer(at + 8, 4)
        raw = self.data[start : start + min(length, 4 * _MAX_TEXT)].split(b"\0")[0]
        line = "".join(c if c.isprintable() else " " for c in raw.decode("utf-8", "replace"))
        return " ".join(line.split())[:_MAX_TEXT] or None

    def _integer(self, at: int, size: int) -> int:
        raw = self.data[at : at + size]
        return int.from_bytes(raw, "little" if self.data[:2] == b"II" else "big")
