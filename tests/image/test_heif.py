from __future__ import annotations

import sys
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from imlctl.errors import DecodeError, TooLargeError
from imlctl.image.decode import decode

HEAD = b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heicmiaf"


def heic(pixels: Any, mode: str = "RGB", **options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    height, width = pixels.shape[:2]
    stream = BytesIO()
    picture = pillow_heif.from_bytes(mode=mode, size=(width, height), data=pixels.tobytes())
    picture.save(stream, quality=90, **options)
    return stream.getvalue()


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DecodeError, match=r'pip install "imlctl\[heif\]"') as caught:
        decode(HEAD, source="IMG_1.HEIC")
    assert caught.value.source == "IMG_1.HEIC"


def test_the_extra_is_not_imported_for_other_formats(
    makers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert decode(makers.samples()["jpeg"]).facts.format == "JPEG"


def test_8_bit_colour(makers: Any) -> None:
    colour = makers.texture(57, 71)  # odd sides: rows are padded inside
    photo = decode(heic(colour))
    assert (photo.facts.format, photo.facts.bit_depth, photo.facts.frames) == ("HEIF", 8, 1)
    assert photo.pixels.shape == colour.shape
    assert np.abs(photo.pixels.astype(int) - colour).mean() < 8


def test_10_bits_are_kept(makers: Any) -> None:
    ramp = np.linspace(0, 65535, 64 * 72 * 3).astype(np.uint16).reshape(64, 72, 3)
    photo = decode(heic(ramp, "RGB;16"))
    assert photo.pixels.dtype == np.uint16
    assert photo.facts.bit_depth == 10
    assert np.abs(photo.pixels.astype(int) - ramp).mean() < 1000
    assert len(np.unique(photo.pixels)) > 256
    assert "10-bit samples shifted up to 16 bits" in photo.facts.notes


def test_alpha_and_grey(makers: Any) -> None:
    rgba = np.dstack([makers.texture(64, 64), np.full((64, 64), 9, np.uint8)])
    photo = decode(heic(rgba, "RGBA"))
    assert photo.facts.alpha
    assert "transparency ignored" in photo.facts.notes
    grey = decode(heic(makers.texture(64, 64)[..., 0].copy(), "L"))
    assert np.array_equal(grey.pixels[..., 0], grey.pixels[..., 2])


def test_size_is_checked_before_decoding(makers: Any) -> None:
    with pytest.raises(TooLargeError, match="64 x 64"):
        decode(heic(makers.texture(64, 64)), max_pixels=4095)


def test_cut_and_broken_files(makers: Any) -> None:
    data = heic(makers.texture(64, 64))
    for cut in makers.cuts(data):
        with pytest.raises(DecodeError):
            decode(cut)
