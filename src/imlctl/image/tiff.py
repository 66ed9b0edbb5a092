"""Walk the directories of a TIFF: raw files in disguise, cut-off pages, sample layout.

Pillow opens most raw files as the small preview they contain, stops looking at the first page, and
leaves the rows of missing strips black.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from imlctl.errors import DecodeError
from imlctl.image.formats import Layout, damaged, raw_error, truncated
from imlctl.image.jpeg import walk_jpeg

_DTYPES = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8"}  # BYTE, SHORT, LONG, IFD, LONG8

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
_SUB_DIRECTORIES, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _DNG_VERSION = 330, 338, 339, 50706
_READ = frozenset(
    {
        *(_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC),
        *(_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS, _PLANAR),
        *(_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS),
        *(_SUB_DIRECTORIES, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _DNG_VERSION),
    }
)
_RAW_PHOTOMETRICS = frozenset({32803, 34892})  # colour filter array, linear raw
_PLAIN, _GROUP_3, _GROUP_4, _OLD_JPEG, _JPEG = 1, 3, 4, 6, 7  # compressions
_SUBSAMPLED = 6  # photometric: brightness and colour, of which rows have no fixed length
_MAX_PAGES = 65_535
_MAX_ENTRIES = 4096  # of a directory; a camera writes some dozens
_MAX_VALUES = 2**20  # of a tag: strips or tiles, of which each takes a hundred bytes here
_MAX_SAMPLES = 6  # CMYK and two more


@dataclass(slots=True)
class _Reader:
    """Reads directories; what it reads is bounded by the file, whatever a directory claims."""

    data: bytes
    order: str = field(init=False)
    big: bool = field(init=False)
    budget: int = field(init=False)

    def __post_init__(self) -> None:
        self.order = "<" if self.data[:2] == b"II" else ">"
        self.big = 43 in self.data[2:4]
        self.budget = 2 * len(self.data) + 4096  # pages may share a few values

    def first(self) -> int:
        """Return the offset of the first directory."""
        return self.number(8, 8) if self.big else self.number(4, 4)

    def number(self, at: int, size: int) -> int:
        """Read an unsigned integer."""
        if at + size > len(self.data):
            raise truncated("a TIFF directory is cut off")
        return int.from_bytes(self.data[at : at + size], "little" if self.order == "<" else "big")

    def directory(self, at: int) -> tuple[dict[int, int], int]:
        """Return where the entries lie that are read here, and the offset of the next directory."""
        head, entry, word = (8, 20, 8) if self.big else (2, 12, 4)
        count = self.number(at, head)
        end = at + head + count * entry
        following = self.number(end, word)  # also checks that all entries are there
        if count > _MAX_ENTRIES:
            raise damaged(f"a TIFF directory has {count} entries")
        self.budget -= count * entry
        if self.budget < 0:
            raise damaged("its TIFF directories overlap")
        found = ((self.number(place, 2), place) for place in range(at + head, end, entry))
        return {tag: place for tag, place in found if tag in _READ}, following

    def values(
        self, tags: dict[int, int], tag: int, default: tuple[int, ...] = ()
    ) -> tuple[int, ...]:
        """Return the unsigned integers of a tag."""
        if tag not in tags:
            return default
        at = tags[tag]
        kind = self.number(at + 2, 2)
        room = 8 if self.big else 4
        count, inline = self.number(at + 4, room), at + 4 + room
        if kind not in _DTYPES or not count:
            raise damaged(f"TIFF tag {tag} has an unusable type")
        if count > _MAX_VALUES:
            raise damaged(f"TIFF tag {tag} has {count} values")
        size = np.dtype(_DTYPES[kind]).itemsize * count
        start = inline if size <= room else self.number(inline, room)
        self.budget -= size if size > room else 0
        if start + size > len(self.data):
            raise truncated(f"the values of TIFF tag {tag} are cut off")
        if self.budget < 0:
            raise damaged("its TIFF directories overlap")
        read = np.frombuffer(self.data, self.order + _DTYPES[kind], count, start)
        return tuple(read.tolist())


def walk_tiff(data: bytes) -> Layout:
    """Check all pages of a TIFF and describe the first.

    Raises:
        DecodeError: A raw file, a first page that is only a preview, a page whose directory or
            picture data is cut off, a sample layout that the decoders get wrong, or a compression
            whose decoder makes up what is missing.
    """
    reader = _Reader(data)
    pages: list[dict[int, int]] = []
    seen: set[int] = set()
    offset = reader.first()
    while offset and offset not in seen:
        seen.add(offset)
        tags, offset = reader.directory(offset)
        pages.append(tags)
        if len(pages) > _MAX_PAGES:
            raise damaged(f"it has more than {_MAX_PAGES} pages")
    if not pages:
        raise damaged("the TIFF holds no picture")
    _refuse_unreadable(reader, pages)
    reader.budget = 2 * len(data) + 4096  # pieces of the pictures may share a few bytes, too
    notes = [_check_page(reader, page, number) for number, page in enumerate(pages, 1)]
    described = _describe(reader, pages)
    return replace(described, notes=(*described.notes, *notes[0]))


def _refuse_unreadable(reader: _Reader, pages: list[dict[int, int]]) -> None:
    first = pages[0]
    inner = [reader.directory(at)[0] for at in reader.values(first, _SUB_DIRECTORIES)]
    for tags in pages + inner:
        if _DNG_VERSION in tags:
            raise raw_error("DNG")
        if reader.values(tags, _PHOTOMETRIC, (1,))[0] in _RAW_PHOTOMETRICS:
            raise raw_error("TIFF-based")
    if reader.values(first, _SUBFILE, (0,))[0] & 1:
        raise DecodeError(
            "the first picture in this TIFF is marked as a small copy of another",
            remedy="Export the full-size picture as a TIFF or PNG of its own.",
        )
    if (samples := reader.values(first, _SAMPLES, (1,))[0]) > _MAX_SAMPLES:
        raise DecodeError(
            f"it has {samples} samples per pixel", remedy="Export it as an RGB picture."
        )


def _check_page(reader: _Reader, page: dict[int, int], number: int) -> tuple[str, ...]:
    """Check that every strip or tile of a page is announced and lies within the file.

    Returns:
        What to note of the page.
    """
    tiled = _TILE_OFFSETS in page
    offsets = reader.values(page, _TILE_OFFSETS if tiled else _STRIP_OFFSETS)
    counts = reader.values(page, _TILE_COUNTS if tiled else _STRIP_COUNTS, (0,) * len(offsets))
    width = reader.values(page, _WIDTH, (0,))[0]
    height = reader.values(page, _HEIGHT, (0,))[0]
    if not offsets or not width or not height or len(counts) < len(offsets):
        raise damaged(f"page {number} of the TIFF holds no picture")
    across, rows = width, min(reader.values(page, _ROWS_PER_STRIP, (height,))[0], height)
    if tiled:
        across = reader.values(page, _TILE_WIDTH, (0,))[0]
        rows = reader.values(page, _TILE_HEIGHT, (0,))[0]
    if not across or not rows:
        raise damaged(f"page {number} of the TIFF is cut into pieces without a size")
    planes = 1
    if reader.values(page, _PLANAR, (1,))[0] == 2:
        planes = reader.values(page, _SAMPLES, (1,))[0]
    down = -(-height // rows)
    needed = -(-width // across) * down * planes
    if len(offsets) < needed or 0 in offsets[:needed]:
        raise truncated(f"parts of page {number} of the TIFF are missing")
    # The last strip may be lower than the others; tiles are all alike.
    heights = [
        rows if tiled else min(rows, height - piece % down * rows) for piece in range(needed)
    ]
    pieces = list(zip(offsets, counts, heights, strict=False))
    return _check_pieces(reader, page, number, across, pieces)


def _check_pieces(
    reader: _Reader,
    page: dict[int, int],
    number: int,
    width: int,
    pieces: list[tuple[int, int, int]],
) -> tuple[str, ...]:
    """Check the pieces of a page, each given by its offset, bytes and rows; return notes."""
    compression = reader.values(page, _COMPRESSION, (1,))[0]
    notes: tuple[str, ...] = ()
    if compression == _OLD_JPEG:
        raise DecodeError(
            "it is compressed as an old-style JPEG, in which missing parts go unnoticed",
            remedy="Save it as a TIFF with another compression, or as a PNG, and give that.",
        )
    if compression in (_GROUP_3, _GROUP_4):
        notes = ("fax compression: rows that are missing would go unnoticed",)
    elif compression == _PLAIN and reader.values(page, _PHOTOMETRIC, (1,))[0] != _SUBSAMPLED:
        # The decoder reads as many bytes as the rows need, whatever their announced number.
        bits = reader.values(page, _BITS, (1,))
        interleaved = reader.values(page, _PLANAR, (1,))[0] != 2
        samples = reader.values(page, _SAMPLES, (1,))[0] if interleaved else 1
        row = -(-width * max(sum(bits[:samples]), bits[0] * samples) // 8)
        if any(length < rows * row for _, length, rows in pieces):
            notes = ("the sizes of its parts are too small and were worked out",)
        pieces = [(start, max(length, rows * row), rows) for start, length, rows in pieces]
    last = max(start + length for start, length, _ in pieces)
    if last > len(reader.data):
        raise truncated(f"the picture data of TIFF page {number} ends at byte {last}")
    reader.budget -= sum(length for _, length, _ in pieces)
    if reader.budget < 0:
        raise damaged("the parts of its pictures overlap")
    for start, length, rows in pieces if compression == _JPEG else ():
        _check_jpeg_piece(reader.data[start : start + length], rows)
    return notes


def _check_jpeg_piece(data: bytes, rows: int) -> None:
    """Check that a strip or tile is a whole JPEG; libtiff makes up what one lacks."""
    size = walk_jpeg(data).size
    if size is None or size[1] < rows:
        raise truncated("a JPEG strip of the TIFF lacks rows")


def _describe(reader: _Reader, pages: list[dict[int, int]]) -> Layout:
    first = pages[0]
    bits = max(reader.values(first, _BITS, (1,)))
    samples = reader.values(first, _SAMPLES, (1,))[0]
    if bits > 8 and samples > 1 and reader.values(first, _PLANAR, (1,))[0] == 2:
        # Measured: Pillow reads uncompressed 16-bit planes as if they were 8-bit.
        raise DecodeError(
            f"its {bits}-bit colours are stored in separate planes, which is not read reliably",
            remedy="Save it with interleaved colours (planar configuration 1), or as a 16-bit PNG.",
        )
    extra = reader.values(first, _EXTRA_SAMPLES)
    width, height = reader.values(first, _WIDTH)[0], reader.values(first, _HEIGHT)[0]
    tile = reader.values(first, _TILE_WIDTH, (1,))[0], reader.values(first, _TILE_HEIGHT, (1,))[0]
    return Layout(
        end=len(reader.data),
        frames=len(pages),
        size=(width, height),
        tile=tile,
        bits=bits,
        signed=reader.values(first, _SAMPLE_FORMAT, (1,))[0] == 2,
        notes=("premultiplied transparency divided out",) if 1 in extra else (),
        white_is_zero=reader.values(first, _PHOTOMETRIC, (1,))[0] == 0,
    )
