from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from imlctl.errors import DecodeError, TooLargeError
from imlctl.image.decode import decode


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_orientation_is_recorded_and_not_applied(
    makers: Any, kind: str, options: dict[str, Any], orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    colour = makers.texture()
    photo = decode(makers.encode(colour, kind, exif=exif, **options))
    assert photo.facts.orientation == orientation
    assert (photo.facts.height, photo.facts.width) == photo.pixels.shape[:2] == colour.shape[:2]
    if kind != "JPEG":
        assert np.array_equal(photo.pixels, colour)


@pytest.mark.parametrize("orientation", [0, 9, 77])
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_invalid_orientation_is_noted_and_taken_for_upright(
    makers: Any, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = decode(makers.encode(makers.texture(), kind, exif=exif))
    assert photo.facts.orientation == 1
    assert any(f"'{orientation}' taken for 1" in note for note in photo.facts.notes)


def test_avif_turned_by_its_container_is_recorded(makers: Any) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = decode(makers.encode(makers.texture(), "AVIF", exif=exif))
    assert photo.facts.orientation == 6
    assert photo.pixels.shape[:2] == (makers.HEIGHT, makers.WIDTH)


def test_without_avif_support_the_remedy_is_named(
    makers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = makers.samples()["avif"]
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(DecodeError, match="pip install -U pillow"):
        decode(data)


def test_colour_profile_is_recorded_and_not_applied(makers: Any) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    colour = makers.texture()
    photo = decode(makers.encode(colour, "PNG", icc_profile=profile))
    assert photo.facts.icc_profile
    assert "colour profile not applied" in photo.facts.notes
    assert np.array_equal(photo.pixels, colour)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mpo", "MPO"),
        ("png-animated", "PNG"),
        ("webp-animated", "WEBP"),
        ("gif-animated", "GIF"),
        ("tiff-pages", "TIFF"),
    ],
)
def test_first_of_several_frames_is_analysed_and_recorded(
    makers: Any, name: str, kind: str
) -> None:
    photo = decode(makers.samples()[name])
    assert (photo.facts.format, photo.facts.frames) == (kind, 2)
    assert "first of 2 frames analysed" in photo.facts.notes
    first, second = (makers.texture(seed=seed).astype(float) for seed in (0, 1))
    assert np.abs(photo.pixels - first).mean() < np.abs(photo.pixels - second).mean()


def test_bytes_after_the_end_are_noted(makers: Any) -> None:
    for name in ("jpeg", "png", "gif", "webp"):
        photo = decode(makers.samples()[name] + b"hidden")
        assert "6 bytes after the end of the picture not read" in photo.facts.notes


def test_unreadable_exif_is_no_reason_to_refuse(makers: Any) -> None:
    colour = makers.texture()
    photo = decode(makers.encode(colour, "JPEG", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x05"))
    assert photo.facts.orientation == 1
    assert any("Corrupt EXIF" in note for note in photo.facts.notes)
    text = makers.chunk(b"tEXt", b"Raw profile type exif\x00\nexif\n 4\nnot hexadecimal")
    photo = decode(makers.png(colour, depth=8, extra=text))
    assert photo.facts.orientation == 1
    assert any("EXIF metadata cannot be read" in note for note in photo.facts.notes)


def oversized_tag(makers: Any) -> bytes:
    """A TIFF whose description lies outside the file, which Pillow warns about."""
    data: bytes = makers.tiff(makers.grey_page(t270=5))
    at = data.index((270).to_bytes(2, "little") + b"\x04\x00")
    return data[: at + 2] + b"\x02\x00\xff\x00\x00\x00\x00\x10\x00\x00" + data[at + 12 :]


def test_warnings_become_notes_in_every_thread(makers: Any) -> None:
    data = oversized_tag(makers)
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        photos = list(pool.map(decode, [data] * 24))
    assert warnings.filters == before
    for photo in photos:
        assert [note for note in photo.facts.notes if note.startswith("Pillow warns: ")]


def test_warnings_of_others_are_passed_on(makers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from imlctl.image import pillow

    opened = pillow._open

    def open_while_another_thread_warns(kind: str, data: bytes) -> ImageFile.ImageFile:
        warnings.warn("not Pillow's", UserWarning, stacklevel=1)
        return opened(kind, data)

    monkeypatch.setattr(pillow, "_open", open_while_another_thread_warns)
    with pytest.warns(UserWarning, match="not Pillow's"):
        photo = decode(makers.samples()["png"])
    assert photo.facts.notes == ()


def test_our_size_limit_counts_and_not_pillows(
    makers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name, data in makers.samples().items():
        if name.startswith("webp"):  # there Pillow checks on its own account
            with pytest.raises(TooLargeError, match="larger than Pillow reads"):
                decode(data)
        else:
            assert not [note for note in decode(data).facts.notes if "Pillow" in note], name


def test_pillow_is_never_told_to_accept_cut_files(makers: Any) -> None:
    decode(makers.samples()["png"])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert Image.MAX_IMAGE_PIXELS == 89_478_485  # Pillow's own setting is left alone
