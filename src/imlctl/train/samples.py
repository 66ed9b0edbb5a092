"""Samples to look at, on a contact sheet."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imlctl.train.material import load_split, synthesizer

if TYPE_CHECKING:
    from imlctl.forge.synthesizer import Sample
    from imlctl.train.config import TrainConfig

_COLUMNS = 8
_CAPTION = 18
_LEAST_WIDTH = 140  # that the longest caption takes
_OUTLINE = ((0, 0, 0), (255, 220, 0))  # dark under bright: visible on any ground


def contact_sheet(config: TrainConfig, *, start: int, count: int) -> bytes:
    """Draw samples `start` to `start + count` as a PNG."""
    make = synthesizer(config, load_split(config, validation=False))
    tiles = [_tile(make(index)) for index in range(start, start + count)]
    width, height = tiles[0].size
    sheet = Image.new("RGB", (_COLUMNS * width, -(-count // _COLUMNS) * height), "white")
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % _COLUMNS * width, place // _COLUMNS * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _tile(sample: Sample) -> Image.Image:
    """One sample with its mask outlined and its kind named below."""
    canvas = sample.pixels.copy()
    mask = sample.mask.astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for colour, width in zip(_OUTLINE, (3, 1), strict=True):
        cv2.drawContours(canvas, contours, -1, colour, width)
    side = sample.side or max(mask.shape)
    tile = Image.new("RGB", (max(side, _LEAST_WIDTH), side + _CAPTION), "white")
    tile.paste(Image.fromarray(canvas), (0, 0))
    text = f"{sample.kind.replace('_', '-')}, {100 * sample.mask.mean():.1f} %"
    ImageDraw.Draw(tile).text((4, side + 2), text, "black", ImageFont.load_default(12))
    return tile
