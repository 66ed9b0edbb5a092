"""JPEG as cameras, editors and web services write it: their tables and their colour sampling."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imlctl.forge import Pixels, Rng
from imlctl.image.jpeg_facts import scaled_tables

Divisors = tuple[int, ...]  # 64 of a quantisation table, row by row

SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")  # by Pillow's number
_SUBSAMPLING_SHARES = (0.3, 0.15, 0.55)
# Programs with libjpeg's tables are half of what circulates, those with mozjpeg's a tenth.
_LIBJPEG, _MOZJPEG = 0.5, 0.6
_EDITORS = 0.3  # of the tables of the bank: those of editors, which are few
_PROGRESSIVE = 0.04  # changes no pixel, and takes four times as long


@dataclass(frozen=True, slots=True)
class Encoding:
    """Settings of a JPEG encoder; `tables`, of brightness and colour, replace libjpeg's.

    With them, `quality` (1 to 100) is the setting whose tables come closest.
    """

    quality: int
    tables: tuple[Divisors, Divisors] | None = None
    subsampling: str = "4:2:0"
    progressive: bool = False


class _Bank(NamedTuple):
    """Tables of cameras and editors, by the quality that they come closest to."""

    quality: NDArray[np.int64]  # (N,)
    editor: NDArray[np.bool_]  # (N,)
    tables: tuple[tuple[Divisors, Divisors], ...]


@cache
def _bank() -> _Bank:
    """Read the tables that ``scripts/make_jpeg_tables.py`` collects."""
    rows = json.loads(files("imlctl.forge").joinpath("jpeg_tables.json").read_text("utf-8"))
    return _Bank(
        np.array([row["quality"] for row in rows]),
        np.array([row["from"] == "editor" for row in rows]),
        tuple((tuple(row["luma"]), tuple(row["chroma"])) for row in rows),
    )


def mozjpeg(quality: int) -> Divisors:
    """Scale mozjpeg's default table, of brightness and colour alike, to a quality of 1 to 100."""
    return tuple(scaled_tables("robidoux")[quality - 1].tolist())


def random_encoding(rng: Rng, low: int = 50, high: int = 98) -> Encoding:
    """Draw an encoder whose quality lies between `low` and `high`."""
    quality = int(rng.integers(low, high + 1))
    subsampling = SUBSAMPLINGS[int(np.searchsorted(np.cumsum(_SUBSAMPLING_SHARES), rng.random()))]
    progressive = bool(rng.random() < _PROGRESSIVE)
    source = rng.random()
    tables = None if source < _LIBJPEG else (mozjpeg(quality),) * 2
    if source >= _MOZJPEG:
        bank = _bank()
        fits = (bank.quality >= low) & (bank.quality <= high)
        fits &= bank.editor == (rng.random() < _EDITORS)
        if fits.any():
            chosen = int(rng.choice(np.flatnonzero(fits)))
            quality, tables = int(bank.quality[chosen]), bank.tables[chosen]
    return Encoding(quality, tables, subsampling, progressive)


def compress(pixels: Pixels, encoding: Encoding) -> bytes:
    """Encode a picture (H, W, 3)."""
    file = io.BytesIO()
    how: dict[str, object] = {"quality": encoding.quality}
    if encoding.tables is not None:
        how = {"qtables": [list(table) for table in encoding.tables]}
    how |= {"subsampling": SUBSAMPLINGS.index(encoding.subsampling)}
    Image.fromarray(pixels).save(file, "JPEG", progressive=encoding.progressive, **how)
    return file.getvalue()


def jpeg(pixels: Pixels, encoding: Encoding | int, offset: tuple[int, int] = (0, 0)) -> Pixels:
    """Encode a picture (H, W, 3) as JPEG, or with libjpeg's of a quality, and decode it again.

    By `offset`, rows and columns, the grid of blocks lies off the corner, as when the picture was
    part of a larger one.
    """
    encoding = Encoding(encoding) if isinstance(encoding, int) else encoding
    above, left = offset
    if above or left:
        framed = cv2.copyMakeBorder(pixels, above, 0, left, 0, cv2.BORDER_REFLECT_101)
        pixels = cast("Pixels", framed)
    data = np.frombuffer(compress(pixels, encoding), np.uint8)
    decoded = cast("Pixels", cv2.imdecode(data, cv2.IMREAD_COLOR))
    return cast("Pixels", cv2.cvtColor(decoded[above:, left:], cv2.COLOR_BGR2RGB))
