from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from PIL import Image

from imlctl.train.photos import PhotoPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

Pixels = Any  # (H, W, 3) uint8


def _photo(seed: int, height: int = 200, width: int = 260) -> Pixels:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 236, (height // 16, width // 16, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 3, smooth.shape)
    return np.clip(np.rint(smooth + grain), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def photo() -> Callable[..., Pixels]:
    """Make a photograph-like array, smooth with some grain: `photo(seed, height, width)`."""
    return _photo


@pytest.fixture(scope="session")
def pool() -> PhotoPool:
    """Four photographs, one object outlined in the second, the third regenerated; all read-only."""
    photos = tuple(_photo(seed, 180 + 20 * seed, 260) for seed in range(4))
    outline = np.zeros(photos[1].shape[:2], np.uint8)
    cv2.circle(outline, (120, 90), 45, 1, -1)
    regenerated = cv2.GaussianBlur(photos[2], (0, 0), 1.2)
    arrays: list[NDArray[Any]] = [*photos, regenerated]
    for array in arrays:
        array.setflags(write=False)
    names = tuple(f"{i}.png" for i in range(4))
    return PhotoPool(names, photos, {1: (outline > 0,)}, {2: regenerated})


@pytest.fixture
def save_photos(tmp_path: Path) -> Callable[..., Path]:
    """Write `count` photographs as PNG into a new folder and return it."""

    def save(count: int, *, folder: str = "photos", side: int = 144) -> Path:
        where = tmp_path / folder
        where.mkdir()
        for seed in range(count):
            Image.fromarray(_photo(seed, side, side)).save(where / f"{seed}.png")
        return where

    return save


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    """Let OpenCV use one thread: the arrays here are too small for more."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)
