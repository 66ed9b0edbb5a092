from __future__ import annotations

import hashlib
import io
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import zigzag_index

from imlctl.image.decode import decode, read
from imlctl.image.facts import Provenance, _flags, cautions, compare_thumbnail, pixels_sha256
from imlctl.image.jpeg_facts import jpeg_facts, published_tables
from imlctl.image.metadata import (
    Embedded,
    ExifSummary,
    Tiff,
    c2pa_text,
    find_embedded,
    summarise,
    xmp_values,
)

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "launchpad.jpg"
KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "HEIF", "AVIF")
# A JUMBF superbox whose description box says C2PA, and the same of another type.
STORE = bytes.fromhex("0000002b6a756d62000000236a756d64") + (
    b"c2pa" + bytes.fromhex("00110010800000aa00389b71") + b"\x03c2pa\0"
)
OTHER = STORE.replace(b"jumdc2pa", b"jumdjson")


def traces(data: bytes) -> Provenance:
    found = decode(data).facts.provenance
    assert found is not None
    return found


def segment(code: int, content: bytes) -> bytes:
    return bytes([0xFF, code]) + struct.pack(">H", len(content) + 2) + content


def with_segment(jpeg: bytes, code: int, content: bytes) -> bytes:
    return jpeg[:2] + segment(code, content) + jpeg[2:]


# --- JPEG -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [1, 10, 24, 25, 49, 50, 51, 75, 92, 99])
def test_the_quality_of_libjpeg_is_found_exactly(makers: Any, quality: int) -> None:
    found = jpeg_facts(makers.encode(makers.texture(), "JPEG", quality=quality))
    assert (found.quality, found.standard) == (quality, True)


@pytest.mark.parametrize("grey", [False, True])
def test_tables_are_those_that_pillow_reads(makers: Any, grey: bool) -> None:
    image = Image.fromarray(makers.texture()).convert("L" if grey else "RGB")
    data = makers.encode(image, "JPEG", quality=83)
    expected = Image.open(BytesIO(data)).quantization  # type: ignore[attr-defined]
    found = {table.slot: list(table.values) for table in jpeg_facts(data).tables}
    assert found == {slot: list(values) for slot, values in expected.items()}
    assert len(found) == 2 - grey


def test_tables_of_another_program_are_compared_and_not_called_a_setting(makers: Any) -> None:
    base = jpeg_facts(makers.encode(makers.texture(), "JPEG", quality=80)).tables
    tables = [[min(255, value + at % 2) for at, value in enumerate(t.values)] for t in base]
    found = jpeg_facts(makers.encode(makers.texture(), "JPEG", qtables=tables))
    assert not found.standard
    assert found.quality is not None
    assert abs(found.quality - 80) <= 3


@pytest.mark.parametrize("setting", ["web_low", "web_maximum", "medium", "maximum"])
def test_the_tables_of_photoshop_are_known(makers: Any, setting: str) -> None:
    found = jpeg_facts(makers.encode(makers.texture(), "JPEG", quality=setting))
    assert (found.standard, found.program) == (False, f"Photoshop, {setting.replace('_', ' ')}")
    assert jpeg_facts(makers.encode(makers.texture(), "JPEG")).program == "libjpeg"
    other = [[7 + at % 50 for at in range(64)]] * 2
    assert jpeg_facts(makers.encode(makers.texture(), "JPEG", qtables=other)).program is None


def jpeg_with(makers: Any, tables: list[list[int]]) -> Any:
    return jpeg_facts(makers.encode(makers.texture(), "JPEG", qtables=tables))


