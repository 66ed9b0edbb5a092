"""Bad files by kind, made by code from `makers.py`: what is missing, too much, or in a circle.

Every function takes that module and returns the files by name; a name's suffix is one that a scan
looks for. What must become of a kind is said in `test_corpus.py`.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Files = dict[str, bytes]

SUFFIXES = {"jpeg": ".jpg", "mpo": ".jpg", "tiff": ".tif", "heic": ".heic"}
# The last bytes of these are padding, or an end mark behind the last pixel.
SPARE = {"tiff-pages": 3, "bmp-runs": 3}


def suffix(name: str) -> str:
    """Return the suffix for a sample's name: ``.tif`` for ``tiff-lzw``."""
    kind = name.partition("-")[0]
    return SUFFIXES.get(kind, f".{kind}")


def whole(makers: Any) -> Files:
    """One undamaged file of every kind."""
    return {name + suffix(name): data for name, data in makers.samples().items()}


def cut(makers: Any) -> Files:
    """Every kind cut at every twentieth, and a few bytes before its end."""
    return {
        f"{name}-{len(part)}{suffix(name)}": part
        for name, data in makers.samples().items()
        for part in makers.cuts(data)
        if len(data) - len(part) > SPARE.get(name, 0)
    }


def flipped(makers: Any, seeds: Iterable[int]) -> Files:
    """Every kind with a few bytes changed."""
    return {
        f"{name}-{seed}{suffix(name)}": makers.flipped(data, seed)
        for name, data in makers.samples().items()
        for seed in seeds
    }


