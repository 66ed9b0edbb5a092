"""A JPEG's segments, the damage in its picture data, and the grid that it leaves in pixels.

libjpeg decodes damaged data as best it can and only warns, and Pillow drops the warnings: a second,
quick decoding (an eighth of the size, brightness only) asks for them, and any refuses the file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from imlctl.errors import DecodeError
from imlctl.image.formats import TO_CONVERT, FileLayout, check_pieces, damaged, not_read, truncated

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither stuffing, restart nor fill
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL, PROGRESSIVE = frozenset({0xC0, 0xC1, 0xC9}), frozenset({0xC2, 0xCA})
_ARITHMETIC = frozenset({0xC9, 0xCA})
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
_PLACES, _LEAST_VOTES, _LEAST_SHARE = 96, 12, 0.3  # that look for the grid, and agree on it
_ZERO = 0.5  # a coefficient below it rounds to zero
_FLAT = 63  # zeros of a block that says nothing
_EIGHTH: dict[str, Any] = {"min_height": 1, "min_width": 1, "min_factor": 8}


class Segment(NamedTuple):
    """One marker and what belongs to it, by offsets in the file."""

    code: int  # the marker's second byte
    at: int
    start: int  # of its content, behind the length; of a scan, of the scan's header
    end: int


def segments(data: bytes, start: int = 0) -> Iterator[Segment]:
    """Yield the segments of the JPEG at `start`, from the one behind its start to its end marker.

    DecodeError where there is no end marker, a segment runs past the end, a marker stands where it
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


def walk_jpeg(data: bytes, start: int = 0) -> FileLayout:
    """Find the end of the JPEG at `start`, skipping the thumbnails inside its metadata."""
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
            bits, height, width, channels = _frame(data, segment)
            size = width, height
            if kind := _unreadable(segment.code, bits, height, channels):
                raise not_read(kind, TO_CONVERT)
    if not scans:
        raise damaged("the JPEG ends before its picture begins")
    notes = (f"{stray} stray bytes between the segments of its header",) if stray else ()
    return FileLayout(position, len(data) - position, size=size, notes=notes)


def _frame(data: bytes, segment: Segment) -> tuple[int, int, int, int]:
    """Return bits of a sample, height, width and channels from a frame's header."""
    return struct.unpack(">BHHB", data[segment.start : segment.end][:6].ljust(6, b"\0"))


def _unreadable(code: int, bits: int, height: int, channels: int) -> str:
    """Name the kind of JPEG if it is one that no decoder at hand reads."""
    if code in {0xC3, 0xCB}:
        return "a lossless JPEG"
    if code not in _SEQUENTIAL | PROGRESSIVE:
        return "a hierarchical JPEG"
    if bits != 8:
        return f"a JPEG of {bits}-bit samples"
    if channels not in {1, 3, 4}:
        return f"a JPEG of {channels} channels"
    return "" if height else "a JPEG whose height follows its data (DNL)"


def walk_mpo(data: bytes, first: FileLayout, frames: int) -> FileLayout:
    """Check that the further pictures of an MPO are there, whole and undamaged, or DecodeError.

    One that ends after its first picture lost the others to a tool; it is complete, and noted.
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
    """Decode the picture data of a JPEG, which `walk_jpeg` found whole, for the decoder's warnings.

    What stands beside the picture (application data, comments, stray bytes in the header) is left
    out, so that an odd version number in it is no reason to refuse a picture. Returned are notes.
    DecodeError where its data are damaged; says where, if that is known.
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
    whole = b"".join([*parts, body])
    _, height, width, channels = _frame(data, frame)
    if reason := _complaint(whole, channels):
        if any(word in reason for word in _BEYOND_CHECKER):
            return ("its picture data could not be checked for damage",)
        place = _place_of_damage(data, found[first:])
        near = "" if place is None else f", near byte {place}"
        raise damaged(f'libjpeg reports "{reason}" in its picture data{near}')
    _refuse_missing_scans(data, found[first:], frame)
    if frame.code in _ARITHMETIC:
        # Its decoder makes up zeros for missing data. A whole picture needs few that were left out
        # at its end: where it is flat, three bits of them for a million pixels.
        spare = bytes(32 + (height * width >> 20))
        if "extraneous" not in _complaint(whole[:-2] + spare + whole[-2:], channels):
            raise truncated("its arithmetic-coded data end before the picture is complete")
    return ()


