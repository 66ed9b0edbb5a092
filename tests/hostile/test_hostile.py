"""Files made to break a decoder: it returns a sane photo or raises an InputError, nothing else."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imlctl.errors import DecodeError, TooLargeError
from imlctl.image.decode import decode

MAGIC = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\x40\x00\x00\x00WEBPVP8 ",
    b"II*\x00\x08\x00\x00\x00",
    b"MM\x00+\x00\x08\x00\x00",
    b"GIF89a",
    b"BM",
    b"\x00\x00\x00\x18ftypavif",
    b"\x00\x00\x00\x18ftypheic",
]


@settings(deadline=None, max_examples=300)
@given(magic=st.sampled_from(MAGIC), rest=st.binary(max_size=200))
def test_anything_behind_a_magic_number(target: Any, magic: bytes, rest: bytes) -> None:
    target.outcome(magic + rest)


def test_changed_bytes_of_a_heic_never_escape(makers: Any, target: Any) -> None:
    data = makers.heic()
    for seed in range(100):
        target.outcome(makers.flipped(data, seed))


def test_swapped_and_repeated_parts(makers: Any, target: Any) -> None:
    samples = makers.samples()
    for first, second in zip(samples.values(), reversed(samples.values()), strict=True):
        target.outcome(first[: len(first) // 2] + second[len(second) // 2 :])
        target.outcome(first + second)


def test_raw_photos_are_refused_under_any_name(makers: Any) -> None:
    for name, data in makers.raw_photos().items():
        with pytest.raises(DecodeError, match="raw file"):
            decode(data, source=name)


def test_what_is_no_photograph(makers: Any) -> None:
    for name, (data, expected) in makers.not_pictures().items():
        with pytest.raises(DecodeError, match=expected):
            decode(data, source=name)


def test_the_bomb_of_sixty_thousand_squared(makers: Any) -> None:
    small = decode(makers.black_png(600, 600))
    assert small.facts.width == 600
    assert not small.pixels.any()
    bomb = makers.black_png(60_000, 60_000)
    assert len(bomb) < 8_000_000
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(TooLargeError, match="60000 x 60000"):
        decode(bomb)
    elapsed, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert elapsed < 1
    assert peak < 20_000_000


def test_headers_that_announce_enormous_pictures(makers: Any) -> None:
    for name, data in makers.headers_of_bombs().items():
        with pytest.raises(TooLargeError):
            decode(data, source=name)


def test_compressed_text_bomb_in_a_png(makers: Any, target: Any) -> None:
    import zlib

    text = makers.chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(200_000_000), 9))
    data = makers.png(makers.texture(), depth=8, extra=text)
    started = time.perf_counter()
    target.outcome(data)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    "place", [b"Exif\x00\x00", b"http://ns.adobe.com/xap/1.0/\x00", b"MPF\x00"]
)
def test_rubbish_in_metadata(makers: Any, place: bytes, target: Any) -> None:
    whole = makers.samples()["jpeg-grey"]
    for seed in range(20):
        body = place + makers.flipped(b"II*\x00\x08\x00\x00\x00\x02\x00" + bytes(60), seed)
        marker = b"\xff\xe2" if place == b"MPF\x00" else b"\xff\xe1"
        segment = marker + (len(body) + 2).to_bytes(2, "big") + body
        photo = target.outcome(whole[:2] + segment + whole[2:])
        if photo is not None:
            assert photo.facts.format in {"JPEG", "MPO"}
    decode(whole)
