from __future__ import annotations

import errno
import hashlib
import os
import socket
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from imlctl.errors import DecodeError, ImlctlError, InputError, TooLargeError, UsageError
from imlctl.image import decode as decode_module
from imlctl.image.decode import DEFAULT_MAX_PIXELS, decode, read

if TYPE_CHECKING:
    from pathlib import Path
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO

from PIL import Image, ImageFile, features

from imlctl.image.decode import Photo
from imlctl.image.facts import FormatFacts
from imlctl.image.formats import check_size


def test_every_kind_decodes_to_a_photo_of_the_same_scene(makers: Any) -> None:
    colour = makers.texture().astype(float)
    for name, data in makers.samples().items():
        photo = decode(data, source=name)
        assert photo.source == name
        assert photo.sha256 == hashlib.sha256(data).hexdigest()
        assert (photo.facts.width, photo.facts.height) == (makers.WIDTH, makers.HEIGHT)
        assert photo.pixels.flags.c_contiguous
        if name not in {"png-16", "jpeg-grey", "tiff-fax"}:
            assert np.abs(photo.pixels - colour).mean() < 16, name


def test_errors_name_the_source_and_what_to_do(makers: Any) -> None:
    for data in (b"", b"text", makers.samples()["png"][:-1], makers.samples()["bmp"][:-99]):
        with pytest.raises(DecodeError) as caught:
            decode(data, source="folder/a.png")
        assert caught.value.source == "folder/a.png"
        assert str(caught.value).startswith("folder/a.png: ")
        assert caught.value.remedy.endswith(".")


