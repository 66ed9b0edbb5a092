"""Describe how a JPEG was compressed last and how its file is built: facts, no verdict."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.JpegPresets import presets

from imlctl.image.jpeg import (
    END,
    FRAMES,
    PROGRESSIVE,
    QUANTISATION,
    RESTART,
    SCAN,
    START,
    readable_segments,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_NAMES = [f"{code:02X}" for code in range(256)]
_NAMES[0xC0:0xD0] = (f"SOF{number}" for number in range(16))
_NAMES[0xE0:0xF0] = (f"APP{number}" for number in range(16))
for _code, _name in zip(
    (0xC4, 0xC8, 0xCC, *range(0xD8, 0xE0), 0xFE),
    ("DHT", "JPG", "DAC", "SOI", "EOI", "SOS", "DQT", "DNL", "DRI", "DHP", "EXP", "COM"),
    strict=True,
):
    _NAMES[_code] = _name
_MAX_NAMES = 100  # of segments, in the record
# ITU-T T.81, tables K.1 and K.2, row by row.
_LUMINANCE = """
    16 11 10 16  24  40  51  61   12 12 14 19  26  58  60  55   14 13 16 24  40  57  69  56
    14 17 22 29  51  87  80  62   18 22 37 56  68 109 103  77   24 35 55 64  81 104 113  92
    49 64 78 87 103 121 120 101   72 92 95 98 112 100 103  99"""
_CHROMINANCE = (
    """
    17 18 24 47 99 99 99 99   18 21 26 66 99 99 99 99   24 26 56 99 99 99 99 99
    47 66 99 99 99 99 99 99"""
    + " 99" * 32
)


@dataclass(frozen=True, slots=True)
class Table:
    """One quantisation table.

    Attributes:
        slot: 0 to 3, where components refer to it.
        bits: Of each value, 8 or 16.
        values: 64 divisors, row by row from the lowest frequencies; not in zigzag order.
    """

    slot: int
    bits: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JpegFacts:
    """Last compression of a JPEG, and the build of its file.

    Attributes:
        tables: The quantisation tables in force at the first scan, by slot.
        quality: 1 to 100, the setting of libjpeg whose tables come closest; None without tables.
        standard: Whether they are exactly libjpeg's, as most programs write and many cameras and
            Photoshop do not; otherwise `quality` is a comparison and no setting.
        program: Whose tables they are: ``libjpeg``, or Photoshop and its setting; None for those
            of a camera or of another program.
        subsampling: Of colour, such as ``4:2:0``; None for grey, and for what has no usual name.
        progressive: It comes in scans of growing detail.
        order: Names of the segments in the order of the file, such as ``APP1`` or ``DQT``; one
            that comes several times in a row stands once.
        scans: Number of scans.
        restart_interval: Blocks of pixels between restart markers; 0 without any.
        starts: Start markers in the file that lie outside its metadata. More than one: another
            JPEG within or behind the picture, such as the second one of a phone's motion photo.
        ends: End markers, likewise.
        trailing: Bytes after the first picture.
    """

    tables: tuple[Table, ...]
    quality: int | None
    standard: bool
    subsampling: str | None
    progressive: bool
    order: tuple[str, ...] = ()
    scans: int = 0
    restart_interval: int = 0
    starts: int = 1
    ends: int = 1
    trailing: int = 0
    program: str | None = None


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
        order=tuple(_NAMES[code] for code, _ in groupby(codes))[:_MAX_NAMES],
        scans=codes.count(SCAN),
        restart_interval=interval,
        starts=1 + codes.count(START) + data.count(b"\xff\xd8\xff", end),
        ends=codes.count(END) + data.count(b"\xff\xd9", end),
        trailing=len(data) - end,
        program="libjpeg" if standard else _photoshop(tables),
    )


def _read_tables(content: bytes) -> Iterator[Table]:
    at = 0
    while at < len(content):
        size = 2 if content[at] >> 4 else 1
        raw = content[at + 1 : at + 1 + 64 * size]
        if len(raw) < 64 * size:
            return
        zigzag = np.frombuffer(raw, ">u2" if size == 2 else "u1")
        values = np.empty(64, np.int64)
        values[_zigzag()] = zigzag
        yield Table(content[at] & 3, 8 * size, tuple(values.tolist()))
        at += 1 + 64 * size


@cache
def _zigzag() -> NDArray[np.int64]:
    """Return the place, counted row by row, of each value in the order that a file has them."""
    places = [(row, column) for row in range(8) for column in range(8)]
    # Along each diagonal, upwards where row + column is even.
    places.sort(key=lambda p: (p[0] + p[1], p[0] if (p[0] + p[1]) % 2 else p[1]))
    return np.array([8 * row + column for row, column in places])


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
    names: dict[tuple[float, float], str] = {
        (1, 1): "4:4:4",
        (2, 1): "4:2:2",
        (2, 2): "4:2:0",
        (1, 2): "4:4:0",
        (4, 1): "4:1:1",
    }
    return names.get(ratio)
