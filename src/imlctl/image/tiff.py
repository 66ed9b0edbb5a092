"""Walk the directories of a TIFF, check its picture data, and read its 16-bit colours.

Pillow opens most raw files as the small preview they contain, leaves the rows of missing strips
black, and keeps only the high byte of 16-bit colours. libtiff checks neither ends nor checksums.
"""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from imlctl.errors import DecodeError
from imlctl.image.formats import FileLayout, damaged, not_read, raw_error, truncated
from imlctl.image.jpeg import check_jpeg, walk_jpeg

_DTYPES = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 13: "u4", 16: "u8"}  # by TIFF's number of the type

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
_SUB_DIRECTORIES, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _DNG_VERSION = 330, 338, 339, 50706
_FILL_ORDER, _PREDICTOR, _JPEG_TABLES, _SUBSAMPLING = 266, 317, 347, 530
_READ = frozenset({*range(_SUBFILE, _JPEG_TABLES + 1), _SUBSAMPLING, _DNG_VERSION})
_RAW_PHOTOMETRICS = frozenset({32803, 34892})  # colour filter array, linear raw
_PLAIN, _FAX, _LZW, _JPEG, _PACKBITS = 1, frozenset({2, 3, 4}), 5, 7, 32773
_DEFLATE, _LZMA, _ZSTD = frozenset({8, 32946}), 34925, 50000
_COMPRESSIONS = _FAX | _DEFLATE | {_PLAIN, _LZW, _JPEG, _PACKBITS, _LZMA, _ZSTD}
_OTHER_COMPRESSIONS = {
    6: "with old-style JPEG compression",
    **dict.fromkeys((33003, 33005, 34712), "that holds a JPEG 2000 picture"),
    **dict.fromkeys((50002, 52546), "that holds a JPEG XL picture"),
    **dict.fromkeys((22610, 34934), "that holds a JPEG XR picture"),
    50001: "that holds a WebP picture",
}
_CONVERT = "Convert it without loss to a TIFF with LZW compression or to a PNG, and use that."
_INTERLEAVE = "Save it with interleaved colours (planar configuration 1) or as a 16-bit PNG."
_FLOAT, _YCBCR = 3, 6  # a sample format; a photometric, whose rows may have no fixed length
_COLOURS = {5: "CMYK", 8: "Lab", 6: "YCbCr", 2: "RGB", 3: "palette"}
_PIECE = 1 << 20  # bytes unpacked at a time
_MAX_PAGES, _MAX_ENTRIES = 65_535, 4096  # of a file, and of a directory; cameras write dozens
_MAX_VALUES = 2**20  # of a tag: strips or tiles, of which each takes a hundred bytes here
_LONG_FILE = 2**32 - 2**24  # bytes, beyond which a directory cannot be appended
_MAX_SAMPLES = 6  # CMYK and two more


