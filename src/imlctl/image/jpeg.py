"""A JPEG's segments, the damage in its picture data, and how it was compressed last.

libjpeg decodes damaged data as best it can and only warns, and Pillow drops the warnings. Here a
second, quick decoding (an eighth of the size, brightness only) asks libjpeg for its warnings, and
any of them refuses the file.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg
from PIL.JpegImagePlugin import MARKER, zigzag_index
from PIL.JpegPresets import presets

from imlctl.errors import DecodeError
from imlctl.image.formats import TO_CONVERT, Layout, check_pieces, damaged, not_read, truncated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither stuffing, restart nor fill
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL, PROGRESSIVE = frozenset({0xC0, 0xC1, 0xC9}), frozenset({0xC2, 0xCA})
_HUFFMAN, START, END, SCAN, QUANTISATION, RESTART = 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD
_BESIDES = frozenset({*range(0xE0, 0xF0), 0xFE})  # application data and comments
_BETWEEN_SCANS = _BESIDES | {_HUFFMAN, 0xCC, END, SCAN, QUANTISATION, 0xDC, RESTART}
_MAX_SCANS = 64  # each goes over the whole picture; usual are 10
_MAX_FILL = 2**16  # bytes between the segments before a JPEG's picture
_BEYOND_CHECKER = ("subsampling", "olor", "not implemented", "emory")  # in TurboJPEG's messages

# Coded pictures have no such run of plain text by chance; misdirected writes and logs do.
_TEXT = bytes(84 if 32 <= byte < 127 or byte in b"\t\n\r" else 0 for byte in range(256))
_TEXT_RUN, _MIN_LETTERS = b"T" * 96, 8
_ZERO_RUN = bytes(64)
_EIGHTH: dict[str, Any] = {"min_height": 1, "min_width": 1, "min_factor": 8}

_MAX_NAMES = 100  # of segments, in the record
# ITU-T T.81, tables K.1 and K.2, row by row.
_LUMINANCE = """
    16 11 10 16  24  40  51  61   12 12 14 19  26  58  60  55   14 13 16 24  40  57  69  56
    14 17 22 29  51  87  80  62   18 22 37 56  68 109 103  77   24 35 55 64  81 104 113  92
    49 64 78 87 103 121 120 101   72 92 95 98 112 100 103  99"""
_CHROMINANCE = (
    "17 18 24 47 99 99 99 99   18 21 26 66 99 99 99 99   24 26 56 99 99 99 99 99   47 66"
    + " 99" * 38
)
_SUBSAMPLINGS: dict[tuple[float, float], str] = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
}


@dataclass(frozen=True, slots=True)
class Segment:
    """One marker and what belongs to it, by offsets in the file."""

    code: int  # the marker's second byte
    at: int
    start: int  # of its content, behind the length; of a scan, of the scan's header
    end: int


def segments(data: bytes, start: int = 0) -> Iterator[Segment]:
    """Yield the segments of the JPEG at `start`, from the one behind its start to its end marker.

    Raises:
        DecodeError: There is no end marker, a segment runs past the end, a marker stands where it
            cannot, or there are too many.
    """
    position, pieces, scans, stray = start + 2, 0, 0, 0
    while found := _MARKER.search(data, position):
        code, at = data[found.start() + 1], found.start()
        pieces += 1
        check_pieces(pieces, data)
        stray += 0 if scans else at - position
        if stray > _MAX_FILL:
            raise damaged(f"there are {stray} stray bytes before the picture of the JPEG")
        if scans and code not in _BETWEEN_SCANS:
            raise damaged(f"unexpected marker {code:02X} in the picture data, at byte {at}")
        position = found.end()
        if code in {0x01, START, END}:  # markers without a length
            yield Segment(code, at, position, position)
            if code == END:
                return
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        if length < 2:
            raise damaged(f"the JPEG segment at byte {at} has no length")
        if position + length > len(data):
            build = damaged if scans else truncated
            raise build(f"the JPEG segment at byte {at} runs past the end of the file")
        scans += code == SCAN
        if scans > _MAX_SCANS:
            raise damaged(f"the JPEG has more than {_MAX_SCANS} scans")
        yield Segment(code, at, position + 2, position + length)
        position += length
    raise truncated("the JPEG has no end marker")


def readable_segments(data: bytes) -> list[Segment]:
    """Return all segments that can be read."""
    found: list[Segment] = []
    with suppress(DecodeError):
        found.extend(segments(data))  # keeps what came before an error
    return found


def walk_jpeg(data: bytes, start: int = 0) -> Layout:
    """Find the end of the JPEG at `start`, skipping the thumbnails inside its metadata.

    Raises:
        DecodeError: It is not whole (see `segments`), or of a kind that is not read.
    """
    size: tuple[int, int] | None = None
    position, scans, stray = start + 2, 0, 0
    for segment in segments(data, start):
        if not scans:
            stray += len(data[position : segment.at].strip(b"\xff"))
        position = segment.end
        scans += segment.code == SCAN
        if segment.code == 0xF7:
            raise not_read("a JPEG-LS picture", TO_CONVERT)
        if segment.code in FRAMES and size is None:
            frame = data[segment.start : segment.end].ljust(6, b"\0")
            size = int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")
            _refuse_unreadable(segment.code, frame[0], size[1], frame[5])
    if not scans:
        raise damaged("the JPEG ends before its picture begins")
    notes = (f"{stray} stray bytes between the segments of its header",) if stray else ()
    return Layout(position, len(data) - position, size=size, notes=notes)


def _refuse_unreadable(code: int, bits: int, height: int, channels: int) -> None:
    """Refuse the kinds of JPEG that no decoder at hand reads."""
    if code in {0xC3, 0xCB}:
        raise not_read("a lossless JPEG", TO_CONVERT)
    if code not in _SEQUENTIAL | PROGRESSIVE:
        raise not_read("a hierarchical JPEG", TO_CONVERT)
    if bits != 8:
        raise not_read(f"a JPEG of {bits}-bit samples", TO_CONVERT)
    if channels not in {1, 3, 4}:
        raise not_read(f"a JPEG of {channels} channels", TO_CONVERT)
    if not height:
        raise not_read("a JPEG whose height follows its data (DNL)", TO_CONVERT)


def walk_mpo(data: bytes, first: Layout, frames: int) -> Layout:
    """Check that the further pictures of an MPO are all there.

    A file that ends exactly after its first picture lost the others to a tool that keeps only
    that one; it is complete, and noted.

    Raises:
        DecodeError: A further picture is missing, incomplete or damaged.
    """
    end = first.end
    if end == len(data):
        note = f"the file announces {frames} pictures but holds only the first"
        return replace(first, frames=1, notes=(*first.notes, note))
    for number in range(2, frames + 1):
        start = data.find(b"\xff\xd8\xff", end)
        if start < 0:
            raise truncated(f"picture {number} of {frames} is missing")
        end = walk_jpeg(data, start).end
        check_jpeg(data[start:end])
    return replace(first, trailing=len(data) - end, frames=frames)


def check_jpeg(data: bytes) -> tuple[str, ...]:
    """Decode the picture data of a JPEG for nothing but the decoder's warnings; return notes.

    What stands beside the picture (application data, comments, stray bytes in the header) is left
    out, so that an odd version number in it is no reason to refuse a picture.

    Args:
        data: A JPEG that `walk_jpeg` found whole; what follows its end marker is not looked at.

    Raises:
        DecodeError: Its data are damaged; says where, if that is known.
    """
    found = list(segments(data))
    first = next(index for index, each in enumerate(found) if each.code == SCAN)
    header = [each for each in found[:first] if each.code not in _BESIDES]
    scan = found[first]
    frame = next((each for each in header if each.code in FRAMES), None)
    if frame is None:
        raise damaged("the JPEG has no frame header")
    _refuse_foreign_blocks(data, found[first:], header, frame)
    parts = [b"\xff\xd8", *(data[each.at : each.end] for each in header)]
    body = memoryview(data)[scan.at : found[-1].end]
    if frame.code in _SEQUENTIAL:  # some writers leave these three bytes zero
        parts += [data[scan.at : scan.end - 3], b"\0\x3f\0"]
        body = body[scan.end - scan.at :]
    colours = "CMYK" if data[frame.start + 5] == 4 else "GRAY"
    try:
        simplejpeg.decode_jpeg(
            b"".join([*parts, body]), colours, fastdct=True, fastupsample=True, **_EIGHTH
        )
    except ValueError as error:
        reason = str(error).removeprefix("Corrupt JPEG data: ")
        if any(word in reason for word in _BEYOND_CHECKER):
            return ("its picture data could not be checked for damage",)
        place = _place_of_damage(data, found[first:])
        near = "" if place is None else f", near byte {place}"
        raise damaged(f'libjpeg reports "{reason}" in its picture data{near}') from error
    return ()


def _refuse_foreign_blocks(
    data: bytes, found: list[Segment], header: list[Segment], frame: Segment
) -> None:
    """Refuse picture data overwritten by text or zeros, which may decode without a warning.

    Zeros, that is, where the Huffman tables read them as blocks of all the same coefficients.
    """
    # A scan of all channels has a block of each in any long run of zeros.
    interleaved = data[found[0].start] == data[frame.start + 5]
    zeros_are_foreign = (
        frame.code in {0xC0, 0xC1}
        and interleaved
        and any(symbol & 15 for symbol in _shortest_symbols(data, header))
    )
    for scan, following in pairwise(found):
        if scan.code != SCAN:
            continue
        body = data[scan.end : following.at]
        kinds = body.translate(_TEXT)
        at = kinds.find(_TEXT_RUN)
        while at >= 0:
            if len(set(body[at : at + len(_TEXT_RUN)])) >= _MIN_LETTERS:
                raise damaged(f"plain text in the picture data, at byte {scan.end + at}")
            at = kinds.find(_TEXT_RUN, at + len(_TEXT_RUN))
        at = body.find(_ZERO_RUN) if zeros_are_foreign else -1
        if at >= 0:
            raise damaged(f"zeros in the picture data, from byte {scan.end + at} on")


def _shortest_symbols(data: bytes, header: list[Segment]) -> Iterator[int]:
    """Yield the symbol of each AC Huffman table whose code is all zeros: run, size, 4 bits each."""
    for segment in header:
        at = segment.start
        while segment.code == _HUFFMAN and at + 17 < segment.end:
            if data[at] >> 4:
                yield data[at + 17]
            at += 17 + sum(data[at + 1 : at + 17])


def _place_of_damage(data: bytes, found: list[Segment]) -> int | None:
    """Return the offset of the first marker, from a scan on, that cannot stand where it does."""
    for segment, following in pairwise(found):
        if segment.code == SCAN:
            body = np.frombuffer(data, np.uint8, following.at - segment.end, segment.end)
            codes = body[1:]
            places = np.flatnonzero((body[:-1] == 0xFF) & (codes >= 0xD0) & (codes <= 0xD7))
            wrong = np.flatnonzero(codes[places] - 0xD0 != np.arange(len(places)) % 8)
            if len(wrong):
                return segment.end + int(places[wrong[0]])
        elif data[segment.end] != 0xFF:
            return segment.at
    return None


@dataclass(frozen=True, slots=True)
class Table:
    """One quantisation table."""

    slot: int  # 0 to 3, where components refer to it
    bits: int  # of each value, 8 or 16
    values: tuple[int, ...]  # 64 divisors, row by row from the lowest frequencies


@dataclass(frozen=True, slots=True)
class JpegFacts:
    """Last compression of a JPEG, and the build of its file."""

    tables: tuple[Table, ...]  # those in force at the first scan, by slot
    quality: int | None  # 1 to 100, the setting of libjpeg whose tables come closest
    standard: bool  # they are exactly libjpeg's; else `quality` is a comparison, no setting
    subsampling: str | None  # such as ``4:2:0``; None for grey, and without a usual name
    progressive: bool
    order: tuple[str, ...] = ()  # names of the segments; several alike in a row stand once
    scans: int = 0
    restart_interval: int = 0  # blocks of pixels between restart markers; 0 without any
    starts: int = 1  # start markers outside its metadata; more with another JPEG within or behind
    ends: int = 1  # end markers, likewise
    trailing: int = 0  # bytes after the first picture
    program: str | None = None  # with these tables: ``libjpeg``, or Photoshop and its setting


def jpeg_facts(data: bytes) -> JpegFacts:
    """Describe the compression of the first picture of a JPEG, which need not be whole."""
    tables: dict[int, Table] = {}
    components: list[tuple[int, int]] = []  # sampling factors in one byte, slot of the table
    progressive, interval = False, 0
    found = readable_segments(data)
    for segment in found:
        content = data[segment.start : segment.end]
        if segment.code == SCAN:
            break
        if segment.code == QUANTISATION:
            tables |= {table.slot: table for table in _read_tables(content)}
        elif segment.code == RESTART:
            interval = int.from_bytes(content[:2], "big")
        elif segment.code in FRAMES and not components:
            progressive = segment.code in PROGRESSIVE
            number = min(content[5] if len(content) > 5 else 0, 4)
            places = range(6, min(6 + 3 * number, len(content) - 2), 3)
            components = [(content[at + 1], content[at + 2]) for at in places]
    quality, standard = _quality(tables, [slot for _, slot in components])
    codes = [segment.code for segment in found]
    end = found[-1].end if codes and codes[-1] == END else len(data)
    return JpegFacts(
        tables=tuple(tables[slot] for slot in sorted(tables)),
        quality=quality,
        standard=standard,
        subsampling=_subsampling(components),
        progressive=progressive,
        order=tuple(_name(code) for code, _ in groupby(codes))[:_MAX_NAMES],
        scans=codes.count(SCAN),
        restart_interval=interval,
        starts=1 + codes.count(START) + data.count(b"\xff\xd8\xff", end),
        ends=codes.count(END) + data.count(b"\xff\xd9", end),
        trailing=len(data) - end,
        program="libjpeg" if standard else _photoshop(tables),
    )


def _name(code: int) -> str:
    return str(MARKER.get(0xFF00 | code, (f"{code:02X}",))[0])


def _read_tables(content: bytes) -> Iterator[Table]:
    at = 0
    while at < len(content):
        size = 2 if content[at] >> 4 else 1
        raw = content[at + 1 : at + 1 + 64 * size]
        if len(raw) < 64 * size:
            return
        values = np.frombuffer(raw, f">u{size}")[list(zigzag_index)]
        yield Table(content[at] & 3, 8 * size, tuple(values.tolist()))
        at += 1 + 64 * size


@cache
def _libjpeg(base: str) -> NDArray[np.int64]:
    """Return libjpeg's tables for the qualities 1 to 100, (100, 64)."""
    quality = np.arange(1, 101)[:, None]
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    values = np.array(base.split(), np.int64)
    return np.clip((values * scale + 50) // 100, 1, 255)


def _quality(tables: dict[int, Table], slots: list[int]) -> tuple[int | None, bool]:
    """Return the quality that comes closest, and whether it fits exactly."""
    used = [slot for slot in dict.fromkeys(slots) if slot in tables]
    if not used:
        return None, False
    apart = np.zeros(100, np.int64)
    for index, slot in enumerate(used):  # the first component is brightness
        reference = _libjpeg(_CHROMINANCE if index else _LUMINANCE)
        apart += np.abs(reference - np.array(tables[slot].values)).sum(axis=1)
    best = int(apart.argmin())
    return best + 1, bool(apart[best] == 0)


def _photoshop(tables: dict[int, Table]) -> str | None:
    """Name the setting of Photoshop with exactly these tables, as Pillow lists them."""
    found = [list(tables[slot].values) for slot in sorted(tables)]
    for name, preset in presets.items():
        known: Any = preset["quantization"]
        if found and found == [list(table) for table in known[: len(found)]]:
            return f"Photoshop, {name.replace('_', ' ')}"
    return None


def _subsampling(components: list[tuple[int, int]]) -> str | None:
    """Name the sampling factors of a three-component picture."""
    if len(components) != 3:
        return None
    factors = [(byte >> 4, byte & 15) for byte, _ in components]
    (across, down), *colours = factors
    if colours[0] != colours[1] or 0 in colours[0]:
        return None
    ratio = across / colours[0][0], down / colours[0][1]
    return _SUBSAMPLINGS.get(ratio)
