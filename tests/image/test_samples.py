from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from imlctl.errors import DecodeError
from imlctl.image.decode import decode
from imlctl.image.formats import FileLayout
from imlctl.image.samples import to_rgb

NOTHING = FileLayout(end=0)


def test_8_bit_colour_and_grey_are_unchanged(makers: Any) -> None:
    colour = makers.texture()
    for kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(decode(makers.encode(colour, kind)).pixels, colour)
        grey = decode(makers.encode(colour[..., 0], kind))
        assert np.array_equal(grey.pixels, np.repeat(colour[..., :1], 3, axis=2))
        assert grey.facts.mode == "L"


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("depth", [8, 16])
def test_alpha_is_ignored_and_straight_colours_kept(makers: Any, channels: int, depth: int) -> None:
    top = 1 << depth
    samples = np.random.default_rng(0).integers(0, top, (9, 11, channels))
    samples[..., -1] = samples[..., -1] * (np.arange(11) > 5)  # half of it fully transparent
    photo = decode(makers.png(samples, depth=depth))
    colours = samples[..., :-1]
    assert np.array_equal(photo.pixels, np.broadcast_to(colours, (9, 11, 3)))
    assert photo.pixels.dtype == {8: np.uint8, 16: np.uint16}[depth]
    assert photo.facts.bit_depth == depth
    assert photo.facts.alpha
    assert "transparency ignored" in photo.facts.notes


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_png_is_exact(makers: Any, channels: int) -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (9, 11, channels))
    photo = decode(makers.png(samples, depth=16))
    assert photo.pixels.dtype == np.uint16
    assert np.array_equal(photo.pixels, np.broadcast_to(samples, (9, 11, 3)))
    assert photo.facts.bit_depth == 16


def test_16_bit_png_with_gamma_and_a_transparent_colour_is_exact(makers: Any) -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (9, 11, 3))
    extra = makers.chunk(b"gAMA", (100_000).to_bytes(4, "big"))
    extra += makers.chunk(b"tRNS", samples[0, 0].astype(">u2").tobytes())
    photo = decode(makers.png(samples, depth=16, extra=extra))
    assert np.array_equal(photo.pixels, samples)
    assert photo.facts.alpha


def test_16_bit_colour_tiff_is_exact(makers: Any) -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (8, 8, 3)).astype("<u2")
    tags = {**makers.grey_page(t262=2, t277=3, t279=samples.nbytes).tags, 258: (16, 16, 16)}
    photo = decode(makers.tiff(makers.Directory(tags), body=samples.tobytes()))
    assert np.array_equal(photo.pixels, samples)
    assert photo.pixels.dtype == np.uint16


def test_two_decoders_that_disagree_are_not_believed(
    makers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    read = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *given: np.asarray(read(*given)) + 256)
    with pytest.raises(DecodeError, match="two decoders disagree"):
        decode(makers.samples()["png-16"])


def test_16_bit_grey_is_not_clipped_to_white(makers: Any) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for data in (
        makers.encode(ramp, "TIFF"),
        makers.encode(ramp, "TIFF", compression="tiff_lzw"),
        makers.encode(Image.frombytes("I;16B", (8, 8), ramp.astype(">u2").tobytes()), "TIFF"),
    ):
        photo = decode(data)
        assert np.array_equal(photo.pixels[..., 1], ramp)
        assert photo.pixels.dtype == np.uint16


def test_16_bit_grey_that_counts_down_from_white(makers: Any) -> None:
    ramp = np.linspace(0, 65535, 64).astype("<u2").reshape(8, 8)
    page = makers.grey_page(t258=16, t262=0, t279=128)
    photo = decode(makers.tiff(page, body=ramp.tobytes()))
    assert np.array_equal(photo.pixels[..., 0], 65535 - ramp)


def test_12_bit_grey_fills_the_range(makers: Any) -> None:
    page = makers.grey_page(2, 2, t258=12, t279=6)
    photo = decode(makers.tiff(page, body=bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x01])))
    assert photo.pixels[..., 0].tolist() == [[0, 65535], [32776, 16]]
    assert photo.facts.bit_depth == 12
    assert "12-bit samples scaled to 16 bits" in photo.facts.notes


def test_signed_samples_are_shifted(makers: Any) -> None:
    narrow = np.array([[-128, -1], [0, 127]], "i1")
    photo = decode(makers.tiff(makers.grey_page(2, 2, t339=2), body=narrow.tobytes()))
    assert photo.pixels[..., 0].tolist() == [[0, 127], [128, 255]]
    wide = np.array([[-32768, -1], [0, 32767]], "<i2")
    page = makers.grey_page(2, 2, t258=16, t279=8, t339=2)
    photo = decode(makers.tiff(page, body=wide.tobytes()))
    assert photo.pixels[..., 0].tolist() == [[0, 32767], [32768, 65535]]
    assert "signed samples shifted to start at 0" in photo.facts.notes


