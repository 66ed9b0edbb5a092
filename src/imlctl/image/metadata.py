"""Find the metadata of a file by slices, which cannot fail: EXIF, XMP, texts, Photoshop, C2PA."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imlctl.image.boxes import boxes, item_places, items, meta_boxes
from imlctl.image.containers import png_chunks, riff_chunks
from imlctl.image.jpeg import readable_segments

if TYPE_CHECKING:
    from imlctl.image.boxes import Meta

_MAKE, _MODEL, _SOFTWARE, _MODIFIED = 0x010F, 0x0110, 0x0131, 0x0132
_EXIF, _GPS, _THUMBNAIL, _THUMBNAIL_BYTES = 0x8769, 0x8825, 0x0201, 0x0202  # offsets, and a length
_TAKEN, _WIDTH, _HEIGHT, _LENS, _COMMENT = 0x9003, 0xA002, 0xA003, 0xA434, 0x9286
_TIFF_TAGS = (700, 34377, 0xCD41)  # XMP, Photoshop's resources, C2PA

_TEXT, _SHORT, _LONG, _UNDEFINED, _DIRECTORY, _UTF8 = 2, 3, 4, 7, 13, 129
_MAX_ENTRIES = 1000
_MAX_TEXT = 200  # characters kept of a field
MAX_BODY = 1 << 20  # bytes looked through of XMP, a text or a manifest
_EXIF_MARK, _XMP_MARK = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_PHOTOSHOP_MARK = b"Photoshop 3.0\0"

# The C2PA specification, on embedding manifests: where each format keeps its manifest store.
_C2PA_STORE = b"jumdc2pa" + bytes.fromhex("00110010800000aa00389b71")  # type of its JUMBF box
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_CBOR_GROUP = re.compile(rb"[\x80-\xbf]")
_CBOR_TEXT = re.compile(rb"[\x60-\x77]|\x78.|\x79..", re.DOTALL)  # with its length
_C2PA_GIF, _XMP_GIF = b"\x21\xff\x0bC2PA_GIF", b"\x21\xff\x0bXMP DataXMP"


@dataclass(slots=True)
class Embedded:
    """Metadata of a file, each from the first place that has it."""

    exif: Tiff | None = None
    xmp: bytes = b""
    photoshop: bytes = b""  # resources (APP13 of a JPEG), which also hold IPTC fields
    c2pa: bytes = b""  # the manifest store, not verified
    texts: list[str] = field(default_factory=list)  # comments; texts of PNG, keyword first

    def note(self, text: bytes) -> None:
        """Keep the beginning of a text, if there are not many."""
        if len(self.texts) < 10:
            self.texts.append(text[: 4 * _MAX_TEXT].decode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class ExifSummary:
    """Claims of EXIF; anybody can write them, and none is checked."""

    make: str | None = None
    model: str | None = None
    lens: str | None = None
    software: str | None = None  # or the camera's firmware
    taken: str | None = None  # as written: usually ``2024:05:17 08:30:00``
    modified: str | None = None
    width: int | None = None  # in pixels; some programs leave it when they crop
    height: int | None = None
    gps: bool = False  # a position is given; it is not copied here
    thumbnail: bool = False


def find_embedded(data: bytes, kind: str) -> Embedded:
    """Look through a file of a kind that `identify` returned."""
    match kind:
        case "JPEG":
            return _in_jpeg(data)
        case "PNG":
            return _in_chunks(data, png_chunks(data), {b"eXIf": "exif", b"caBX": "c2pa"})
        case "WEBP":
            names = {b"EXIF": "exif", b"XMP ": "xmp", b"C2PA": "c2pa"}
            return _in_chunks(data, riff_chunks(data), names)
        case "HEIF" | "AVIF":
            return _in_boxes(data)
        case "TIFF":
            tiff = Tiff(data)
            tags, _ = tiff.directory(tiff.first)
            xmp, photoshop, c2pa = (tiff.content(tags, tag) for tag in _TIFF_TAGS)
            return Embedded(tiff, xmp, photoshop, c2pa)
        case "GIF":
            places = [data.find(mark) for mark in (_XMP_GIF, _C2PA_GIF)]
            xmp, c2pa = (data[at : at + MAX_BODY] if at >= 0 else b"" for at in places)
            return Embedded(xmp=xmp, c2pa=c2pa)
    return Embedded()


def _in_jpeg(data: bytes) -> Embedded:
    found = Embedded()
    for each in readable_segments(data):
        content = data[each.start : each.end] if each.code >= 0xE0 else b""
        if each.code == 0xE1 and found.exif is None and content.startswith(_EXIF_MARK):
            found.exif = Tiff(content[len(_EXIF_MARK) :])
        elif each.code == 0xE1 and content.startswith(_XMP_MARK):
            found.xmp = found.xmp or content[len(_XMP_MARK) :]
        elif each.code == 0xED and content.startswith(_PHOTOSHOP_MARK):
            found.photoshop += content[len(_PHOTOSHOP_MARK) :]
        elif each.code == 0xEB and content.startswith(b"JP"):
            starts = _C2PA_STORE in content[:64]
            if (starts or found.c2pa) and len(found.c2pa) < MAX_BODY:
                found.c2pa += content if starts else content[16:]  # repeats the box's header
        elif each.code == 0xFE:
            found.note(content)
    return found


def _in_chunks(
    data: bytes, chunks: Iterator[tuple[bytes, int, int]], names: dict[bytes, str]
) -> Embedded:
    """Gather from the chunks that are called so; texts are a PNG's."""
    found = Embedded()
    for name, start, stop in chunks:
        if name not in (*names, b"tEXt", b"iTXt"):  # nothing else is copied
            continue
        content, what = data[start : min(stop, start + MAX_BODY)], names.get(name)
        if what is None:
            found.note(content)
        if what == "exif" and found.exif is None:
            # Some writers of WebP leave the mark there.
            found.exif = Tiff(content.removeprefix(_EXIF_MARK))
        elif what == "xmp" or content.startswith(b"XML:com.adobe.xmp\0"):
            found.xmp = found.xmp or content
        elif what == "c2pa" and _C2PA_STORE in content[:64]:
            found.c2pa = found.c2pa or content
    return found