class _Reader:
    """Reads directories; what it reads is bounded by the file, whatever a directory claims."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
        self.big = 43 in data[2:4]
        self.renew()
        self.first = self.number(8, 8) if self.big else self.number(4, 4)  # directory

    def renew(self) -> None:
        """Allow as many bytes again; pages may share a few values."""
        self.budget = 2 * len(self.data) + 4096

    def spend(self, count: int, what: str = "its TIFF directories") -> None:
        """Refuse a file that has more of them than it has bytes."""
        self.budget -= count
        if self.budget < 0:
            raise damaged(f"{what} overlap")

    def number(self, at: int, size: int) -> int:
        """Read an unsigned integer."""
        if at + size > len(self.data):
            raise truncated("a TIFF directory is cut off")
        return int.from_bytes(self.data[at : at + size], self.order)

    def directory(self, at: int) -> tuple[dict[int, int], int]:
        """Return where the entries lie that are read here, and the offset of the next directory."""
        head, entry, word = (8, 20, 8) if self.big else (2, 12, 4)
        count = self.number(at, head)
        end = at + head + count * entry
        following = self.number(end, word)  # also checks that all entries are there
        if count > _MAX_ENTRIES:
            raise damaged(f"a TIFF directory has {count} entries")
        self.spend(count * entry)
        found = ((self.number(place, 2), place) for place in range(at + head, end, entry))
        return {tag: place for tag, place in found if tag in _READ}, following

    def values(
        self, tags: dict[int, int], tag: int, default: tuple[int, ...] = ()
    ) -> tuple[int, ...]:
        """Return the unsigned integers of a tag."""
        if tag not in tags:
            return default
        at, room = tags[tag], 8 if self.big else 4
        kind = _DTYPES.get(self.number(at + 2, 2))
        count, inline = self.number(at + 4, room), at + 4 + room
        if kind is None or not count:
            raise damaged(f"TIFF tag {tag} has an unusable type")
        if count > _MAX_VALUES:
            raise damaged(f"TIFF tag {tag} has {count} values")
        size = np.dtype(kind).itemsize * count
        start = inline if size <= room else self.number(inline, room)
        if start + size > len(self.data):
            raise truncated(f"the values of TIFF tag {tag} are cut off")
        self.spend(size if size > room else 0)
        order = "<" if self.order == "little" else ">"
        return tuple(np.frombuffer(self.data, order + kind, count, start).tolist())


class _Page:
    """One picture of a TIFF by its directory, which must announce all its strips or tiles."""

    def __init__(self, reader: _Reader, tags: dict[int, int], number: int) -> None:
        def first(tag: int, default: int) -> int:
            return reader.values(tags, tag, (default,))[0]

        tiled = _TILE_OFFSETS in tags
        offsets = reader.values(tags, _TILE_OFFSETS if tiled else _STRIP_OFFSETS)
        counts = reader.values(tags, _TILE_COUNTS if tiled else _STRIP_COUNTS, (0,) * len(offsets))
        width, height = self.size = first(_WIDTH, 0), first(_HEIGHT, 0)
        if not offsets or not width or not height or len(counts) < len(offsets):
            raise damaged(f"page {number} of the TIFF holds no picture")
        across, rows = width, min(first(_ROWS_PER_STRIP, height), height)
        if tiled:
            across, rows = first(_TILE_WIDTH, 0), first(_TILE_HEIGHT, 0)
        if not across or not rows:
            raise damaged(f"page {number} of the TIFF is cut into pieces without a size")
        self.tile = (across, rows) if tiled else None
        self.samples = first(_SAMPLES, 1)  # of a pixel
        self.separate = first(_PLANAR, 1) == 2  # each sample has a plane of its own
        down = -(-height // rows)
        needed = -(-width // across) * down * (self.samples if self.separate else 1)
        if len(offsets) < needed or 0 in offsets[:needed]:
            raise truncated(f"parts of page {number} of the TIFF are missing")
        # The last strip may be lower than the others; tiles are all alike.
        heights = [rows if tiled else min(rows, height - n % down * rows) for n in range(needed)]
        # Offset, bytes and rows of each.
        self.pieces = tuple(zip(offsets, counts, heights, strict=False))
        bits = reader.values(tags, _BITS, (1,))
        self.bits = max(bits)  # of the widest sample
        self.compression, self.photometric = first(_COMPRESSION, 1), first(_PHOTOMETRIC, 1)
        interleaved = 1 if self.separate else self.samples
        # Bytes of a row of a piece, unpacked; 0 where rows have no fixed length.
        self.row = -(-across * max(sum(bits[:interleaved]), bits[0] * interleaved) // 8)
        if self.photometric == _YCBCR and max(reader.values(tags, _SUBSAMPLING, (2, 2))) > 1:
            self.row = 0
        self.predictor = first(_PREDICTOR, 1)  # 2: samples are differences from the one on the left
        self.sample_format = first(_SAMPLE_FORMAT, 1)  # 1 unsigned, 2 signed, 3 floating
        self.fill_order = first(_FILL_ORDER, 1)  # 2 where bits count from the lowest
        self.tables = bytes(reader.values(tags, _JPEG_TABLES))  # that all pieces share


def walk_tiff(data: bytes) -> FileLayout:
    """Check all pages of a TIFF and describe the first.

    DecodeError for a raw file, a preview first, a page cut off, or data that the decoders get
    wrong.
    """
    reader = _Reader(data)
    pages: list[dict[int, int]] = []
    seen: set[int] = set()
    offset = reader.first
    while offset and offset not in seen:
        seen.add(offset)
        tags, offset = reader.directory(offset)
        pages.append(tags)
        if len(pages) > _MAX_PAGES:
            raise damaged(f"it has more than {_MAX_PAGES} pages")
    if not pages:
        raise damaged("the TIFF holds no picture")
    _refuse_unreadable(reader, pages)
    reader.renew()  # pieces of the pictures may share a few bytes, too
    checked = [_check_pieces(reader, _Page(reader, page, n), n) for n, page in enumerate(pages, 1)]
    notes, first = checked[0], _Page(reader, pages[0], 1)
    if first.bits > 8 and first.samples > 1 and first.separate:
        # Measured: Pillow reads uncompressed 16-bit planes as if they were 8-bit.
        raise not_read(f"a TIFF with {first.bits}-bit colours in separate planes", _INTERLEAVE)
    if 1 in reader.values(pages[0], _EXTRA_SAMPLES):
        notes = ("premultiplied transparency divided out", *notes)
    kind = "floating-point " if first.sample_format == _FLOAT else ""
    meaning = _COLOURS.get(first.photometric, "grey")
    return FileLayout(
        end=len(data),
        frames=len(pages),
        size=first.size,
        tile=first.tile or (1, 1),
        kind=f"a TIFF with {first.samples} {kind}samples of {first.bits} bits ({meaning})",
        bits=first.bits,
        signed=first.sample_format == 2,
        notes=notes,
        white_is_zero=first.photometric == 0,
    )


def check_tiff(data: bytes) -> tuple[str, ...]:
    """Unpack the picture data of the first page where its decoder would not see damage."""
    if data.startswith(b"MM\0+"):
        raise not_read("a big-endian BigTIFF", _CONVERT)
    page = _first_page(data)
    notes: tuple[str, ...] = ()
    if page.photometric == _YCBCR and page.row and page.compression in {_LZW, _ZSTD}:
        _as_grey(data, page)  # which fails where Pillow's way to read such colours does not
    full = page.pieces[0][2]  # rows; some writers fill the last strip up to it
    widest = page.row or page.samples * page.bits * (page.tile or page.size)[0]
    for number, (start, length, rows) in enumerate(page.pieces, 1):
        piece, least, most = data[start : start + length], rows * page.row, full * widest
        if page.compression == _JPEG:
            shared = page.tables[:-2] if page.tables else b""
            notes += check_jpeg(shared + piece[2:] if shared else piece)
            continue
        whole = True
        if page.compression in _DEFLATE:
            whole = _inflates(zlib.decompressobj(), piece, least, most)
        elif page.compression == _LZMA:
            with suppress(ImportError):  # some builds of Python come without
                import lzma

                whole = _inflates(lzma.LZMADecompressor(), piece, least, most)
        elif page.compression == _PACKBITS and page.row:
            whole = any(_packbits_fit(piece, page.row, each) for each in {rows, full})
        if not whole:
            place = f"strip or tile {number} of {len(page.pieces)}, at byte {start},"
            raise damaged(f"{place} has a wrong checksum or does not unpack to its size")
    return notes


def _first_page(data: bytes) -> _Page:
    reader = _Reader(data)
    return _Page(reader, reader.directory(reader.first)[0], 1)


def wide_samples(data: bytes) -> NDArray[np.uint16] | None:
    """Read the 16-bit samples of the first page, (H, W, samples); None where they are none such."""
    page = _first_page(data)
    if page.bits != 16 or page.separate or page.sample_format != 1 or len(data) >= _LONG_FILE:
        return None
    (width, height), across = page.size, (page.tile or (0, 0))[0]
    wide = np.asarray(_as_grey(data, page)).astype(np.uint16).reshape(height, width, page.samples)
    if page.predictor == 2:
        for left in range(0, width, across or width):
            part = wide[:, left : left + (across or width)]
            np.add.accumulate(part, axis=1, dtype=np.uint16, out=part)
    return wide


def _as_grey(data: bytes, page: _Page) -> Image.Image:
    """Load a page whose rows of pixels an appended directory calls longer rows of grey ones."""
    starts, lengths = (tuple(each[at] for each in page.pieces) for at in (0, 1))
    (width, height), (across, down) = page.size, page.tile or (0, page.pieces[0][2])
    numbers = {_WIDTH: width * page.samples, _HEIGHT: height, _BITS: page.bits, _SAMPLES: 1}
    numbers |= {_COMPRESSION: page.compression, _PHOTOMETRIC: 1, _FILL_ORDER: page.fill_order}
    if across:
        numbers |= {_TILE_WIDTH: across * page.samples, _TILE_HEIGHT: down}
        lists = {_TILE_OFFSETS: starts, _TILE_COUNTS: lengths}
    else:
        numbers[_ROWS_PER_STRIP] = down
        lists = {_STRIP_OFFSETS: starts, _STRIP_COUNTS: lengths}
    tags = {tag: (number,) for tag, number in numbers.items()} | lists
    image = TiffImagePlugin.TiffImageFile(BytesIO(_with_directory(data, tags)))
    image.im = Image.new(image.mode, image.size).im  # else Pillow's global size limit applies
    image.load()
    return image


def _with_directory(data: bytes, tags: dict[int, tuple[int, ...]]) -> bytes:
    """Return a classic TIFF of the same bytes whose only directory is this one, of LONG values."""
    order = "<" if data[:2] == b"II" else ">"
    blob = bytearray(data) + bytes(-len(data) % 4)
    entries = b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, place = struct.pack(f"{order}I", len(blob)), packed
            blob += place
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + packed
    blob[2:8] = struct.pack(f"{order}HI", 42, len(blob))
    return bytes(blob + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))


def _inflates(inflate: Any, piece: bytes, least: int, most: int) -> bool:
    """Tell whether data unpack to so many bytes, exactly the least if no checksum ends them."""
    made, rest = 0, piece
    try:
        while not inflate.eof and made <= most + _PIECE:
            unpacked = inflate.decompress(rest, _PIECE)
            made += len(unpacked)
            rest = getattr(inflate, "unconsumed_tail", b"")  # lzma keeps it to itself
            if not unpacked:
                break
    except Exception:  # each decoder has its own
        return False
    return made >= least if inflate.eof else made == least


def _packbits_fit(piece: bytes, row: int, rows: int) -> bool:
    """Tell whether runs fill so many rows, each by itself if the first is, and use up the piece."""
    position, made, total, apart = 0, 0, row * rows, True
    while made < total:
        if position >= len(piece):
            return False
        head, before = piece[position], made
        if head < 128:
            position, made = position + head + 2, made + head + 1
        elif head > 128:
            position, made = position + 2, made + 257 - head
        else:
            position += 1
        if made // row != before // row and made % row:  # a run that goes over the end of a row
            if apart and before >= row:
                return False
            apart = False
    return made == total and 0 <= len(piece) - position <= 3


def _refuse_unreadable(reader: _Reader, pages: list[dict[int, int]]) -> None:
    first = pages[0]
    inner = [reader.directory(at)[0] for at in reader.values(first, _SUB_DIRECTORIES)]
    for tags in pages + inner:
        if _DNG_VERSION in tags:
            raise raw_error("DNG")
        if reader.values(tags, _PHOTOMETRIC, (1,))[0] in _RAW_PHOTOMETRICS:
            raise raw_error("TIFF-based")
    if reader.values(first, _SUBFILE, (0,))[0] & 1:
        what = "the first picture in this TIFF is marked as a reduced copy of another"
        raise DecodeError(what, remedy="Export the full-size picture as a TIFF or PNG of its own.")
    if (samples := reader.values(first, _SAMPLES, (1,))[0]) > _MAX_SAMPLES:
        what = f"it has {samples} samples per pixel"
        raise DecodeError(what, remedy="Export it as an RGB picture.")


def _check_pieces(reader: _Reader, page: _Page, number: int) -> tuple[str, ...]:
    """Check that every piece of a page lies within the file; return notes."""
    notes: tuple[str, ...] = ()
    if page.compression not in _COMPRESSIONS:
        unknown = f"that holds data of compression {page.compression}"
        raise not_read(f"a TIFF {_OTHER_COMPRESSIONS.get(page.compression, unknown)}", _CONVERT)
    if page.compression in _FAX:
        notes = ("fax compression: missing rows would go unnoticed",)
    # Of plain data the decoder reads what the rows need, whatever their announced number of bytes.
    row = page.row if page.compression == _PLAIN else 0
    if any(length < rows * row for _, length, rows in page.pieces):
        notes = ("the sizes of its parts are too small and were worked out",)
    lengths = [max(length, rows * row) for _, length, rows in page.pieces]
    last = max(start + length for (start, *_), length in zip(page.pieces, lengths, strict=True))
    if last > len(reader.data):
        raise truncated(f"the picture data of TIFF page {number} ends at byte {last}")
    reader.spend(sum(lengths), "the parts of its pictures")
    for start, length, rows in page.pieces if page.compression == _JPEG else ():
        size = walk_jpeg(reader.data[start : start + length]).size
        if size is None or size[1] < rows:  # libtiff makes up what one lacks
            raise truncated("a JPEG strip of the TIFF lacks rows")
    return notes