@pytest.mark.parametrize(
    ("values", "signed", "expected", "dtype"),
    [
        ([0, 1, 128, 255], 1, [0, 1, 128, 255], np.uint8),
        ([0, 256, 40_000, 65_535], 1, [0, 256, 40_000, 65_535], np.uint16),
        ([0, 65_536, 2**31, 2**32 - 1], 1, [0, 1, 32_768, 65_535], np.uint16),
        ([-(2**31), -1, 0, 2**31 - 1], 2, [0, 32_767, 32_768, 65_535], np.uint16),
    ],
)
def test_32_bit_integers(
    makers: Any, values: list[int], signed: int, expected: list[int], dtype: type
) -> None:
    page = makers.grey_page(2, 2, t258=32, t279=16, t339=signed)
    body = np.array(values, "<i8").astype("<u4").tobytes()
    photo = decode(makers.tiff(page, body=body))
    assert photo.pixels[..., 2].ravel().tolist() == expected
    assert photo.pixels.dtype == dtype
    assert any("32-bit" in note for note in photo.facts.notes)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 0.5, 1.0], [0, 16_384, 32_768, 65_535]),
        ([0.0, 1.0, 128.0, 255.0], [0, 257, 32_896, 65_535]),
        ([0.0, 1.0, 300.0, 65_535.0], [0, 1, 300, 65_535]),
    ],
)
def test_floats_of_a_known_scale(makers: Any, values: list[float], expected: list[int]) -> None:
    photo = decode(makers.encode(np.array(values, np.float32).reshape(2, 2), "TIFF"))
    assert photo.pixels[..., 0].ravel().tolist() == expected
    assert photo.facts.bit_depth == 32
    assert any("floating-point" in note for note in photo.facts.notes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, float("nan"), 0.5, 1.0], "NaN"),
        ([0.0, float("inf"), 0.5, 1.0], "infinite"),
        ([0.0, 0.3, 0.5, 4.7], "unknown scale"),
        ([-0.1, 0.3, 0.5, 1.0], "unknown scale"),
        ([0.0, 1.0, 2.0, 70_000.0], "unknown scale"),
    ],
)
def test_floats_of_no_known_scale(makers: Any, values: list[float], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode(makers.encode(np.array(values, np.float32).reshape(2, 2), "TIFF"))


def test_one_bit(makers: Any) -> None:
    bits = np.random.default_rng(0).random((9, 11)) > 0.5
    for kind in ("PNG", "TIFF", "BMP"):
        photo = decode(makers.encode(Image.fromarray(bits), kind))
        assert np.array_equal(photo.pixels[..., 0], bits * np.uint8(255))
        assert (photo.facts.mode, photo.facts.bit_depth) == ("1", 1)


def test_palette_with_alpha_keeps_the_palette_colours(makers: Any) -> None:
    image = Image.fromarray(makers.texture()).quantize(32)
    expected = np.asarray(image.convert("RGB"))
    for transparency in (5, bytes(range(0, 256, 8))):
        photo = decode(makers.encode(image, "PNG", transparency=transparency))
        assert np.array_equal(photo.pixels, expected)
        assert (photo.facts.mode, photo.facts.alpha) == ("P", True)
        assert "palette colours converted to RGB" in photo.facts.notes


def test_index_past_the_palette_is_black_and_told() -> None:
    image = Image.fromarray(np.array([[0, 1, 200]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    pixels, notes = to_rgb(image, NOTHING, b"")
    assert pixels.tolist() == [[[10, 20, 30], [40, 50, 60], [0, 0, 0]]]
    assert notes[-1] == "colours past the palette's end read as black"
    image.paste(1, (2, 0, 3, 1))
    assert to_rgb(image, NOTHING, b"")[1] == notes[:-1]


def test_cmyk_as_stored_in_tiff_and_inverted_in_jpeg(makers: Any) -> None:
    colour = makers.texture()
    cmyk = Image.fromarray(colour).convert("CMYK")
    photo = decode(makers.encode(cmyk, "TIFF"))
    assert np.array_equal(photo.pixels, np.asarray(cmyk.convert("RGB")))
    assert photo.facts.mode == "CMYK"
    assert any("CMYK converted" in note for note in photo.facts.notes)
    lossy = decode(makers.encode(cmyk, "JPEG", quality=100))
    assert np.abs(lossy.pixels.astype(int) - colour).max() < 16


def test_ycbcr_and_lab(makers: Any) -> None:
    colour = makers.texture()
    photo = decode(makers.encode(Image.fromarray(colour).convert("YCbCr"), "TIFF"))
    assert photo.facts.mode == "YCbCr"
    assert np.abs(photo.pixels.astype(int) - colour).max() < 4
    lab = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)])
    photo = decode(makers.encode(lab, "TIFF"))
    assert photo.facts.mode == "LAB"
    assert photo.pixels.min() > 250
    assert "Lab colours converted to sRGB" in photo.facts.notes


def test_premultiplied_tiff_is_noted(makers: Any) -> None:
    page = makers.grey_page(1, 1, t262=2, t277=4, t279=4, t338=1)
    tags = {**page.tags, 258: (8, 8, 8, 8)}
    photo = decode(makers.tiff(makers.Directory(tags), body=bytes([10, 20, 30, 128])))
    assert photo.pixels.tolist() == [[[19, 39, 59]]]
    assert "premultiplied transparency divided out" in photo.facts.notes


def test_premultiplied_and_unknown_modes() -> None:
    grey = Image.new("La", (2, 2), (64, 128))
    assert to_rgb(grey, NOTHING, b"")[0].tolist() == [[[127] * 3] * 2] * 2
    with pytest.raises(DecodeError, match="HSV"):
        to_rgb(Image.new("HSV", (2, 2)), NOTHING, b"")
