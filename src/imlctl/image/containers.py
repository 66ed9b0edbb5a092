"""Walk a PNG, GIF, BMP or WebP, to find what its decoder passes over in silence.

Pillow 13 reads a PNG without its end, with a wrong checksum or with rows missing, a GIF or APNG
whose later pictures are cut off, and a WebP that ends in zeros; and says nothing of bytes behind.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
from PIL.WebPImagePlugin import WebPImageFile

from imlctl.image.formats import FileLayout, check_pieces, damaged, not_read, truncated

if TYPE_CHECKING:
    from PIL import Image

_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_EXIF_TEXTS = (b"Raw profile type exif\0", b"Raw profile type APP1\0", b"XML:com.adobe.xmp\0")
_MAX_TEXT = 2**20 - 1  # bytes, unpacked; Pillow refuses a file for more
_ZERO_TAIL = bytes(1024)  # no arithmetic coder writes that many zeros; failed copies write more
_SPARE = 16  # bytes at the end of a WebP's picture data; encoders write four that none needs
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG colour type
# Adam7: first column, first row, column step, row step of each pass.
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_FRAME, _EXTENSION, _TRAILER = 0x2C, 0x21, 0x3B  # blocks of a GIF
_REVERT = (
    "Convert it back without loss (pngcrush -revert-iphone-optimizations), and use the result."
)
_PIECE = 1 << 20  # bytes inflated at a time


def walk_png(data: bytes) -> FileLayout:
    """Check every chunk's checksum, up to the end chunk; DecodeError where one is wrong."""
    view, profile = memoryview(data), False
    for pieces, (kind, start, stop) in enumerate(png_chunks(data), 1):
        check_pieces(pieces, data)
        if stop + 4 > len(data):
            break
        if zlib.crc32(view[start - 4 : stop]) != int.from_bytes(data[stop : stop + 4]):
            raise damaged(f"the checksum of PNG chunk {kind!r} at byte {start - 8} is wrong")
        if pieces == 1 and kind == b"CgBI":
            raise not_read("a PNG optimised for iPhones (CgBI)", _REVERT)
        if pieces == 1 and (kind != b"IHDR" or stop - start != 13):
            raise damaged("the PNG does not begin with its header")
        profile |= kind == b"iCCP"
        if kind == b"IEND":
            return FileLayout(stop + 4, len(data) - stop - 4, bits=data[24], profile=profile)
    raise truncated("the PNG has no end chunk")


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the content of each chunk of a PNG up to its end chunk."""
    name, stop = b"", 4
    while name != b"IEND" and stop + 4 < len(data):
        start = stop + 12
        name, stop = data[start - 4 : start], start + int.from_bytes(data[start - 8 : start - 4])
        yield name, start, stop


def without_metadata(data: bytes) -> bytes:
    """Return a whole PNG without its profile, and without texts but those that may hold EXIF.

    Pillow refuses a picture for one of over a megabyte.
    """
    spans = (
        (start - 8, stop + 4)
        for name, start, stop in png_chunks(data)
        if name == b"iCCP" or (name in _TEXTS and not _may_hold_exif(name, data[start:stop]))
    )
    return _without(data, spans)


def _without(data: bytes, spans: Iterable[tuple[int, int]]) -> bytes:
    parts, kept = [], 0
    for start, stop in spans:
        parts.append(data[kept:start])
        kept = stop
    return b"".join([*parts, data[kept:]]) if parts else data


def _may_hold_exif(kind: bytes, text: bytes) -> bool:
    """Tell whether a text chunk is one in which Pillow looks for EXIF, and not too large for it."""
    if not text.startswith(_EXIF_TEXTS) or len(text) > _MAX_TEXT:
        return False
    body = text.partition(b"\0")[2]
    packed = body[1:] if kind == b"zTXt" else body[2:].split(b"\0", 2)[-1]
    if kind == b"tEXt" or (kind == b"iTXt" and body[:1] != b"\1"):
        return True
    try:
        return len(zlib.decompressobj().decompress(packed, _MAX_TEXT + 1)) <= _MAX_TEXT
    except zlib.error:
        return False


def walk_gif(data: bytes) -> FileLayout:
    """Follow all blocks of a GIF to its trailer and count the pictures, or DecodeError."""
    frames, pieces = 0, 0
    notes: tuple[str, ...] = ()
    for kind, start, stop in _gif_blocks(data):
        pieces += not frames  # an animation may well have a million blocks behind its first frame
        check_pieces(pieces, data)
        if kind == _FRAME:
            frames += 1
            if frames == 1 and data[start + 5 : start + 9] != data[6:10]:
                notes = ("the first frame has a size of its own, other than the canvas",)
        if kind == _TRAILER:
            if not frames:
                raise damaged("the GIF holds no picture")
            return FileLayout(stop, len(data) - stop, frames, notes=notes)
    raise truncated("the GIF has no trailer")


def _gif_blocks(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield kind, start and end of each block of a GIF up to its trailer."""
    kind, stop = 0, _after_palette(data, 13)
    while kind != _TRAILER and stop < len(data):
        kind, start, stop = data[stop], stop, stop + 1
        if kind == _FRAME:
            stop = _after_sub_blocks(data, _after_palette(data, start + 10) + 1)
        elif kind == _EXTENSION:
            stop = _after_sub_blocks(data, start + 2)
        elif kind not in {0, _TRAILER}:  # some writers leave a zero byte between blocks
            raise damaged(f"unknown GIF block at byte {start}")
        yield kind, start, stop