def test_tables_of_mozjpeg_and_ffmpeg_are_known(makers: Any) -> None:
    base = published_tables()["robidoux"]
    assert (base.reshape(8, 8) == base.reshape(8, 8).T).all()
    halves = [int(value) for value in (base + 1) // 2]
    assert jpeg_with(makers, [halves, halves]).program == "mozjpeg, quality 75"
    # As FFmpeg wrote it at its best usual quality, in zigzag order.
    stored = bytes.fromhex(
        "08040404040405050505050506060606060606060606060606070707080808070707060607070808080809090908"
        "08080809090a0a0a0c0c0b0b0e0e0e111114"
    )
    assert len(stored) == 64
    table = [stored[place] for place in zigzag_index]
    assert jpeg_with(makers, [table, table]).program == "FFmpeg, -q:v 2"


def test_brightness_and_colour_may_have_qualities_of_their_own(makers: Any) -> None:
    bright, pale = (
        jpeg_facts(makers.encode(makers.texture(), "JPEG", quality=quality)).tables
        for quality in (90, 70)
    )
    found = jpeg_with(makers, [list(bright[0].values), list(pale[1].values)])
    assert found.program == "libjpeg, with qualities 90 and 70 for brightness and colour"
    assert not found.standard


@pytest.mark.parametrize(
    ("option", "name"), [("4:4:4", "4:4:4"), ("4:2:2", "4:2:2"), ("4:2:0", "4:2:0")]
)
def test_subsampling_has_its_usual_name(makers: Any, option: str, name: str) -> None:
    data = makers.encode(makers.texture(), "JPEG", subsampling=option)
    assert jpeg_facts(data).subsampling == name


def test_grey_has_no_subsampling_and_scans_of_growing_detail_are_noticed(makers: Any) -> None:
    grey = jpeg_facts(makers.encode(makers.texture()[..., 0], "JPEG"))
    assert (grey.subsampling, grey.progressive) == (None, False)
    assert jpeg_facts(makers.encode(makers.texture(), "JPEG", progressive=True)).progressive


def test_sixteen_bit_tables_are_read(makers: Any) -> None:
    wide = b"".join(struct.pack(">H", 300 + at) for at in range(64))
    found = jpeg_facts(b"\xff\xd8" + segment(0xDB, b"\x12" + wide) + b"\xff\xd9")
    (table,) = found.tables
    assert (table.slot, table.bits, table.values[:2]) == (2, 16, (300, 301))
    assert table.values[8] == 302  # zigzag goes down the second column
    assert (found.quality, found.standard) == (None, False)  # no component uses it


@pytest.fixture(scope="module")
def scene(makers: Any) -> Image.Image:
    """Shapes of all sizes and some noise, as no JPEG ever was."""
    coarse = Image.fromarray(makers.texture(40, 50)).resize((400, 320), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 4, (320, 400, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def reopened(makers: Any, picture: Image.Image, quality: int) -> Image.Image:
    return Image.open(BytesIO(makers.encode(picture, "JPEG", quality=quality)))


@pytest.mark.parametrize("quality", [50, 75, 90, 95])
@pytest.mark.parametrize("depth", [8, 16])
def test_the_grid_of_an_earlier_jpeg_is_found_where_it_lies(
    makers: Any, scene: Image.Image, quality: int, depth: int
) -> None:
    cut = np.asarray(reopened(makers, scene, quality).crop((3, 6, 400, 320)))
    if depth == 16:
        cut = cut.astype(np.uint16) * 257
    found = traces(makers.png(cut, depth=depth))
    assert (found.grid, found.compressions) == ((5, 2), "once")


def test_a_picture_that_was_never_a_jpeg_has_no_grid(makers: Any, scene: Image.Image) -> None:
    for picture in (scene, scene.resize((1000, 800)), makers.texture(), makers.texture(8, 9)):
        found = traces(makers.encode(picture, "PNG"))
        assert (found.grid, found.compressions) == (None, "not decidable")


def test_a_jpeg_may_show_the_grid_of_an_earlier_one(makers: Any, scene: Image.Image) -> None:
    cut = reopened(makers, scene, 75).crop((3, 6, 400, 320))
    weak = traces(makers.encode(cut, "JPEG", quality=100))
    assert (weak.grid, weak.compressions) == ((5, 2), "twice")
    for picture, quality in ((cut, 90), (scene, 98), (scene, 75)):
        found = traces(makers.encode(picture, "JPEG", quality=quality))
        assert (found.grid, found.compressions) == ((0, 0), "not decidable")


# --- EXIF -----------------------------------------------------------------------------------------


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x010F], tags[0x0110], tags[0x0131] = "Canon", "EOS 5D", "Photoshop 25.4"
    tags[0x0132] = "2024:05:19 22:01:44"
    inner = tags.get_ifd(0x8769)
    inner[0x9003], inner[0xA434] = "2024:05:17 08:30:12", "EF24-70mm"
    inner[0xA002], inner[0xA003] = 5760, 3840
    tags.get_ifd(0x8825)[1] = "N"
    tags[0x8769], tags[0x8825] = dict(inner), dict(tags.get_ifd(0x8825))  # for TIFF
    return tags


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "MPO"])
def test_exif_is_read_wherever_a_format_keeps_it(makers: Any, kind: str) -> None:
    found = traces(makers.encode(makers.texture(), kind, exif=exif())).exif
    assert found is not None
    assert (found.make, found.model, found.software) == ("Canon", "EOS 5D", "Photoshop 25.4")
    assert (found.taken, found.lens) == ("2024:05:17 08:30:12", "EF24-70mm")
    assert (found.width, found.height) == (5760, 3840)
    assert found.modified == "2024:05:19 22:01:44"
    assert found.gps
    assert not found.thumbnail


