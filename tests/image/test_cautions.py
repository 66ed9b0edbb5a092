"""Pictures that a model cannot judge well are named as such; photographs are not."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imlctl.image.cautions import cautions
from imlctl.image.decode import decode

NOISE = np.random.default_rng(0).integers(0, 256, (120, 150, 3), np.uint8)
GREY = np.full((120, 150, 3), 90, np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def with_one_odd_pixel(by: int) -> Image.Image:
    pixels = GREY.copy()
    pixels[-1, -1, 2] += by
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (encoded(Image.fromarray(NOISE)), []),
        (encoded(Image.fromarray(NOISE), "JPEG", quality=50), []),
        (encoded(Image.fromarray(NOISE), "JPEG", quality=49), ["strongly compressed: JPEG qua"]),
        (encoded(Image.new("RGB", (1, 1))), ["too small to judge: 1 x 1 pix", "a single colour"]),
        (encoded(Image.fromarray(NOISE[:95])), ["too small to judge: 150 x 95 pixels"]),
        (encoded(Image.fromarray(NOISE).quantize(64)), ["a palette of at most 256 colours"]),
        (encoded(Image.fromarray(NOISE).convert("1")), ["black and white without greys"]),
        (encoded(with_one_odd_pixel(2)), ["a single colour throughout"]),
        (encoded(with_one_odd_pixel(3)), []),
        (
            encoded(Image.fromarray(np.full((120, 150), 30_000, np.uint16))),
            ["a single colour throughout"],
        ),
        (encoded(Image.fromarray(NOISE[..., 0].astype(np.uint16) * 200)), []),
    ],
)
def test_reasons(data: bytes, found: list[str]) -> None:
    told = cautions(decode(data))
    assert len(told) == len(found)
    assert all(text.startswith(start) for text, start in zip(told, found, strict=True))