@pytest.mark.parametrize(
    "error",
    [
        *(OSError("a"), SyntaxError("b"), ValueError(), KeyError("c"), IndexError()),
        *(EOFError("d"), TypeError("e"), OverflowError("f"), RecursionError("g")),
        *(AssertionError(), RuntimeError("h"), UserWarning("i"), ZeroDivisionError()),
        UnicodeDecodeError("utf-8", b"", 0, 1, "j"),
    ],
)
def test_whatever_a_decoder_raises_becomes_a_decode_error(
    makers: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(decode_module, "_decode_with_pillow", fail)
    with pytest.raises(DecodeError, match="cannot be decoded as JPEG") as caught:
        decode(makers.samples()["jpeg"], source="a.jpg")
    assert caught.value.__cause__ is error


def test_running_out_of_memory_is_said(makers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decode_module, "_decode_with_pillow", fail)
    with pytest.raises(DecodeError, match="not enough memory"):
        decode(makers.samples()["jpeg"])


def test_a_user_interrupt_is_not_swallowed(makers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(decode_module, "_decode_with_pillow", interrupt)
    with pytest.raises(KeyboardInterrupt):
        decode(makers.samples()["jpeg"])


def test_size_limit(makers: Any) -> None:
    pixels = makers.WIDTH * makers.HEIGHT
    for name, data in makers.samples().items():
        assert decode(data, max_pixels=pixels).facts.width == makers.WIDTH, name
        with pytest.raises(TooLargeError, match=f"{makers.WIDTH} x {makers.HEIGHT}"):
            decode(data, max_pixels=pixels - 1)
    with pytest.raises(UsageError, match="max_pixels"):
        decode(b"", max_pixels=0)


def test_default_limit_admits_a_200_megapixel_phone() -> None:
    assert 16_320 * 12_288 < DEFAULT_MAX_PIXELS < 60_000 * 60_000


def test_read_gives_what_decode_gives(makers: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(makers.samples()["png"])
    for name in (path, str(path)):
        photo = read(name)
        assert photo.source == str(path)
        assert photo.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert np.array_equal(photo.pixels, makers.texture())


def test_odd_names_and_links_are_read(makers: Any, tmp_path: Path) -> None:
    for raw_name in (b"-", b"a\nb.png", b"\xff\xfe.png", b" .png"):
        path = tmp_path / os.fsdecode(raw_name)
        path.write_bytes(makers.samples()["png"])
        assert read(path).source == str(path)
    link = tmp_path / "link.png"
    link.symlink_to(path)
    assert read(link).facts.format == "PNG"


def test_input_is_opened_for_reading_only_and_left_as_it_was(
    makers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(makers.samples()["png"])
    before, opened, really_open = path.stat(), [], os.open

    def spy(name: Any, flags: int, *rest: Any, **options: Any) -> int:
        opened.append(flags)
        return really_open(name, flags, *rest, **options)

    monkeypatch.setattr(os, "open", spy)
    read(path)
    after = path.stat()
    assert len(opened) == 1
    assert opened[0] & os.O_ACCMODE == os.O_RDONLY
    assert opened[0] & os.O_NONBLOCK
    assert not opened[0] & (os.O_CREAT | os.O_TRUNC)
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)


def refusal(path: Path | str, **options: Any) -> ImlctlError:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    assert caught.value.source == str(path)
    assert caught.value.remedy
    return caught.value


def test_missing_folder_and_zero_byte_in_the_name(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "gone.jpg").what
    assert "folder" in refusal(tmp_path).what
    assert "cannot be read" in refusal("a\x00b").what
    (tmp_path / "file").write_bytes(b"x")
    assert "cannot be read" in refusal(tmp_path / "file" / "a.jpg").what
    assert "cannot be read" in refusal(tmp_path / ("x" * 300)).what


@pytest.mark.timeout(10)
def test_pipes_sockets_and_devices_do_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "not a regular file" in refusal(tmp_path / "pipe.jpg").what
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        assert "cannot be read" in refusal("socket.jpg").what
    assert "not a regular file" in refusal("/dev/zero").what


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    assert "cannot be read" in refusal(tmp_path / "a.jpg").what


def test_no_permission(makers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(makers.samples()["png"])
    path.chmod(0)
    if os.geteuid() == 0:  # root may read everything

        def refuse(*_: object, **__: object) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    assert "not allowed" in refusal(path).what


def test_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "open", fail)
    assert "Input/output error" in refusal(tmp_path / "a.png").what


@pytest.mark.parametrize("change", ["grows", "shrinks", "is rewritten"])
def test_a_file_that_changes_while_it_is_read(
    makers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = tmp_path / "a.bmp"
    data = makers.samples()["bmp"]
    assert len(data) > 8192  # so that something is left to read after the head
    path.write_bytes(data)

    def identify(head: bytes, *, name: str) -> str:
        size = {"grows": len(data) + 1, "shrinks": len(data) - 1, "is rewritten": len(data)}
        os.truncate(path, size[change])
        os.utime(path, ns=(1, 1))
        return "BMP"

    monkeypatch.setattr(decode_module, "identify", identify)
    assert "changed while it was read" in refusal(path).what


def test_a_file_too_large_to_be_a_picture_is_not_read(makers: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(makers.samples()["png"])
    os.truncate(path, 2**40)  # a hole, which takes no room
    assert isinstance(refusal(path, max_pixels=10_000), TooLargeError)


def test_a_film_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "film.jpg"
    path.write_bytes(b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp42")
    os.truncate(path, 2**40)
    assert "video" in refusal(path).what


def test_single_pixels_and_extreme_shapes(makers: Any) -> None:
    for shape in ((1, 1), (1, 20_000), (20_000, 1), (2, 3)):
        colour = makers.texture(*shape)
        for kind in ("PNG", "BMP", "TIFF", "JPEG"):
            photo = decode(makers.encode(colour, kind))
            assert photo.pixels.shape == colour.shape
            if kind != "JPEG":
                assert np.array_equal(photo.pixels, colour)


def test_all_black(makers: Any) -> None:
    black = np.zeros((40, 50, 3), np.uint8)
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        assert not decode(makers.encode(black, kind)).pixels.any()


FACTS = FormatFacts(format="PNG", width=3, height=2, mode="RGB", bit_depth=8)


def test_notes_are_neither_repeated_nor_endless() -> None:
    facts = replace(FACTS, notes=("b", "a", "b", *map(str, range(100))))
    assert facts.notes[:3] == ("b", "a", "0")
    assert len(facts.notes) == 20


def test_pixels_cannot_be_changed() -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    photo = Photo(pixels=pixels, facts=FACTS, sha256="0" * 64, source="a")
    with pytest.raises(ValueError, match="read-only"):
        photo.pixels[0, 0, 0] = 1


def test_size_limit_is_inclusive() -> None:
    check_size(10, 10, 100)
    with pytest.raises(TooLargeError, match="101 x 1"):
        check_size(101, 1, 100)


def test_a_strip_counts_as_what_it_is_widened_to() -> None:
    check_size(60_000, 1, 60_000)
    for width, height in ((70_000, 1), (1, 70_000), (70_000, 63)):
        with pytest.raises(TooLargeError, match="once no side is under 64"):
            check_size(width, height, 4_410_000)
    check_size(70_000, 1, 64 * 70_000)
    check_size(70_000, 63, 64 * 70_000)


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
    opened = decode_module._open

    def open_while_another_thread_warns(kind: str, *rest: Any) -> ImageFile.ImageFile:
        warnings.warn("not Pillow's", UserWarning, stacklevel=1)
        return opened(kind, *rest)

    monkeypatch.setattr(decode_module, "_open", open_while_another_thread_warns)
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


def test_a_damaged_avif_is_refused_by_the_stricter_decoder(makers: Any) -> None:
    if not cv2.haveImageWriter(".avif") or not features.check("avif"):
        pytest.skip("no second AVIF decoder")
    picture = np.kron(makers.texture(40, 60), np.ones((4, 4, 1), np.uint8))
    for options in ({}, {"subsampling": "4:0:0"}, {"quality": 100}, {"tile_rows": 1}):
        data = makers.encode(picture, "AVIF", **options)
        assert decode(data).facts.notes == ()
        for at in range(data.index(b"mdat") + 100, len(data) - 100, len(data) // 5):
            for block in (b"text ", bytes(64), bytes([data[at] ^ 1])):
                if data[at : at + len(block)] != block:
                    with pytest.raises(DecodeError):
                        decode(data[:at] + block + data[at + len(block) :])


def test_avif_of_more_than_eight_bits_is_read_by_a_second_decoder(makers: Any) -> None:
    if not cv2.haveImageWriter(".avif") or not features.check("avif"):
        pytest.skip("no second AVIF decoder")

    colour = np.kron(makers.texture(20, 30), np.ones((4, 4, 1), np.uint8))
    for bits in (10, 12):
        wide = (colour.astype(np.uint16) << (bits - 8))[..., ::-1]
        for samples in (wide, wide[..., 0]):
            encoded = cv2.imencode(".avif", samples, [cv2.IMWRITE_AVIF_DEPTH, bits])[1].tobytes()
            photo = decode(encoded)
            assert photo.facts.bit_depth == bits
            assert photo.pixels.dtype == np.uint16
            assert photo.facts.notes == (f"{bits}-bit samples scaled to 16 bits",)
            expected = colour if samples is wide else colour[..., 2:]
            assert np.abs((photo.pixels >> 8).astype(int) - expected).mean() < 8
