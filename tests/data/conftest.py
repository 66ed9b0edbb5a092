from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

Put = "Callable[..., Path]"
SHAPE = (40, 56)


def truth(name: str, shape: tuple[int, int] = SHAPE) -> NDArray[np.bool_]:
    """The mask that belongs to a name: a box, elsewhere for each name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    top, left = seed % (shape[0] - 14), seed // 97 % (shape[1] - 16)
    mask = np.zeros(shape, bool)
    mask[top : top + 12, left : left + 14] = True
    return mask


@pytest.fixture
def photo(tmp_path: Path) -> Callable[..., Path]:
    """Write a picture of noise, its own for each path: `photo("Tp/a.jpg")`."""

    def put(name: str, shape: tuple[int, int] = SHAPE, **settings: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        noise = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, **settings)
        return path

    return put


@pytest.fixture
def mask(tmp_path: Path) -> Callable[..., Path]:
    """Write the mask of a picture's name: `mask("Gt/a_gt.png", "a")`."""

    def put(
        name: str,
        of: str,
        *,
        white: Any = 255,
        black: Any = 0,
        shape: tuple[int, int] = SHAPE,
        **settings: Any,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        box = truth(of, shape)
        if path.suffix == ".npz":
            np.savez_compressed(path, box[..., None].astype(np.uint8) * 3)
            return path
        high, low = np.asarray(white, np.uint8), np.asarray(black, np.uint8)
        values = np.where(box[..., None], high.reshape(-1), low.reshape(-1))
        Image.fromarray(values.squeeze(-1) if high.ndim == 0 else values).save(path, **settings)
        return path

    return put


@pytest.fixture
def expected() -> Callable[..., NDArray[np.bool_]]:
    """The mask that `mask` draws for a name."""
    return truth