def _in_boxes(data: bytes) -> Embedded:
    found = Embedded()
    for name, start, end in boxes(data, 0, len(data)):
        if name == b"uuid" and data[start : start + 16] == _C2PA_UUID:
            found.c2pa = data[start : min(end, start + MAX_BODY)]
        elif name == b"meta" and found.exif is None:
            meta = meta_boxes(data, start, end)
            content = _item(data, meta, b"Exif")
            if content:
                found.exif = Tiff(content[4 + int.from_bytes(content[:4], "big") :])
            found.xmp = _item(data, meta, b"mime")
    return found


def _item(data: bytes, meta: Meta, wanted: bytes) -> bytes:
    number = next((number for number, kind in items(data, meta) if kind == wanted), -1)
    start, length = item_places(data, meta).get(number, (0, 0)) if number >= 0 else (0, 0)
    return data[start : start + min(length, MAX_BODY)]


def summarise(tiff: Tiff) -> ExifSummary | None:
    """Return what EXIF says, or None where it says nothing of this."""
    first, inner, second = tiff.directories()
    position, _ = tiff.directory(tiff.number(first, _GPS))
    found = ExifSummary(
        make=tiff.text(first, _MAKE),
        model=tiff.text(first, _MODEL),
        lens=tiff.text(inner, _LENS),
        software=tiff.text(first, _SOFTWARE),
        taken=tiff.text(inner, _TAKEN),
        modified=tiff.text(first, _MODIFIED),
        width=tiff.number(inner, _WIDTH),
        height=tiff.number(inner, _HEIGHT),
        gps=any(position),  # tag 0 is the version alone
        thumbnail=_THUMBNAIL in second,
    )
    return None if found == ExifSummary() else found


