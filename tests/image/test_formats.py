from __future__ import annotations

from typing import Any

import pytest

from imlctl.errors import DecodeError, Exit
from imlctl.image.formats import identify

KINDS = {"jpeg": "JPEG", "mpo": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF"}
KINDS |= {"bmp": "BMP", "gif": "GIF", "avif": "AVIF"}


def test_every_sample_is_recognised_whatever_its_name(makers: Any) -> None:
    for name, data in makers.samples().items():
        expected = KINDS[name.split("-")[0]]
        assert identify(data, name="evidence.txt") == expected
        assert identify(data[:4096]) == expected


@pytest.mark.parametrize(
    ("major", "compatible", "kind"),
    [
        (b"heic", b"mif1heic", "HEIF"),
        (b"heix", b"mif1", "HEIF"),
        (b"mif1", b"heicmiaf", "HEIF"),
        (b"msf1", b"hevc", "HEIF"),
        (b"mif1", b"avifmiaf", "AVIF"),
        (b"avis", b"msf1", "AVIF"),
        (b"heic", b"avif", "HEIF"),
    ],
)
def test_brands_tell_heif_from_avif(major: bytes, compatible: bytes, kind: str) -> None:
    box = b"ftyp" + major + bytes(4) + compatible
    assert identify((len(box) + 4).to_bytes(4, "big") + box + bytes(20)) == kind


def test_each_raw_file_is_refused_with_what_to_do(makers: Any) -> None:
    named = {name: data for name, data in makers.raw_photos().items() if "." in name}
    assert named
    for name, data in named.items():
        with pytest.raises(DecodeError, match="raw file") as caught:
            identify(data, name=name)
        assert name.split(".")[1].upper() in caught.value.what
        assert "16-bit TIFF or PNG" in caught.value.remedy


def test_a_jpeg_named_as_raw_is_a_jpeg(makers: Any) -> None:
    assert identify(makers.samples()["jpeg"], name="preview.nef") == "JPEG"


def test_what_is_no_photograph_is_named(makers: Any) -> None:
    for name, (data, expected) in makers.not_pictures().items():
        with pytest.raises(DecodeError, match=expected) as caught:
            identify(data, name=name)
        assert caught.value.remedy
        assert caught.value.exit_code is Exit.SOME_FAILED
