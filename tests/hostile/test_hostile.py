"""Files made to break a decoder: it returns a sane photo or raises an InputError, nothing else."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imlctl.errors import DecodeError, TooLargeError
from imlctl.image.decode import decode, read
from imlctl.image.facts import cautions
from imlctl.pipeline import Localizer
from imlctl.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

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
    with pytest.raises(TooLargeError, match="60000 x 60000"):
        decode(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_headers_that_announce_enormous_pictures(makers: Any) -> None:
    for name, data in makers.headers_of_bombs().items():
        with pytest.raises(TooLargeError):
            decode(data, source=name)


@pytest.mark.parametrize("key", [b"a", b"Raw profile type exif"])
def test_compressed_text_bomb_in_a_png(makers: Any, key: bytes) -> None:
    text = makers.chunk(b"zTXt", key + b"\0\0" + zlib.compress(bytes(200_000_000), 9))
    tracemalloc.start()
    photo = decode(makers.png(makers.texture(), depth=8, extra=text))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(photo.pixels, makers.texture())
    assert peak < 20_000_000


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


def test_whole_files_of_other_tools_bug_threads(makers: Any, tmp_path: Path) -> None:
    expected = decode(makers.samples()["jpeg-grey"]).pixels
    for name, data in makers.whole_in_bug_threads().items():
        (tmp_path / name).write_bytes(data)
        photo = read(tmp_path / name)
        assert np.array_equal(photo.pixels, expected), name
        assert photo.facts.provenance is not None
        behind = name in ("jumbf-behind-the-end.jpg", "two-ends.jpg")
        assert any("after the end" in note for note in photo.facts.notes) == behind, name
        assert photo.facts.provenance.c2pa == (name == "jumbf-behind-the-scan.jpg"), name


def test_broken_files_of_other_tools_bug_threads(makers: Any) -> None:
    for name, (data, told) in makers.broken_in_bug_threads().items():
        with pytest.raises(DecodeError, match=told):
            decode(data, source=name)


def test_quantisation_values_up_to_255(makers: Any) -> None:
    tables = [[255 - at for at in range(64)], [64 + 3 * at for at in range(64)]]
    photo = decode(makers.encode(makers.texture(), "JPEG", qtables=tables))
    assert photo.facts.provenance is not None
    assert photo.facts.provenance.jpeg is not None
    assert max(photo.facts.provenance.jpeg.tables[0].values) == 255
    assert not photo.facts.provenance.jpeg.standard


def test_a_heic_is_known_by_its_content(makers: Any) -> None:
    assert decode(makers.heic(), source="photo.jpg").facts.format == "HEIF"


@pytest.mark.parametrize("block", [b"\x0bNETSCAPE2.0\0", b"\0", b"\x0bC2PA_GIF\1\0\0\0"])
def test_a_gif_with_an_empty_application_block(makers: Any, block: bytes) -> None:
    gif = makers.samples()["gif"]
    photo = decode(gif[:205] + b"\x21\xff" + block + gif[205:])
    assert np.array_equal(photo.pixels, decode(gif).pixels)


def test_pictures_with_nothing_in_them_are_whole(makers: Any) -> None:
    for name, scene in makers.plain_scenes().items():
        for kind, options in (("JPEG", {"quality": 95}), ("JPEG", {"optimize": True}), ("PNG", {})):
            photo = decode(makers.encode(scene, kind, **options))
            assert photo.facts.notes == (), name
            assert bool(cautions(photo)) == (name in ("black", "one colour")), name


def test_in_pictures_with_nothing_in_them_nothing_is_marked(makers: Any) -> None:
    localizer = Localizer(Settings(model="efficientiml", device="cpu"))
    rng = np.random.default_rng(0)
    sky = np.linspace(120, 230, 240)[:, None, None] * np.ones((1, 320, 1)) * (1, 0.9, 0.75)
    noisy = sky + rng.normal(0, 1, sky.shape)
    flat = [np.zeros(sky.shape), np.full(sky.shape, (200.0, 30, 20)), sky, noisy]
    for values in flat:
        pixels = np.clip(np.round(values), 0, 255).astype(np.uint8)
        for kind in ("PNG", "JPEG"):
            result = localizer.localize(makers.encode(pixels, kind))
            assert result.verdict == "nothing found"
            assert not result.decision.mask.any()
