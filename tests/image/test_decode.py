from __future__ import annotations

import errno
import hashlib
import os
import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imlctl.errors import DecodeError, ImlctlError, InputError, TooLargeError, UsageError
from imlctl.image import decode as decode_module
from imlctl.image.decode import DEFAULT_MAX_PIXELS, decode, read

if TYPE_CHECKING:
    from pathlib import Path


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

    monkeypatch.setattr(decode_module, "decode_with_pillow", fail)
    with pytest.raises(DecodeError, match="cannot be decoded as JPEG") as caught:
        decode(makers.samples()["jpeg"], source="a.jpg")
    assert caught.value.__cause__ is error


def test_running_out_of_memory_is_said(makers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decode_module, "decode_with_pillow", fail)
    with pytest.raises(DecodeError, match="not enough memory"):
        decode(makers.samples()["jpeg"])


def test_a_user_interrupt_is_not_swallowed(makers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(decode_module, "decode_with_pillow", interrupt)
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