def _complaint(whole: bytes, channels: int) -> str:
    """Return what libjpeg has to say about a JPEG, "" for nothing."""
    colours = "CMYK" if channels == 4 else "GRAY"
    try:
        simplejpeg.decode_jpeg(whole, colours, fastdct=True, fastupsample=True, **_EIGHTH)
    except ValueError as error:
        return str(error).removeprefix("Corrupt JPEG data: ")
    return ""


def _refuse_missing_scans(data: bytes, found: list[Segment], frame: Segment) -> None:
    """Refuse a JPEG of which not every coefficient of every channel comes to its last bit."""
    progressive, channels = frame.code in PROGRESSIVE, data[frame.start + 5]
    ids = data[frame.start + 6 : frame.end : 3][:channels]
    missing = {(channel, place) for channel in ids for place in range(64)}
    for scan in found:
        if scan.code == SCAN and not (progressive and data[scan.end - 1] & 15):
            first, last = data[scan.end - 3 : scan.end - 1] if progressive else (0, 63)
            sent = data[scan.start + 1 : scan.end - 3 : 2]
            missing -= {(channel, place) for channel in sent for place in range(first, last + 1)}
    if missing:
        raise truncated("scans of the JPEG are missing")


def _refuse_foreign_blocks(
    data: bytes, found: list[Segment], header: list[Segment], frame: Segment
) -> None:
    """Refuse picture data overwritten by text or zeros, which may decode without a warning."""
    # A scan of all channels has a block of each in any long run of zeros.
    interleaved = frame.code in {0xC0, 0xC1} and data[found[0].start] == data[frame.start + 5]
    symbols = _shortest_symbols(data, header) if interleaved else ()
    zeros_are_foreign = any(symbol & 15 for symbol in symbols)  # they read as blocks all alike
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
            restarts = re.finditer(rb"\xff[\xd0-\xd7]", data[segment.end : following.at])
            for number, each in enumerate(restarts):
                if each[0][1] - 0xD0 != number % 8:
                    return segment.end + each.start()
        elif data[segment.end] != 0xFF:
            return segment.at
    return None


def jpeg_grid(pixels: NDArray[np.unsignedinteger[Any]]) -> tuple[int, int] | None:
    """Find by how many columns and rows the 8 x 8 grid of a JPEG compression is shifted, or None.

    At some places all 64 grids are tried: in that of a compression, most DCT coefficients of a
    block round to zero (after Nikoukhah et al. 2021, "ZERO").
    """
    rows, columns = (side // 8 - 1 for side in pixels.shape[:2])
    if rows * columns < _LEAST_VOTES or min(rows, columns) < 1:
        return None
    number = min(_PLACES, rows * columns)
    places = np.random.default_rng(0).choice(rows * columns, number, replace=False)
    top, left = 8 * (places // columns)[:, None, None], 8 * (places % columns)[:, None, None]
    to_grey = np.array([0.299, 0.587, 0.114], np.float32) * (255 / np.iinfo(pixels.dtype).max)
    patches = pixels[top + np.arange(15)[:, None], left + np.arange(15)] @ to_grey  # (N, 15, 15)
    windows = np.lib.stride_tricks.sliding_window_view(patches, (8, 8), axis=(1, 2))
    grey = windows.reshape(number, 64, 64)
    n = np.arange(8)
    waves = np.cos(np.pi * (2 * n + 1) * n[:, None] / 16) / 2
    waves[0] = np.sqrt(1 / 8)
    zeros = (np.abs(grey @ np.kron(waves, waves).T.astype(np.float32)) < _ZERO).sum(2)  # (N, 64)
    most = zeros.max(1, keepdims=True)
    clear = ((zeros == most).sum(1) == 1) & (most[:, 0] < _FLAT)
    votes = np.bincount(zeros[clear].argmax(1), minlength=64)
    if votes.max() < max(_LEAST_VOTES, _LEAST_SHARE * votes.sum()):
        return None
    row, column = divmod(int(votes.argmax()), 8)
    return column, row
