"""Walk the structure of a picture file before decoding, to find what decoders pass over in silence.

Measured with Pillow 13: it reads a PNG without its end or with a wrong checksum, a GIF, APNG, MPO
or TIFF whose later pictures are cut off, and a WebP, AVIF or HEIC that ends in zeros as after a
failed copy; and it says nothing of bytes that follow the picture.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, replace

from imlctl.errors import DecodeError

REMEDY_DAMAGED = "Get the complete original again; a partly readable picture is not analysed."

_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither stuffing, restart nor fill
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ZERO_TAIL = bytes(1024)  # no arithmetic coder writes that many zeros; failed copies write more
_MAX_SCANS = 64  # each goes over the whole picture; usual are 10
_MAX_FILL = 2**16  # bytes between the segments before a JPEG's picture


@dataclass(frozen=True, slots=True)
class Layout:
    """What the structure of a file says beyond what the decoder reports.

    Attributes:
        end: Offset just past the (first) picture.
        trailing: Number of bytes after everything that belongs to the file's format.
        frames: Number of pictures, or None where the decoder is the one to ask.
        size: Width and height in pixels as stored, or None where the decoder can be asked
            before it allocates anything.
        bits: Bits per sample as stored.
        signed: Samples are signed integers.
        white_is_zero: Samples count down from white.
        tile: TIFF only: width and height of one internal tile, which a decoder allocates whole.
        scans: JPEG only: number of scans.
        arithmetic: JPEG only: arithmetic coding.
        notes: Sentences for the record.
    """

    end: int
    trailing: int = 0
    frames: int | None = None
    size: tuple[int, int] | None = None
    bits: int = 8
    signed: bool = False
    white_is_zero: bool = False
    tile: tuple[int, int] = (1, 1)
    scans: int = 0
    arithmetic: bool = False
    notes: tuple[str, ...] = ()


def truncated(what: str) -> DecodeError:
    """Build the error for a file that ends too early."""
    return DecodeError(f"the file is truncated: {what}", remedy=REMEDY_DAMAGED)


def damaged(what: str) -> DecodeError:
    """Build the error for a file whose structure contradicts itself."""
    return DecodeError(f"the file is damaged: {what}", remedy=REMEDY_DAMAGED)


def check_pieces(count: int, data: bytes) -> None:
    """Refuse a file of very many tiny parts, on which decoders spend hours.

    Raises:
        DecodeError: It has more parts than any picture of its size.
    """
    if count > 50_000 + len(data) // 1024:
        raise damaged(f"it consists of more than {count - 1} pieces")


def walk_jpeg(data: bytes, start: int = 0) -> Layout:
    """Find the end marker of the JPEG at `start`, skipping the thumbnails inside its metadata.

    Raises:
        DecodeError: There is no end marker, a segment runs past the end, or it is made to take
            hours.
    """
    position, scans, arithmetic, pieces, fill = start + 2, 0, False, 0, 0
    size: tuple[int, int] | None = None
    while found := _JPEG_MARKER.search(data, position):
        code = data[found.start() + 1]
        pieces += 1
        check_pieces(pieces, data)
        fill += 0 if scans else found.start() - position
        if fill > _MAX_FILL:
            raise damaged(f"there are {fill} stray bytes before the picture of the JPEG")
        position = found.end()
        if code == 0xD9:
            if not scans:
                raise damaged("the JPEG ends before its picture begins")
            return Layout(
                end=position,
                trailing=len(data) - position,
                size=size,
                scans=scans,
                arithmetic=arithmetic,
            )
        if code in {0x01, 0xD8}:  # markers without a length
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        if length < 2:
            raise damaged("a JPEG segment has no length")
        scans += code == 0xDA
        if scans > _MAX_SCANS:
            raise damaged(f"the JPEG has more than {_MAX_SCANS} scans")
        if code in _JPEG_FRAMES and size is None:
            height = int.from_bytes(data[position + 3 : position + 5], "big")
            size = int.from_bytes(data[position + 5 : position + 7], "big"), height
            arithmetic = code > 0xC8
        position += length
    raise truncated("the JPEG has no end marker")


def walk_mpo(data: bytes, first: Layout, frames: int) -> Layout:
    """Check that the further pictures of an MPO are all there.

    A file that ends exactly after its first picture lost the others to a tool that keeps only
    that one; it is complete, and noted.

    Raises:
        DecodeError: A further picture is missing or incomplete.
    """
    end = first.end
    if end == len(data):
        note = f"the file announces {frames} pictures and holds the first only"
        return replace(first, frames=1, notes=(note,))
    for number in range(2, frames + 1):
        start = data.find(b"\xff\xd8\xff", end)
        if start < 0:
            raise truncated(f"picture {number} of {frames} is missing")
        end = walk_jpeg(data, start).end
    return replace(first, trailing=len(data) - end, frames=frames)


def walk_png(data: bytes) -> Layout:
    """Check every chunk's checksum, up to the end chunk.

    Raises:
        DecodeError: A chunk is cut off or has a wrong checksum, or the end chunk is missing.
    """
    view, position, bits, pieces = memoryview(data), 8, 8, 0
    while True:
        pieces += 1
        check_pieces(pieces, data)
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        stop = position + 8 + length
        if stop + 4 > len(data):
            raise truncated("the PNG has no end chunk")
        if zlib.crc32(view[position + 4 : stop]) != int.from_bytes(data[stop : stop + 4], "big"):
            raise damaged(f"the checksum of PNG chunk {kind!r} at byte {position} is wrong")
        if position == 8:
            if kind != b"IHDR" or length != 13:
                raise damaged("the PNG does not begin with its header")
            bits = data[24]
        position = stop + 4
        if kind == b"IEND":
            return Layout(end=position, trailing=len(data) - position, bits=bits)


def walk_gif(data: bytes) -> Layout:
    """Follow all blocks of a GIF to its trailer and count the pictures.

    Raises:
        DecodeError: A block is cut off or unknown, or the trailer is missing.
    """
    position, frames, pieces = _after_palette(data, 13), 0, 0
    notes: list[str] = []
    while position < len(data):
        block = data[position]
        position += 1
        pieces += not frames  # an animation may well have a million blocks behind its first frame
        check_pieces(pieces, data)
        if block == 0x3B:
            if not frames:
                raise damaged("the GIF holds no picture")
            trailing = len(data) - position
            return Layout(end=position, trailing=trailing, frames=frames, notes=tuple(notes))
        if block == 0x2C:
            frames += 1
            if frames == 1 and data[position + 4 : position + 8] != data[6:10]:
                notes.append("the first frame has a size of its own, other than the canvas")
            position = _after_sub_blocks(data, _after_palette(data, position + 9) + 1)
        elif block == 0x21:
            position = _after_sub_blocks(data, position + 1)
        elif block != 0x00:  # some writers leave a zero byte between blocks
            raise damaged(f"unknown GIF block at byte {position - 1}")
    raise truncated("the GIF has no trailer")


def _after_palette(data: bytes, end: int) -> int:
    """Skip the colour table announced by the flags of the descriptor that ends at `end`."""
    if end > len(data):
        raise truncated("a GIF descriptor is cut off")
    flags = data[10] if end == 13 else data[end - 1]
    return end + (3 << (flags & 7) + 1 if flags & 0x80 else 0)


def _after_sub_blocks(data: bytes, position: int) -> int:
    while position < len(data):
        length = data[position]
        position += 1 + length
        if not length:
            return position
    raise truncated("a GIF block is cut off")


def walk_bmp(data: bytes) -> Layout:
    """Find what follows a BMP, and whether its compression may leave pixels out."""
    padded = data[:34].ljust(34, b"\0")
    end, start, header = struct.unpack_from("<I4xII", padded, 2)
    width, height, bits, compression = struct.unpack_from("<ii2xHI", padded, 18)
    notes = []
    if header >= 40:  # older ones have shorter fields, and no compression
        if compression in (1, 2):
            notes.append("pixels that its run-length compression leaves out are black")
        else:  # some programs count too few bytes
            end = max(end, start + abs(height) * (-(-abs(width) * bits // 32) * 4))
    if end > len(data):  # the decoder refuses it if pixels are missing
        notes.append(f"it announces {end} bytes and has {len(data)}")
    end = end if 0 < end < len(data) else len(data)  # many programs write 0
    return Layout(end=end, trailing=len(data) - end, notes=tuple(notes))


def walk_webp(data: bytes) -> Layout:
    """Read the canvas size, which Pillow would only tell after allocating the canvas.

    Raises:
        DecodeError: The file is shorter than it says, or has no picture header.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data) or len(data) < 30:
        raise truncated(f"the WebP announces {end} bytes and has {len(data)}")
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif kind == b"VP8 ":
        width = int.from_bytes(data[26:28], "little") & 0x3FFF
        height = int.from_bytes(data[28:30], "little") & 0x3FFF
    elif kind == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    else:
        raise damaged("the WebP does not begin with a picture header")
    end += end & 1  # chunks are padded to even length
    position, pieces = 12, 0
    while position + 8 <= end:
        pieces += 1
        check_pieces(pieces, data)
        kind, length = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 8], "little"),
        )
        position += 8 + length
        if kind in {b"VP8 ", b"VP8L", b"ANMF"}:
            _refuse_zero_tail(data, position)
        position += length & 1
    return Layout(end=end, trailing=max(0, len(data) - end), size=(width, height))


