from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from imlctl.errors import DecodeError
from imlctl.image.decode import decode
from imlctl.image.jpeg import SCAN, check_jpeg, segments, walk_jpeg, walk_mpo
from imlctl.image.jpeg_facts import jpeg_facts


def test_jpeg_end_is_not_that_of_an_embedded_thumbnail(makers: Any) -> None:
    inner = makers.samples()["jpeg-grey"]
    thumbnail = b"\xff\xe2" + (len(inner) + 2).to_bytes(2, "big") + inner
    whole = makers.samples()["jpeg"]
    data = whole[:2] + thumbnail + whole[2:]
    layout = walk_jpeg(data + b"tail")
    assert (layout.end, layout.trailing) == (len(data), 4)
    assert layout.size == (makers.WIDTH, makers.HEIGHT)


def test_jpeg_scans_are_counted_and_fill_bytes_skipped(makers: Any) -> None:
    data = makers.samples()["jpeg-progressive"]
    assert jpeg_facts(data).scans > 1
    filled = data[:-2] + b"\xff\xff\xff\xd9"
    assert walk_jpeg(filled).end == len(filled)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xd8\xff\xd9", "before its picture begins"),
        (b"\xff\xd8\xff\xe0\x00\x01\xff\xd9", "no length"),
        (b"\xff\xd8\xff\xe0\xff\xff\xff\xd9", "byte 2 runs past the end"),
        (b"\xff\xd8\xff", "no end marker"),
    ],
)
def test_broken_jpeg_structure(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        walk_jpeg(data)


def test_mpo_reduced_to_its_first_picture_is_whole_and_noted(makers: Any) -> None:
    data = makers.samples()["mpo"]
    first = walk_jpeg(data)
    both = walk_mpo(data, first, 2)
    assert (both.frames, both.trailing, both.end) == (2, 0, first.end)
    alone = walk_mpo(data[: first.end], walk_jpeg(data[: first.end]), 2)
    assert alone.frames == 1
    assert "only the first" in alone.notes[0]
    with pytest.raises(DecodeError, match="picture 2 of 2"):
        walk_mpo(data[: first.end] + b"xy", first, 2)
    with pytest.raises(DecodeError, match="no end marker"):
        walk_mpo(data[:-1], first, 2)


@pytest.mark.parametrize("name", ["jpeg", "jpeg-progressive", "jpeg-grey", "jpeg-cmyk"])
@pytest.mark.parametrize("share", [0.75, 0.9, 0.98])
def test_cut_jpeg_with_an_end_marker_put_back(makers: Any, name: str, share: float) -> None:
    data = makers.samples()[name]
    cut = data[: int(len(data) * share)].rstrip(b"\xff") + b"\xff\xd9"
    assert walk_jpeg(cut).trailing == 0  # the structure alone shows nothing
    with pytest.raises(DecodeError, match="in its picture data"):
        decode(cut)


@pytest.mark.parametrize("name", ["jpeg", "jpeg-progressive"])
def test_jpeg_that_claims_more_rows_than_it_has(makers: Any, name: str) -> None:
    data = bytearray(makers.samples()[name])
    frame = data.index(b"\xff\xc0" if name == "jpeg" else b"\xff\xc2")
    data[frame + 5 : frame + 7] = (2 * makers.HEIGHT).to_bytes(2, "big")
    with pytest.raises(DecodeError, match="in its picture data"):
        decode(bytes(data))


def test_jpeg_that_is_really_grey_is_fine(makers: Any) -> None:
    grey = np.full((40, 40, 3), 128, np.uint8)
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        assert np.array_equal(decode(makers.encode(grey, "JPEG", **options)).pixels, grey)


def test_a_jpeg_of_very_many_scans_is_refused(makers: Any) -> None:
    data = makers.samples()["jpeg-progressive"]
    last = data[data.rindex(b"\xff\xda") : -2]
    usual = jpeg_facts(data).scans
    most = data[:-2] + last * (64 - usual) + b"\xff\xd9"
    assert jpeg_facts(most).scans == 64
    with pytest.raises(DecodeError, match="more than 64 scans"):
        walk_jpeg(most[:-2] + last + b"\xff\xd9")


def test_stray_bytes_before_a_jpeg_picture_are_bounded(makers: Any) -> None:
    data = makers.samples()["jpeg"]
    walk_jpeg(data[:2] + b"\xff" * 65_000 + data[2:])
    with pytest.raises(DecodeError, match="stray bytes"):
        walk_jpeg(data[:2] + b"\xff" * 66_000 + data[2:])


# --- damage ---------------------------------------------------------------------------------------

ENCODINGS: dict[str, dict[str, Any]] = {
    "4:2:0": {"quality": 85},
    "4:4:4": {"quality": 92, "subsampling": 0},
    "4:2:2": {"quality": 90, "subsampling": 1},
    "optimised": {"quality": 75, "optimize": True},
    "progressive": {"quality": 85, "progressive": True},
    "restarts": {"quality": 85, "restart_marker_rows": 1},
    "progressive, restarts": {"quality": 85, "progressive": True, "restart_marker_blocks": 4},
}


def photograph(makers: Any, size: int = 320) -> Image.Image:
    """Shapes of all sizes with a little noise: blocks of very unlike lengths in a JPEG."""
    coarse = Image.fromarray(makers.texture(size // 8, size // 8)).resize((size, size))
    noise = np.random.default_rng(2).normal(0, 3, (size, size, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def overwritten(data: bytes, block: bytes, draw: random.Random) -> bytes:
    """The JPEG with one sector of its picture data overwritten."""
    first = data.index(b"\xff\xda") // 512 + 1
    at = 512 * draw.randrange(first, max(first + 1, (len(data) - 2) // 512))
    length = min(512, len(data) - 2 - at)
    return data[:at] + block[:length] + data[at + length :]


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=list(ENCODINGS))
def test_a_sector_overwritten_is_damage_and_the_whole_file_is_not(
    makers: Any, encoding: dict[str, Any]
) -> None:
    data = makers.encode(photograph(makers), "JPEG", **encoding)
    assert check_jpeg(data) == ()
    assert decode(data).facts.notes == ()
    draw = random.Random(1)
    text = b"The quick brown fox jumps over the lazy dog. " * 12
    for _ in range(6):
        for block in (text, draw.randbytes(512), b"\xff" * 512):
            with pytest.raises(DecodeError, match="the file is damaged"):
                decode(overwritten(data, block, draw))


def test_zeros_are_damage_where_they_cannot_be_a_flat_area(makers: Any) -> None:
    data = makers.encode(photograph(makers), "JPEG")
    with pytest.raises(DecodeError, match="zeros in the picture data, from byte"):
        decode(overwritten(data, bytes(512), random.Random(0)))
    black = Image.new("RGB", (2048, 2048))
    for options in ({}, {"optimize": True}, {"progressive": True}):
        assert not decode(makers.encode(black, "JPEG", **options)).pixels.any()


def test_data_missing_or_cut_and_ended(makers: Any) -> None:
    draw = random.Random(3)
    for name, encoding in ENCODINGS.items():
        data = makers.encode(photograph(makers), "JPEG", **encoding)
        first = data.index(b"\xff\xda") + 20
        for _ in range(6):
            at = draw.randrange(first, len(data) - 600)
            for broken in (data[:at].rstrip(b"\xff") + b"\xff\xd9", data[: at + 2 - at % 2]):
                with pytest.raises(DecodeError):
                    decode(broken)
        assert name


def test_scans_that_are_missing_are_damage(makers: Any) -> None:
    data = makers.encode(photograph(makers), "JPEG", progressive=True)
    scans = [each.at for each in segments(data) if each.code == SCAN]
    for start, end in itertools.pairwise(scans):
        for broken in (data[:start] + data[end:], data[:end] + b"\xff\xd9"):
            with pytest.raises(DecodeError, match=r"scans of the JPEG are missing|picture data"):
                decode(broken)
    with pytest.raises(DecodeError, match="scans of the JPEG are missing"):
        decode(data[: scans[-1]] + b"\xff\xd9")


def arithmetic_jpeg(makers: Any) -> bytes:
    """A JPEG in arithmetic coding, to whose decoder any bytes mean some picture."""
    grey = makers.encode(photograph(makers).convert("L"), "JPEG")
    head = grey[: grey.index(b"\xff\xda") + 10].replace(b"\xff\xc0", b"\xff\xc9")
    for seed in range(100):
        body = random.Random(seed).randbytes(90_000).replace(b"\xff", b"x")
        with pytest.raises(ValueError, match="Corrupt") as caught:
            simplejpeg.decode_jpeg(head + body + b"\xff\xd9", "GRAY")
        if spare := re.search(r"(\d+) extraneous", str(caught.value)):
            return bytes(head + body[: -int(spare[1])] + b"\xff\xd9")
    raise AssertionError


def test_arithmetic_data_cut_and_ended_are_damage(makers: Any) -> None:
    data = arithmetic_jpeg(makers)
    assert decode(data).facts.notes == ()
    start = data.index(b"\xff\xda") + 10
    for share in (0.1, 0.3, 0.5):
        with pytest.raises(DecodeError, match="arithmetic-coded data end before"):
            decode(data[: start + int(share * (len(data) - start))] + b"\xff\xd9")


def test_the_place_of_the_damage_is_named(makers: Any) -> None:
    data = makers.encode(photograph(makers), "JPEG", restart_marker_blocks=4)
    scan = data.index(b"\xff\xda")
    at = data.index(b"\xff\xd3", scan + 2000)
    with pytest.raises(DecodeError, match=f"0xd4 instead of RST3.* near byte {at}"):
        decode(data[:at] + b"\xff\xd4" + data[at + 2 :])
    plain = makers.encode(photograph(makers), "JPEG")
    at = plain.index(b"\xff\xda") + 3000
    with pytest.raises(DecodeError, match=f"marker 38 in the picture data, at byte {at}"):
        decode(plain[:at] + b"\xff\x38" + plain[at + 2 :])
    with pytest.raises(DecodeError, match=f"plain text in the picture data, at byte {at}"):
        decode(plain[:at] + b"Sphinx of black quartz, judge my vow! " * 4 + plain[at + 152 :])


def test_what_stands_beside_the_picture_is_no_damage(makers: Any) -> None:
    data = makers.samples()["jpeg-grey"]
    whole = decode(data).pixels
    quantisation, scan = data.index(b"\xff\xdb"), data.index(b"\xff\xda")
    spectral = bytearray(data)
    spectral[scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big") - 2] = 0
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x09"
    odd = {
        "a JFIF of the future": data.replace(b"JFIF\0\1", b"JFIF\0\7", 1),
        "an unknown colour transform": data[:2] + adobe + data[2:],
        "spectral selection left zero": bytes(spectral),
        "stray bytes": data[:quantisation] + b"stray" + data[quantisation:],
        "fill bytes": data[:quantisation] + b"\xff\xff" + data[quantisation:],
        "text in a comment": data[:2] + b"\xff\xfe\x02\x02" + b"plain text, " * 43 + data[2:],
        "application data behind the scan": data[:-2] + b"\xff\xeb\x00\x04JP" + data[-2:],
    }
    for what, file in odd.items():
        photo = decode(file)
        assert np.array_equal(photo.pixels, whole), what
        assert (what == "stray bytes") == any("5 stray bytes" in n for n in photo.facts.notes)


def test_unusual_sampling_is_noted_where_the_checker_cannot_follow(makers: Any) -> None:
    data = bytearray(makers.encode(Image.new("RGB", (48, 48), "teal"), "JPEG", subsampling=2))
    frame = data.index(b"\xff\xc0")
    data[frame + 11] = 0x31  # three pixels of brightness to one of colour
    notes = decode(bytes(data)).facts.notes
    assert "its picture data could not be checked for damage" in notes
    assert Counter(notes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ((4, 12), "12-bit samples"),
        ((1, 0xC3), "a lossless JPEG"),
        ((1, 0xC5), "a hierarchical JPEG"),
        ((1, 0xF7), "a JPEG-LS picture"),
        ((9, 2), "a JPEG of 2 channels"),
        ((5, 0), "height follows"),
    ],
)
def test_kinds_that_are_not_read_are_not_called_damaged(
    makers: Any, change: tuple[int, int], told: str
) -> None:
    data = bytearray(makers.samples()["jpeg"])
    offset, value = change
    data[data.index(b"\xff\xc0") + offset] = value
    if offset == 5:
        data[data.index(b"\xff\xc0") + 6] = 0
    with pytest.raises(DecodeError, match=told) as caught:
        decode(bytes(data))
    assert "not read" in caught.value.what
    assert "without loss" in caught.value.remedy


def test_how_the_file_is_built(makers: Any) -> None:
    data = makers.encode(photograph(makers), "JPEG", restart_marker_blocks=4)
    facts = jpeg_facts(data + data + b"tail")
    assert facts.order == ("APP0", "DQT", "SOF0", "DHT", "DRI", "SOS", "EOI")
    assert (facts.restart_interval, facts.scans) == (4, 1)
    assert (facts.starts, facts.ends, facts.trailing) == (2, 2, len(data) + 4)


def test_damage_in_a_further_picture_of_an_mpo_is_damage_too(makers: Any) -> None:
    picture = photograph(makers)
    data = makers.encode(picture, "MPO", save_all=True, append_images=[picture])
    assert decode(data).facts.frames == 2
    for at in (len(data) // 3, len(data) * 3 // 4):
        with pytest.raises(DecodeError, match="plain text in the picture data"):
            decode(data[:at] + b"Sphinx of black quartz, judge my vow! " * 4 + data[at + 152 :])
