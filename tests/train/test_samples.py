from __future__ import annotations

import io
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import Image

from imlctl.forge.synthesizer import Synthesizer
from imlctl.train.config import DataConfig, OptimConfig, TrainConfig
from imlctl.train.material import contact_sheet, load_split

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TILE = 140  # small samples have room for their captions


@pytest.fixture
def config(save_photos: Callable[..., Path]) -> TrainConfig:
    data = DataConfig((save_photos(4),), validation_share=0.0)
    return TrainConfig(data, optim=OptimConfig(size=64, seed=3))


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (8, 1), (9, 2)])
def test_size(count: int, rows: int, config: TrainConfig) -> None:
    png = contact_sheet(config, start=0, count=count)
    with Image.open(io.BytesIO(png)) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width == 8 * TILE
        assert sheet.height % rows == 0
        assert 64 < sheet.height / rows < 64 + 40  # a caption below each sample


def test_shows_the_samples_that_training_would_see(config: TrainConfig) -> None:
    png = contact_sheet(config, start=5, count=3)
    with Image.open(io.BytesIO(png)) as image:
        sheet = np.asarray(image)
    make = Synthesizer(load_split(config, validation=False), size=64, seed=3, originals=0.3)
    for place, sample in enumerate(make(index) for index in (5, 6, 7)):
        height, width = sample.mask.shape
        tile = sheet[:height, TILE * place : TILE * place + width]
        framed = np.pad(sample.mask, 3).astype(np.uint8)  # an outline follows the frame too
        near, inside = (f(framed, np.ones((7, 7))) for f in (cv2.dilate, cv2.erode))
        outline = (near != inside)[3:-3, 3:-3]
        assert np.array_equal(tile[~outline], sample.pixels[~outline])
        if sample.kind != "authentic":
            assert not np.array_equal(tile, sample.pixels)  # the mask is outlined
        caption = sheet[64:, TILE * place : TILE * place + TILE]
        assert caption.min() < 100 < caption.max()
        assert (caption[:, -4:] == 255).all()  # it is there to its end