def test_exif_of_a_heic_is_read(makers: Any) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = BytesIO()
    image = pillow_heif.from_pillow(Image.fromarray(makers.texture()))
    image.save(stream, quality=90, exif=exif().tobytes())
    found = traces(stream.getvalue()).exif
    assert found is not None
    assert (found.make, found.taken) == ("Canon", "2024:05:17 08:30:12")


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_and_a_thumbnail(order: str) -> None:
    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")

    first = struct.pack(f"{order}H", 1) + entry(0x010F, 2, 3, b"Xy\0")
    second = struct.pack(f"{order}H", 1) + entry(0x0201, 4, 1, struct.pack(f"{order}I", 99))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    after = struct.pack(f"{order}I", 8 + len(first) + 4)
    found = summarise(Tiff(head + first + after + second + bytes(4)))
    assert found == ExifSummary(make="Xy", thumbnail=True)


def test_texts_are_one_short_line_whatever_they_hold() -> None:
    text = ("<b>\n\x1b[31m \u202e" + "a" * 1000).encode() + b"\xff\0hidden"
    entry = struct.pack("<HHHII", 1, 0x010F, 2, len(text), 26)
    found = summarise(Tiff(b"II*\0" + struct.pack("<I", 8) + entry + bytes(4) + text))
    assert found is not None
    assert found.make is not None
    assert found.make.startswith("<b> [31m aaa")
    assert found.make.isprintable()
    assert len(found.make) == 200


def test_a_file_without_exif_has_none(makers: Any) -> None:
    for name, data in makers.samples().items():
        found = traces(data)
        assert found.exif is None, name
        assert found.bytes == len(data)
        assert (found.jpeg is not None) == (name.startswith(("jpeg", "mpo"))), name
        assert not found.c2pa


# --- C2PA -----------------------------------------------------------------------------------------


def app11(store: bytes) -> bytes:
    return b"JP" + struct.pack(">HI", 1, 1) + store


def carriers(makers: Any, store: bytes) -> dict[str, bytes]:
    samples = makers.samples()
    webp, png, gif = samples["webp"], samples["png"], samples["gif"]
    chunk = b"C2PA" + struct.pack("<I", len(store)) + store + b"\0" * (len(store) & 1)
    riff = struct.pack("<I", len(webp) - 8 + len(chunk))
    uuid = bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + b"\0\0\0\0manifest\0" + store
    return {
        "JPEG": with_segment(samples["jpeg"], 0xEB, app11(store)),
        "PNG": png[:33] + makers.chunk(b"caBX", store) + png[33:],
        "WEBP": webp[:4] + riff + webp[8:] + chunk,
        "AVIF": samples["avif"] + struct.pack(">I", len(uuid) + 8) + b"uuid" + uuid,
        "GIF": gif[:-1] + b"\x21\xff\x0bC2PA_GIF\x01\0\0\x01x\0" + gif[-1:],
    }


def test_a_manifest_is_seen_in_every_format_and_the_picture_still_decodes(makers: Any) -> None:
    for kind, data in carriers(makers, STORE).items():
        assert find_embedded(data, kind).c2pa, kind
        if kind != "WEBP":  # a simple WebP may not have chunks besides, so a decoder may refuse
            assert traces(data).c2pa, kind
    tags = Image.Exif()
    tags[0xCD41] = STORE
    assert traces(makers.encode(makers.texture(), "TIFF", tiffinfo=tags)).c2pa


def test_other_boxes_are_not_taken_for_a_manifest(makers: Any) -> None:
    others = carriers(makers, OTHER)
    for kind in ("JPEG", "PNG", "WEBP"):
        assert not find_embedded(others[kind], kind).c2pa, kind
    foreign = others["AVIF"].replace(bytes.fromhex("d8fec3d6"), bytes.fromhex("d8fec3d7"))
    assert not find_embedded(foreign, "AVIF").c2pa