def without_extensions(data: bytes) -> bytes:
    """Return a whole GIF without application data before its picture: empty ones confuse Pillow."""
    before = takewhile(lambda block: block[0] != _FRAME, _gif_blocks(data))
    named = (block for block in before if block[0] == _EXTENSION and data[block[1] + 1] == 0xFF)
    return _without(data, ((start, stop) for _, start, stop in named))


def _after_palette(data: bytes, end: int) -> int:
    """Skip the colours that the flags of the descriptor announce which ends at `end`."""
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


def walk_bmp(data: bytes) -> FileLayout:
    """Find what follows a BMP; refuse one that wraps a JPEG or PNG."""
    padded = data[:34].ljust(34, b"\0")
    end, start, header = struct.unpack_from("<I4xII", padded, 2)
    width, height, bits, compression = struct.unpack_from("<ii2xHI", padded, 18)
    notes = []
    if header >= 40:  # older ones have shorter fields, and no compression
        if inner := {4: "JPEG", 5: "PNG"}.get(compression):
            remedy = f"Extract the {inner}, which begins at byte {start}, and use that."
            raise not_read(f"a {inner} wrapped in a BMP", remedy)
        if compression in (1, 2):
            notes.append("pixels that its run-length compression leaves out are black")
        else:  # some programs count too few bytes
            end = max(end, start + abs(height) * (-(-abs(width) * bits // 32) * 4))
    if end > len(data):  # the decoder refuses it if pixels are missing
        notes.append(f"it announces {end} bytes and has {len(data)}")
    end = end if 0 < end < len(data) else len(data)  # many programs write 0
    return FileLayout(end=end, trailing=len(data) - end, notes=tuple(notes))


def walk_webp(data: bytes) -> FileLayout:
    """Read the canvas size, which Pillow would only tell after allocating the canvas."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data) or len(data) < 30:
        raise truncated(f"the WebP announces {end} bytes and has {len(data)}")
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif kind == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        width, height = (1 + (packed >> shift & 0x3FFF) for shift in (0, 14))
    else:
        raise damaged("the WebP does not begin with a picture header")
    end += end & 1  # chunks are padded to even length
    for pieces, (kind, start, stop) in enumerate(riff_chunks(data), 1):
        if start > end:
            break
        check_pieces(pieces, data)
        if kind == b"VP8 ":  # the other kind is no arithmetic coding
            refuse_zero_tail(data, stop)
    return FileLayout(end=end, trailing=max(0, len(data) - end), size=(width, height))


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the content of each chunk of a WebP, also within a frame."""
    position = 12
    while position + 8 <= len(data):
        start = position + 8
        stop = start + int.from_bytes(data[position + 4 : start], "little")
        name = data[position : position + 4]
        yield name, start, stop
        position = start + 16 if name == b"ANMF" else stop + (stop - start & 1)


def check_webp(data: bytes) -> tuple[str, ...]:
    """Refuse a WebP that decodes even without its last bytes: its decoder lost its way."""
    for name, start, stop in riff_chunks(data):
        if name in {b"VP8 ", b"VP8L"}:
            length = stop - start - _SPARE
            if length <= 3 * _SPARE:
                break
            chunk = name + struct.pack("<I", length) + data[start : start + length + length % 2]
            try:
                head = b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP"
                WebPImageFile(BytesIO(head + chunk)).load()
            except Exception:  # as decoders of damaged files do
                break
            raise damaged("its picture data are used up before their end")
    return ()


def refuse_zero_tail(data: bytes, end: int) -> None:
    """Refuse picture data that end in zeros, as after a failed copy."""
    if data.endswith(_ZERO_TAIL, 0, end):
        raise damaged("its picture data ends in zeros, as after a copy that failed")


def check_png(image: Image.Image, data: bytes) -> None:
    """Check a loaded PNG whose last row is zero, or that is interlaced, by counting its bytes."""
    interlaced = data[28] == 1
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    if not interlaced and np.asarray(last_row).any():
        return
    bits = data[24] * _CHANNELS[data[25]]
    expected = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns = -(-(image.width - left) // across)
        rows = -(-(image.height - top) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + -(-columns * bits // 8))
    inflate, view = zlib.decompressobj(), memoryview(data)
    for name, start, stop in png_chunks(data):
        rest: bytes | memoryview = view[start:stop] if name == b"IDAT" else b""
        while rest and not inflate.eof:  # a piece at a time
            expected -= len(inflate.decompress(rest, _PIECE))
            rest = inflate.unconsumed_tail
    if expected > 0:
        raise truncated("the PNG data end before the picture is complete")
