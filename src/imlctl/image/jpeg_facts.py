"""Describe how a JPEG was compressed: by its tables, and by the encoders that write such tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import MARKER, zigzag_index
from PIL.JpegPresets import presets

from imlctl.image import jpeg
from imlctl.resources import read_toml

_MAX_NAMES = 100  # of segments, in the record

_SUBSAMPLINGS: dict[tuple[float, float], str] = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
}


@dataclass(frozen=True, slots=True)
class QuantizationTable:
    """One quantisation table."""

    slot: int  # 0 to 3, where components refer to it
    bits: int  # of each value, 8 or 16
    values: tuple[int, ...]  # 64 divisors, row by row from the lowest frequencies


@dataclass(frozen=True, slots=True)
class JpegFacts:
    """Last compression of a JPEG, and the build of its file."""

    tables: tuple[QuantizationTable, ...]  # those in force at the first scan, by slot
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
    program: str | None = None  # that writes these tables, and the setting where it tells more


def jpeg_facts(data: bytes) -> JpegFacts:
    """Describe the compression of the first picture of a JPEG, which need not be whole."""
    tables: dict[int, QuantizationTable] = {}
    components: list[tuple[int, int]] = []  # sampling factors in one byte, slot of the table
    progressive, interval = False, 0
    found = jpeg.readable_segments(data)
    for segment in found:
        content = data[segment.start : segment.end]
        if segment.code == jpeg.SCAN:
            break
        if segment.code == jpeg.QUANTISATION:
            tables |= {table.slot: table for table in _read_tables(content)}
        elif segment.code == jpeg.RESTART:
            interval = int.from_bytes(content[:2], "big")
        elif segment.code in jpeg.FRAMES and not components:
            progressive = segment.code in jpeg.PROGRESSIVE
            number = min(content[5] if len(content) > 5 else 0, 4)
            sent = content[6 : 6 + 3 * number]
            components = list(zip(sent[1::3], sent[2::3], strict=False))
    quality, standard, program = _encoder(tables, [slot for _, slot in components])
    codes = [segment.code for segment in found]
    end = found[-1].end if codes and codes[-1] == jpeg.END else len(data)
    names = (str(MARKER.get(0xFF00 | code, (f"{code:02X}",))[0]) for code, _ in groupby(codes))
    return JpegFacts(
        tables=tuple(tables[slot] for slot in sorted(tables)),
        quality=quality,
        standard=standard,
        subsampling=_subsampling(components),
        progressive=progressive,
        order=tuple(names)[:_MAX_NAMES],
        scans=codes.count(jpeg.SCAN),
        restart_interval=interval,
        starts=1 + codes.count(jpeg.START) + data.count(b"\xff\xd8\xff", end),
        ends=codes.count(jpeg.END) + data.count(b"\xff\xd9", end),
        trailing=len(data) - end,
        program=program,
    )


def _read_tables(content: bytes) -> Iterator[QuantizationTable]:
    while content:
        size = 2 if content[0] >> 4 else 1
        if len(content) <= 64 * size:
            return
        values = np.frombuffer(content, f">u{size}", 64, 1)[list(zigzag_index)]
        yield QuantizationTable(content[0] & 3, 8 * size, tuple(values.tolist()))
        content = content[1 + 64 * size :]


@cache
def published_tables() -> dict[str, NDArray[np.int64]]:
    """Return the published tables of `quantisation.toml`, (64,) each, by name."""
    every = read_toml(Path(__file__).with_name("quantisation.toml"))
    return {name: np.array(values, np.int64) for name, values in every.items()}


@cache
def scaled_tables(name: str) -> NDArray[np.int64]:
    """Return libjpeg's scaled tables for the qualities 1 to 100, (100, 64)."""
    quality = np.arange(1, 101)[:, None]
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.clip((published_tables()[name] * scale + 50) // 100, 1, 255)


@cache
def _ffmpeg() -> NDArray[np.int64]:
    """Return FFmpeg's tables for the scales 1 to 31, (31, 64)."""
    tables = published_tables()["mpeg"] * np.arange(1, 32)[:, None] // 8
    tables[:, 0] = 8
    return tables.clip(max=255)


def _encoder(
    tables: dict[int, QuantizationTable], slots: list[int]
) -> tuple[int | None, bool, str | None]:
    """Return libjpeg's closest quality, whether it fits exactly, and a program that writes such."""
    used = [np.array(tables[slot].values) for slot in dict.fromkeys(slots) if slot in tables]
    if not used:
        return None, False, None
    bases = ["luminance", *["chrominance"] * (len(used) - 1)]  # the first component is brightness
    apart = [
        np.abs(scaled_tables(base) - table).sum(1) for base, table in zip(bases, used, strict=True)
    ]
    total = np.sum(apart, axis=0)
    quality = int(total.argmin()) + 1
    if not total.min():
        return quality, True, "libjpeg"
    if not any(each.min() for each in apart):
        grades = " and ".join(str(int(each.argmin()) + 1) for each in apart)
        return quality, False, f"libjpeg, with qualities {grades} for brightness and colour"
    for name, family in (
        ("mozjpeg, quality", scaled_tables("robidoux")),
        ("FFmpeg, -q:v", _ffmpeg()),
    ):
        # Of 16 bits, mozjpeg does not cut its values.
        same = np.all([(family == table.clip(max=255)).all(1) for table in used], axis=0)
        if same.any():
            return quality, False, f"{name} {int(same.argmax()) + 1}"
    stored = [list(tables[slot].values) for slot in sorted(tables)]
    for name, preset in presets.items():
        known: Any = preset["quantization"]
        if stored == [list(table) for table in known[: len(stored)]]:
            return quality, False, f"Photoshop, {name.replace('_', ' ')}"
    return quality, False, None


def _subsampling(components: list[tuple[int, int]]) -> str | None:
    if len(components) != 3:
        return None
    (across, down), (wide, high), third = ((byte >> 4, byte & 15) for byte, _ in components)
    if third != (wide, high) or not wide or not high:
        return None
    return _SUBSAMPLINGS.get((across / wide, down / high))