# --- thumbnail ------------------------------------------------------------------------------------


def exif_with_thumbnail(
    thumbnail: bytes, *, kind: int = 4, start: int | None = None, more: int = 0, first: bool = False
) -> bytes:
    """EXIF of two directories, the second of which points to a thumbnail behind it."""
    entries = struct.pack("<HHII", 0x0201, kind, 1, 56 if start is None else start)
    entries += struct.pack("<HHII", 0x0202, 4, 1, len(thumbnail) + more)
    pointed = struct.pack("<H", 2) + entries
    plain = struct.pack("<HHHII", 1, 0x0112, 3, 1, 1)
    if first:  # in the wrong directory
        body = pointed + struct.pack("<I", 0) + plain + bytes(4)
    else:
        body = plain + struct.pack("<I", 26) + pointed + bytes(4)
    return b"Exif\0\0II*\0\x08\0\0\0" + body + thumbnail


def with_thumbnail(makers: Any, picture: Any, small: Any, **oddity: Any) -> bytes:
    small = makers.encode(small, "JPEG", quality=90)
    return with_segment(
        makers.encode(picture, "JPEG", quality=95), 0xE1, exif_with_thumbnail(small, **oddity)
    )


def test_a_thumbnail_is_held_against_its_picture(makers: Any) -> None:
    scene = Image.fromarray(makers.texture(240, 320)).resize((640, 480))
    small = scene.resize((160, 120), Image.Resampling.BOX)
    photo = decode(with_thumbnail(makers, scene, small))
    assert photo.thumbnail.startswith(b"\xff\xd8\xff")
    found = traces(with_thumbnail(makers, scene, small)).thumbnail
    assert found is not None
    assert (found.width, found.height, found.bytes) == (160, 120, len(photo.thumbnail))
    assert found.same_aspect
    assert found.difference is not None
    assert found.difference < 0.04
    other = traces(with_thumbnail(makers, scene, ImageOps.invert(small)))
    assert other.thumbnail is not None
    assert "the embedded thumbnail looks unlike the picture" in other.flags
    cropped = traces(with_thumbnail(makers, scene.crop((0, 0, 300, 480)), small))
    assert "the embedded thumbnail has other proportions than the picture" in cropped.flags


def test_dark_bars_beside_a_thumbnail_are_no_other_aspect(makers: Any) -> None:
    scene = Image.fromarray(makers.texture(200, 300)).resize((600, 400))
    small = Image.new("RGB", (160, 120))
    small.paste(scene.resize((160, 107), Image.Resampling.BOX), (0, 6))
    found = compare_thumbnail(makers.encode(small, "JPEG", quality=90), np.asarray(scene))
    assert found is not None
    assert found.same_aspect
    assert found.difference is not None
    assert found.difference < 0.05
    wide = compare_thumbnail(
        makers.encode(small, "JPEG", quality=90), np.asarray(scene).astype(np.uint16) * 257
    )
    assert wide == found


@pytest.mark.parametrize(
    ("oddity", "seen"),
    [
        ({"more": 1}, True),
        ({"kind": 2}, False),
        ({"start": 10_000_000}, False),
        ({"start": 8}, False),
        ({"first": True}, False),
    ],
    ids=["one byte too long", "wrong type", "past the end", "elsewhere", "wrong directory"],
)
def test_a_thumbnail_out_of_place_costs_only_itself(
    makers: Any, oddity: dict[str, Any], seen: bool
) -> None:
    data = with_thumbnail(makers, makers.texture(), makers.texture(28, 36), **oddity)
    photo = decode(data)
    assert photo.facts.provenance is not None
    assert bool(photo.thumbnail) == (photo.facts.provenance.thumbnail is not None) == seen


# --- flags ----------------------------------------------------------------------------------------

XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:Description xmp:CreatorTool="Adobe Photoshop 25.4">
<xmpMM:DerivedFrom stRef:documentID="xmp.did:1"/><xmpMM:History><rdf:Seq>
<rdf:li stEvt:action="created" stEvt:softwareAgent="Adobe Photoshop 25.4"/>
<rdf:li><stEvt:action>saved</stEvt:action>
<stEvt:softwareAgent>GIMP 2.10</stEvt:softwareAgent></rdf:li>
</rdf:Seq></xmpMM:History><Iptc4xmpExt:DigitalSourceType>
http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia
</Iptc4xmpExt:DigitalSourceType></rdf:Description></x:xmpmeta>"""
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"


def test_a_file_without_oddities_has_no_flags(makers: Any) -> None:
    for name, data in makers.samples().items():
        assert traces(data).flags == (), name
    assert traces(with_segment(makers.samples()["jpeg"], 0xE1, XMP_HEADER)).flags == ()


def test_exif_that_does_not_fit_is_flagged(makers: Any) -> None:
    tags = exif()
    tags[0x0132] = "2024:05:16 08:00:00"
    flags = traces(makers.encode(makers.texture(), "JPEG", exif=tags)).flags
    assert "EXIF gives 5760 x 3840 pixels, the picture has 72 x 56" in flags
    before = "modified (2024:05:16 08:00:00) before it was taken (2024:05:17 08:30:12), by its EXIF"
    assert before in flags
    assert "an editor is named: Photoshop 25.4" in flags


def test_xmp_is_read_from_every_carrier(makers: Any) -> None:
    packet = XMP.encode()
    samples = makers.samples()
    info = makers.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)
    files = {
        "JPEG": with_segment(samples["jpeg"], 0xE1, XMP_HEADER + packet),
        "PNG": samples["png"][:33] + info + samples["png"][33:],
        "WEBP": makers.encode(makers.texture(), "WEBP", xmp=packet),
        "AVIF": makers.encode(makers.texture(), "AVIF", xmp=packet),
        "TIFF": makers.encode(makers.texture(), "TIFF", tiffinfo={700: packet}),
    }
    for kind, data in files.items():
        flags = traces(data).flags
        for expected in (
            "an editor is named: Adobe Photoshop 25.4",
            "an editor is named: GIMP 2.10",
            "XMP lists editing steps (2): created, saved",
            "XMP names documents that it was made from",
            "its digital source type is compositeWithTrainedAlgorithmicMedia",
        ):
            assert expected in flags, (kind, expected, flags)


@pytest.mark.parametrize(
    ("code", "content", "told"),
    [
        (0xED, b"Photoshop 3.0\x008BIM\x04\x06\0\0\0\0", "Photoshop resources (APP13)"),
        (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\x14FBMD01000a9e", "Facebook or Instagram"),
        (0xFE, b"CREATOR: gd-jpeg v1.0 (using IJG JPEG v80), quality = 90", "web server"),
        (0xFE, b"Lavc58.134.100", "a frame taken from a video"),
    ],
)
def test_marks_of_programs_and_services(makers: Any, code: int, content: bytes, told: str) -> None:
    flags = traces(with_segment(makers.samples()["jpeg"], code, content)).flags
    assert any(told in flag for flag in flags), flags


def test_generators_are_named_from_texts_and_comments(makers: Any) -> None:
    text = makers.chunk(b"tEXt", b"parameters\0a cat\nNegative prompt: blurry\nCFG scale: 7")
    png = makers.png(makers.texture(), depth=8, extra=text)
    assert "a generator of pictures is named: Negative prompt" in traces(png).flags
    tags = exif()
    tags.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "Stable Diffusion XL".encode("utf-16-be")
    tags[0x8769] = dict(tags.get_ifd(0x8769))
    flags = traces(makers.encode(makers.texture(), "JPEG", exif=tags)).flags
    assert "a generator of pictures is named: Stable Diffusion" in flags


def test_who_made_a_manifest_is_told_and_not_believed(makers: Any) -> None:
    for claim, name in (
        (b"\x6fclaim_generator\x6bTestCam/1.0", "TestCam/1.0"),
        (
            b"\x74claim_generator_info\x81\xa2\x64name\x78\x19" + b"A" * 25 + b"\x67version",
            "A" * 25,
        ),
        (b"\x6fclaim_generator\x18", "an unnamed program"),
        (b"\x74claim_generator_info\xa1\x67version\x631.0", "an unnamed program"),
    ):
        for kind, data in carriers(makers, STORE + claim).items():
            if kind in ("JPEG", "PNG", "AVIF"):
                found = traces(data)
                assert f"a C2PA manifest by {name}, not verified" in found.flags, kind
                assert found.c2pa_generator == (None if "unnamed" in name else name)


@given(data=st.binary(max_size=200))
def test_no_packet_or_manifest_makes_it_fail(data: bytes) -> None:
    xmp_values((data + b'stEvt:action="' + data).decode("latin-1"), "stEvt:action")
    packet = Embedded(xmp=data + b'stEvt:action="' + data)
    _flags(packet, ExifSummary(), None, None, (8, 8))
    c2pa_text(data + b"claim_generator" + data, "claim_generator")
    compare_thumbnail(b"\xff\xd8\xff" + data, np.zeros((8, 8, 3), np.uint8))


# --- pixels ---------------------------------------------------------------------------------------


def test_pixels_have_a_hash_of_their_own(makers: Any) -> None:
    pixels = makers.texture()
    plain, described = (
        traces(makers.encode(pixels, "PNG", **options)) for options in ({}, {"exif": exif()})
    )
    assert plain.bytes != described.bytes
    assert plain.pixels_sha256 == described.pixels_sha256
    assert plain.pixels_sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
    changed = pixels.copy()
    changed[-1, -1, 2] ^= 1
    assert traces(makers.encode(changed, "PNG")).pixels_sha256 != plain.pixels_sha256


def test_the_hash_does_not_depend_on_how_samples_lie_in_memory() -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (70, 9, 3)).astype(np.uint16)
    expected = hashlib.sha256(pixels.astype("<u2").tobytes()).hexdigest()
    assert pixels_sha256(pixels) == expected
    assert pixels_sha256(pixels.astype(">u2")) == expected
    assert pixels_sha256(np.asfortranarray(pixels)) == expected
    assert pixels_sha256(np.repeat(pixels, 2, axis=1)[:, ::2]) == expected


def test_a_long_narrow_picture_is_hashed_at_once() -> None:
    assert len(pixels_sha256(np.zeros((2_000_000, 1, 3), np.uint8))) == 64


# --- hostile --------------------------------------------------------------------------------------


def gather(data: bytes, kind: str) -> None:
    """What `provenance` does, and what must hold of it whatever the bytes."""
    found = find_embedded(data, kind)
    summary = summarise(found.exif) if found.exif else None
    if summary is not None:
        texts = (summary.make, summary.model, summary.lens, summary.software, summary.taken)
        assert all(text is None or (len(text) <= 200 and text.isprintable()) for text in texts)
    facts = jpeg_facts(data)
    assert len(facts.tables) <= 4
    assert facts.quality is None or 1 <= facts.quality <= 100


@settings(max_examples=300)
@given(kind=st.sampled_from(KINDS), data=st.binary(max_size=300))
def test_no_bytes_make_it_fail(kind: str, data: bytes) -> None:
    gather(data, kind)


@settings(max_examples=300)
@given(data=st.binary(max_size=200), order=st.sampled_from([b"II*\0", b"MM\0*"]))
def test_no_directory_makes_it_fail(data: bytes, order: bytes) -> None:
    summarise(Tiff(order + data))


def test_changed_and_cut_files_never_make_it_fail(makers: Any) -> None:
    files = {
        kind: makers.encode(makers.texture(), kind, exif=exif())
        for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF")
    }
    for kind, data in (*files.items(), *carriers(makers, STORE).items()):
        for seed in range(60):
            gather(makers.flipped(data, seed), kind)
        for end in range(0, min(len(data), 1200), 7):
            gather(data[:end], kind)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("JPEG", b"\xff\xd8" + b"\xff\xe1\x00\x02" * 2_000_000),
        ("JPEG", b"\xff\xd8" + b"\xff" * 8_000_000),
        ("JPEG", b"\xff\xd8" + segment(0xDB, (b"\x00" + bytes(64)) * 900) * 100),
        ("PNG", b"\x89PNG\r\n\x1a\n" + bytes(12) * 600_000),
        ("WEBP", b"RIFF\0\0\0\0WEBP" + (b"EXIF" + bytes(4)) * 900_000),
        ("AVIF", b"\0\0\0\x08free" * 900_000),
        ("AVIF", b"\0\0\0\0meta" + b"\0" * 8_000_000),
        ("TIFF", b"II*\0\x08\0\0\0" + b"\xff" * 8_000_000),
        ("TIFF", b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_files_made_to_take_long_do_not(kind: str, data: bytes) -> None:
    gather(data, kind)  # within the time that every test has


def test_the_example_says_how_it_was_saved() -> None:
    found = read(EXAMPLE).facts.provenance
    assert found is not None
    assert found.jpeg is not None
    assert (found.jpeg.quality, found.jpeg.standard, found.jpeg.subsampling) == (92, True, "4:2:0")
    assert found.bytes == EXAMPLE.stat().st_size


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
