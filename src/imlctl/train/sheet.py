"""A contact sheet of training samples: the quickest way to see that the synthesis is sane."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imlctl.train.splits import load_split, synthesizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imlctl.forge.synthesizer import Sample
    from imlctl.train.config import TrainConfig

_COLUMNS = 8
_CAPTION = 18
_LEAST_WIDTH = 140  # that the longest caption takes
_OUTLINE = ((0, 0, 0), (255, 220, 0))  # dark under bright: visible on any ground


def contact_sheet(config: TrainConfig, *, start: int, count: int) -> tuple[bytes, float]:
    """Draw samples `start` to `start + count` as a PNG.

    Returns:
        The PNG, and samples made per second by this one process.
    """
    make = synthesizer(config, load_split(config, validation=False), config.optim.size)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    began = time.perf_counter()
    samples = [make(index) for index in range(start, start + count)]
    rate = count / (time.perf_counter() - began)
    cv2.setNumThreads(threads)
    tiles = [_tile(sample) for sample in samples]
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % _COLUMNS)
    rows = [np.concatenate(tiles[i : i + _COLUMNS], axis=1) for i in range(0, len(tiles), _COLUMNS)]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(buffer, "PNG")
    return buffer.getvalue(), rate


def _tile(sample: Sample) -> NDArray[np.uint8]:
    """One sample with its mask outlined and its kind named below, (S + caption, S', 3)."""
    canvas = sample.pixels.copy()
    mask = sample.mask.astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for colour, width in zip(_OUTLINE, (3, 1), strict=True):
        cv2.drawContours(canvas, contours, -1, colour, width)
    side = sample.side or max(mask.shape)
    tile = Image.new("RGB", (max(side, _LEAST_WIDTH), side + _CAPTION), "white")
    tile.paste(Image.fromarray(canvas), (0, 0))
    text = f"{sample.kind.replace('_', '-')}, {100 * sample.mask.mean():.1f} %"
    font = ImageFont.load_default(12)
    ImageDraw.Draw(tile).text((4, side + 2), text, fill="black", font=font)
    return np.asarray(tile)