def mended(makers: Any) -> Files:
    """Files whose data end too early, with lengths, checksums and end marks put in order."""
    samples, files = makers.samples(), Files()
    for share in (0.3, 0.6, 0.9, 0.97):
        for name in ("jpeg", "jpeg-progressive", "jpeg-grey", "jpeg-cmyk"):
            data = samples[name]
            files[f"{name}-{share}.jpg"] = data[: int(len(data) * share)] + b"\xff\xd9"
        for name in ("webp", "webp-lossless"):
            data = samples[name]
            body = data[20 : int(len(data) * share)]
            chunk = data[12:16] + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)
            head = b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP"
            files[f"{name}-{share}.webp"] = head + chunk
        files[f"gif-{share}.gif"] = _shortened_gif(samples["gif"], share)
        files[f"png-{share}.png"] = _shortened_png(makers, share)
    for name in ("tiff-lzw", "tiff-deflate", "tiff-jpeg", "tiff-packbits", "tiff-lzma"):
        files[f"{name}.tif"] = _tiff_with(samples[name], 279, lambda count: count // 2)
    for name in ("tiff", "tiff-lzw"):
        files[f"{name}-sparse.tif"] = _tiff_with(samples[name], 273, lambda _: 0)
    runs = samples["bmp-runs"]
    files["bmp-runs.bmp"] = runs[: len(runs) // 2] + b"\0\1"
    return files


def _shortened_gif(data: bytes, share: float) -> bytes:
    """A GIF with the first part of its compressed data, in proper blocks."""
    start = data.index(b",", 13 + 192) + 11  # behind a palette of 64 colours
    body, at = b"", start
    while data[at]:
        body += data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
    body = body[: int(len(body) * share)]
    parts = [body[i : i + 255] for i in range(0, len(body), 255)]
    return data[:start] + b"".join(bytes([len(p)]) + p for p in parts) + b"\0;"


def _shortened_png(makers: Any, share: float) -> bytes:
    pixels = makers.texture()
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0)
    packed = zlib.compress(rows[: int(len(rows) * share)])
    body = makers.chunk(b"IHDR", header) + makers.chunk(b"IDAT", packed)
    return b"\x89PNG\r\n\x1a\n" + bytes(body + makers.chunk(b"IEND", b""))


def _tiff_with(data: bytes, tag: int, change: Callable[[int], int]) -> bytes:
    """A little-endian TIFF with every value of one tag of its first page changed."""
    changed = bytearray(data)
    (first,) = struct.unpack_from("<I", data, 4)
    for at in range(first + 2, first + 2 + 12 * struct.unpack_from("<H", data, first)[0], 12):
        found, kind, count = struct.unpack_from("<HHI", data, at)
        if found == tag:
            code = f"<{count}{'H' if kind == 3 else 'I'}"
            place = at + 8
            if struct.calcsize(code) > 4:
                (place,) = struct.unpack_from("<I", data, at + 8)
            values = struct.unpack_from(code, data, place)
            struct.pack_into(code, changed, place, *map(change, values))
    return bytes(changed)


@cache
def bombs(makers: Any) -> Files:
    """Small files that would become enormous pictures."""
    files = {f"head-{n}{suffix(n)}": data for n, data in makers.headers_of_bombs().items()}
    files["rows.png"] = makers.black_png(60_000, 60_000)
    # A strip of 40 million pixels is a picture of 64 times as many once it is 64 high.
    files["strip.png"] = makers.black_png(40_000_000, 1, rows_per_block=1)
    files["stretched.avif"] = _avif_of_size(makers, 16_000, 16_000)
    files["shrunk.avif"] = _avif_of_size(makers, 36, 28)
    files["runs.bmp"] = _bmp_bomb()
    return files


def _avif_of_size(makers: Any, width: int, height: int) -> bytes:
    """An AVIF whose header claims a size; its decoder would stretch the picture to that."""
    data = bytearray(makers.samples()["avif"])
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", width, height)
    return bytes(data)


def _bmp_bomb() -> bytes:
    """Jumps of 255 columns and rows in place of runs."""
    body = b"\1\1" + b"\0\2\xff\xff" * 1000
    head = struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078)
    head += struct.pack("<IiiHHIIiiII", 40, 30_000, 30_000, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + head + bytes(1024) + body


def floods(makers: Any) -> Files:
    """Files of very many tiny parts, or with work that a few bytes ask for again and again."""
    samples = makers.samples()
    grey, gif = samples["jpeg-grey"], samples["gif"]
    scans = samples["jpeg-progressive"]
    last = scans[scans.rindex(b"\xff\xda") : -2]
    strip = makers.encode(makers.texture(8, 16)[..., 0], "JPEG")
    shared = {**makers.grey_page(16, 8 * 3000, t259=7, t278=8).tags}
    shared |= {273: (8,) * 3000, 279: (len(strip),) * 3000}
    return {
        "scans.jpg": scans[:-2] + last * 1000 + b"\xff\xd9",
        "comments.jpg": grey[:2] + b"\xff\xfe\0\2" * 60_000 + grey[2:],
        "marks.jpg": grey[:2] + b"\xff\x01" * 60_000 + grey[2:],
        "fill.jpg": grey[:2] + b"\xff" * 100_000 + grey[2:],
        "chunks.png": makers.png(
            makers.texture(), depth=8, extra=makers.chunk(b"abCd", b"") * 60_000
        ),
        "comments.gif": gif[:205] + b"\x21\xfe\x01a\0" * 60_000 + gif[205:],
        "strips.tif": makers.tiff(makers.Directory(shared), body=strip + bytes(len(strip) % 2)),
        "tags.tif": makers.tiff(
            makers.Directory(
                {**makers.grey_page().tags, **dict.fromkeys(range(33_000, 38_000), (1,))}
            )
        ),
    }


def loops(makers: Any) -> Files:
    """TIFF directories that lead back to themselves, or to nowhere."""
    data = bytearray(makers.tiff(makers.grey_page(), makers.grey_page()))
    first = struct.unpack_from("<I", data, 4)[0]
    circle = bytes(data[:-4]) + struct.pack("<I", first)
    nested = makers.tiff(makers.Directory(makers.grey_page().tags, inner=(makers.grey_page(),)))
    inner = _tiff_with(nested, 330, lambda _: struct.unpack_from("<I", nested, 4)[0])
    return {
        "circle.tif": circle,
        "itself.tif": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "inner.tif": inner,
        "nowhere.tif": b"II*\0\xff\xff\xff\xff" + bytes(64),
    }


@cache
def metadata(makers: Any) -> Files:
    """Good pictures, with metadata that would fill the memory, or lead in circles."""
    pixels = makers.texture()
    grey = makers.samples()["jpeg-grey"]
    entries = b"".join(struct.pack("<HHII", t, 7, 60_000, 0) for t in range(1000, 6000))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 5000) + entries
    app1 = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    more = b"\xff\xe1" + struct.pack(">H", 65_535) + b"Exif\0\0" + bytes(65_527)
    circle = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x8769, 4, 1, 8)
    circle += struct.pack("<I", 8)
    app1_circle = b"\xff\xe1" + struct.pack(">H", len(circle) + 2) + circle
    profile = b"ICC_PROFILE\0\1\xff" + bytes(65_000)
    app2 = b"\xff\xe2" + struct.pack(">H", len(profile) + 2) + profile
    icc = zlib.compress(bytes(50_000_000), 9)
    scanner = zlib.compress(np.random.default_rng(0).bytes(2_000_000))
    overlaps = bytearray(
        makers.tiff(
            makers.Directory(
                {**makers.grey_page().tags, **dict.fromkeys(range(33_000, 34_000), (1,))}
            ),
            body=bytes(1_000_000),
        )
    )
    first = struct.unpack_from("<I", overlaps, 4)[0]
    for at in range(first + 2 + 12 * 9, first + 2 + 12 * 1009, 12):
        overlaps[at + 2 : at + 12] = struct.pack("<HII", 7, 900_000, 8)
    return {
        "exif.jpg": grey[:2] + app1 + grey[2:],
        "exif-long.jpg": grey[:2] + app1 + more * 40 + grey[2:],
        "exif-circle.jpg": grey[:2] + app1_circle + grey[2:],
        "icc.jpg": grey[:2] + app2 * 40 + grey[2:],
        "icc.png": makers.png(pixels, depth=8, extra=makers.chunk(b"iCCP", b"a\0\0" + icc)),
        "icc-large.png": makers.png(
            pixels, depth=8, extra=makers.chunk(b"iCCP", b"a\0\0" + scanner)
        ),
        "exif.png": makers.png(pixels, depth=8, extra=makers.chunk(b"eXIf", exif[6:])),
        "exif.webp": makers.encode(Image.fromarray(pixels), "WEBP", lossless=True, exif=exif),
        "tags.tif": bytes(overlaps),
    }


def polyglots(makers: Any) -> Files:
    """Files that are also something else, by what stands behind, within or before the picture."""
    samples = makers.samples()
    archive = b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18)
    page = b"<script>alert(1)</script>"
    tails = ("jpeg", "png", "webp", "bmp", "gif", "avif")
    files = {f"archive-{n}{suffix(n)}": samples[n] + archive for n in tails}
    jpeg, gif, png = samples["jpeg-grey"], samples["gif"], samples["png"]
    return files | {
        "script.gif": gif[:-1] + b"\x21\xfe" + bytes([len(page)]) + page + b"\0;",
        "page.jpg": jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(page) + 2) + page + jpeg[2:],
        "document.jpg": jpeg[:2] + b"\xff\xfe\0\x0a%PDF-1.7" + jpeg[2:] + b"%%EOF",
        "jpeg-then-png.jpg": jpeg + png,
        "png-then-jpeg.png": png + jpeg,
        "png-named.jpg": png,
    }