@dataclass(frozen=True, slots=True)
class Tiff:
    """A classic TIFF structure, as EXIF has one, read by slices: nothing is out of bounds."""

    data: bytes  # from its ``II*`` or ``MM*`` on

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

    def directories(self) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        """Return the first directory, the one of EXIF and the one of the thumbnail."""
        first, following = self.directory(self.first)
        return first, self.directory(self.number(first, _EXIF))[0], self.directory(following)[0]

    def number(self, tags: dict[int, int], tag: int) -> int | None:
        """Return the first value of a tag that holds positive integers."""
        at = tags.get(tag)
        size = {_SHORT: 2, _LONG: 4, _DIRECTORY: 4}.get(self._integer(at + 2, 2), 0) if at else 0
        return self._integer(at + 8, size) or None if at and size else None

    def text(self, tags: dict[int, int], tag: int) -> str | None:
        """Return a tag's text on one line, cut to a length that a record can hold."""
        raw = self.content(tags, tag, (_TEXT, _UTF8))[: 4 * _MAX_TEXT].split(b"\0")[0]
        return _one_line(raw.decode("utf-8", "replace"))[:_MAX_TEXT] or None

    def content(
        self, tags: dict[int, int], tag: int, types: tuple[int, ...] = (1, _TEXT, _UNDEFINED)
    ) -> bytes:
        """Return the bytes of a tag of single bytes, such as an embedded block or a comment."""
        at = tags.get(tag)
        if not at or self._integer(at + 2, 2) not in types:
            return b""
        length = self._integer(at + 4, 4)
        start = at + 8 if length <= 4 else self._integer(at + 8, 4)
        return self.data[start : start + min(length, MAX_BODY)]

    def thumbnail(self) -> bytes:
        """Return the JPEG that the second directory points to; nothing where there is none."""
        second = self.directories()[2]
        start, length = self.number(second, _THUMBNAIL), self.number(second, _THUMBNAIL_BYTES)
        found = self.data[start : start + length] if start and length else b""
        return found if found.startswith(b"\xff\xd8\xff") else b""

    def comment(self) -> str:
        """Return the user's comment, in which generators of pictures write their settings."""
        raw = self.content(self.directories()[1], _COMMENT)[: 4 * _MAX_TEXT]
        wide = "utf-16-le" if self.data[:2] == b"II" else "utf-16-be"
        return raw[8:].decode(wide if raw[:7] == b"UNICODE" else "utf-8", "replace")

    def _integer(self, at: int, size: int) -> int:
        raw = self.data[at : at + size]
        return int.from_bytes(raw, "little" if self.data[:2] == b"II" else "big")


def xmp_values(text: str, name: str) -> list[str]:
    """Return the values of a field of XMP, named by a pattern, without parsing its XML."""
    before = rf"(?<!/){name}(?:=[\"']|>|[^<>=]{{0,40}}rdf:resource=[\"'])"
    return [_one_line(value) for value in re.findall(before + "([^\"'<]{1,200})", text)]


def c2pa_text(store: bytes, key: str) -> str | None:
    """Return the text that follows a key in a C2PA manifest store, which is CBOR inside JUMBF."""
    at = store.find(key.encode()) + len(key)
    if at < len(key):
        return None
    if _CBOR_GROUP.match(store, at):  # a list or map of facts about the generator: its name
        name = store.find(b"\x64name", at, at + 200)
        if name < 0:
            return None
        at = name + 5
    head = _CBOR_TEXT.match(store, at)
    if head is None:
        return None
    length = int.from_bytes(head[0][1:], "big") if head[0][1:] else head[0][0] & 31
    text = store[head.end() : head.end() + min(length, _MAX_TEXT)]
    return _one_line(text.decode("utf-8", "replace")) or None


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