def walk_boxes(data: bytes) -> Layout:
    """Check that the top-level boxes of a HEIF or AVIF file fill it.

    Raises:
        DecodeError: A box is cut off.
    """
    position, pieces = 0, 0
    while position < len(data):
        pieces += 1
        check_pieces(pieces, data)
        length = int.from_bytes(data[position : position + 4], "big")
        header = 8
        if length == 1:
            length, header = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        elif length == 0:  # to the end of the file
            length = len(data) - position
        if position + header > len(data) or position + length > len(data):
            raise truncated(f"the box at byte {position} is cut off")
        if length < header:
            raise damaged(f"the box at byte {position} has no length")
        kind = data[position + 4 : position + 8]
        position += length
        if kind == b"mdat":
            _refuse_zero_tail(data, position)
    return Layout(end=position, bits=_av1_bits(data))


def _refuse_zero_tail(data: bytes, end: int) -> None:
    if data.endswith(_ZERO_TAIL, 0, end):
        raise damaged("its picture data ends in zeros, as after a copy that failed")


def _av1_bits(data: bytes) -> int:
    """Return the sample depth of the first AV1 codec configuration, 8 where there is none."""
    at = data.find(b"av1C")
    if at < 0 or at + 6 >= len(data):
        return 8
    flags = data[at + 6]
    if not flags & 0x40:
        return 8
    return 12 if flags & 0x20 else 10
