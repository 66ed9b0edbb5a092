"""Pictures and bad files, made by code. Everything is small, seeded and quick."""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

WIDTH, HEIGHT = 72, 56


def texture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> NDArray[np.uint8]:
    """A picture with gradients and noise, (H, W, 3), nowhere flat."""
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = np.stack([rows * 3, columns * 2, rows + columns], axis=-1) % 200
    noise = np.random.default_rng(seed).integers(0, 40, smooth.shape)
    return (smooth + noise).astype(np.uint8)


def two() -> dict[str, Any]:
    """Options that save a second picture behind the first."""
    # A new one each time: saving leaves settings of its encoder on a picture.
    return {"save_all": True, "append_images": [Image.fromarray(texture(seed=1))]}


def encode(picture: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    image = picture.copy() if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@cache
def samples() -> dict[str, bytes]:
    """One whole file of every kind that is read, without HEIC, which needs an extra."""
    image = Image.fromarray(texture())
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "jpeg": encode(image, "JPEG", exif=exif),
        "jpeg-progressive": encode(image, "JPEG", progressive=True),
        "jpeg-grey": encode(image.convert("L"), "JPEG"),
        "jpeg-cmyk": encode(image.convert("CMYK"), "JPEG"),
        "mpo": encode(image, "MPO", **two()),
        "png": encode(image, "PNG"),
        "png-16": png(np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 3)), depth=16),
        "png-animated": encode(image, "PNG", **two()),
        "png-palette": encode(image.quantize(64), "PNG", transparency=3),
        "png-interlaced": interlaced_png(texture()),
        "webp": encode(image, "WEBP"),
        "webp-lossless": encode(image, "WEBP", lossless=True),
        "webp-animated": encode(image, "WEBP", **two()),
        "tiff": encode(image, "TIFF"),
        "tiff-lzw": encode(image, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": encode(image, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-jpeg": encode(image, "TIFF", compression="jpeg"),
        "tiff-packbits": encode(image, "TIFF", compression="packbits"),
        "tiff-lzma": encode(image, "TIFF", compression="lzma"),
        "tiff-fax": encode(image.convert("1"), "TIFF", compression="group4"),
        "tiff-pages": encode(image, "TIFF", **two()),
        "bmp": encode(image, "BMP"),
        "bmp-runs": bmp_of_runs(image.quantize(64)),
        "gif": encode(image.quantize(64), "GIF"),
        "gif-animated": encode(image, "GIF", **two()),
        "avif": encode(image, "AVIF"),
    }


def cuts(data: bytes) -> Iterator[bytes]:
    """The file cut at every twentieth, and a little before its end."""
    lengths = {len(data) * twentieth // 20 for twentieth in range(20)}
    lengths |= {len(data) - missing for missing in (1, 2, 3, 5, 9, 17)}
    return (data[:length] for length in sorted(lengths))


def flipped(data: bytes, seed: int) -> bytes:
    """The file with one to eight of its bytes changed, often near the start."""
    draw = random.Random(seed)
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        end = len(data) if draw.random() < 0.5 else min(len(data), 200)
        changed[draw.randrange(end)] ^= draw.randint(1, 255)
    return bytes(changed)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples: NDArray[Any], *, depth: int, extra: bytes = b"") -> bytes:
    """A PNG of (H, W, C) samples of 8 or 16 bits; one to four channels; `extra` chunks."""
    height, width, channels = samples.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = samples.astype({8: ">u1", 16: ">u2"}[depth])
    raw = b"".join(b"\x00" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def interlaced_png(samples: NDArray[np.uint8], *, passes: int = 7) -> bytes:
    """An 8-bit RGB PNG in the seven passes of Adam7, or only in the first of them."""
    steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
    steps.append((0, 1, 1, 2))
    raw = b""
    for left, top, across, down in steps[:passes]:
        for row in samples[top::down, left::across]:
            raw += b"\x00" + row.tobytes() if len(row) else b""
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 8, 2, 0, 0, 1)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bmp_of_runs(picture: Image.Image) -> bytes:
    """An 8-bit BMP in run-length compression, of a palette picture."""
    indices = np.flipud(np.asarray(picture))
    body = b"".join(
        b"".join(bytes([1, index]) for index in row) + b"\0\0" for row in indices.tolist()
    )
    colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 4), np.uint8)
    palette[: len(colours), :3] = colours[:, ::-1]
    start = 14 + 40 + 1024
    head = struct.pack("<IHHI", start + len(body) + 2, 0, 0, start)
    height, width = indices.shape
    head += struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body) + 2, 0, 0, 256, 0)
    return b"BM" + head + palette.tobytes() + body + b"\0\1"


def heic() -> bytes:
    """A HEIC file; skips the test where the extra is not installed."""
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = BytesIO()
    pillow_heif.from_pillow(Image.fromarray(texture())).save(stream, quality=90)
    return stream.getvalue()


def black_png(width: int, height: int, *, rows_per_block: int = 60) -> bytes:
    """A valid black grey PNG of any size, without ever holding its pixels.

    One block of rows is compressed once and repeated; the checksum of n zero bytes is known.
    """
    assert height % rows_per_block == 0
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = squeeze.compress(bytes((width + 1) * rows_per_block)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    total = (width + 1) * height
    checksum = struct.pack(">I", (total % 65521) << 16 | 1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    last = b"\x03\x00"  # an empty final block
    stream = b"\x78\xda" + block * (height // rows_per_block) + last + checksum
    body = chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@dataclass(frozen=True)
class Directory:
    """A TIFF directory: tag -> values (unsigned, 32 bits), and directories nested in it."""

    tags: dict[int, tuple[int, ...]]
    inner: tuple[Directory, ...] = ()


def tiff(*pages: Directory, body: bytes = bytes(64)) -> bytes:
    """A little-endian TIFF of these pages; `body` begins at byte 8."""
    blob = bytearray(b"II*\x00\x00\x00\x00\x00" + body)
    link = 4
    for page in pages:
        start = _append_directory(blob, page)
        blob[link : link + 4] = struct.pack("<I", start)
        link = start + 2 + 12 * (len(page.tags) + bool(page.inner))
    return bytes(blob)


def _append_directory(blob: bytearray, page: Directory) -> int:
    tags = dict(page.tags)
    if page.inner:
        tags[330] = tuple(_append_directory(blob, each) for each in page.inner)
    entries = []
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            packed, place = struct.pack("<I", len(blob)), packed
            blob += place
        entries.append(struct.pack("<HHI", tag, 4, len(values)) + packed)
    start = len(blob)
    blob += struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return start


def grey_page(width: int = 8, height: int = 8, **changes: int) -> Directory:
    """A page of 8-bit grey samples that begin at byte 8; `changes` by name, e.g. ``t262=0``."""
    tags: dict[int, tuple[int, ...]] = {
        256: (width,),
        257: (height,),
        258: (8,),
        259: (1,),
        262: (1,),
        273: (8,),
        277: (1,),
        278: (height,),
        279: (width * height,),
    }
    return Directory({**tags, **{int(name[1:]): (value,) for name, value in changes.items()}})


def colour_tiff(
    samples: NDArray[Any], compression: int = 1, *, predictor: int = 1, rows: int = 16, **tags: int
) -> bytes:
    """A TIFF of (H, W, C) samples of 8 or 16 bits in strips of so many rows; `tags` by name."""
    height, width, channels = samples.shape
    if predictor == 2:
        samples = np.diff(samples, axis=1, prepend=np.zeros_like(samples[:, :1]))
    strips = [
        squeeze_strip(
            samples[top : top + rows].astype(samples.dtype.newbyteorder("<")), compression
        )
        for top in range(0, height, rows)
    ]
    starts = np.cumsum([8, *map(len, strips)])
    page = Directory(
        {
            256: (width,),
            257: (height,),
            258: (8 * samples.itemsize,) * channels,
            259: (compression,),
            262: (2,),
            273: tuple(starts[:-1].tolist()),
            277: (channels,),
            278: (rows,),
            279: tuple(map(len, strips)),
            317: (predictor,),
            **({338: (2,)} if channels == 4 else {}),
            **{int(name[1:]): (value,) for name, value in tags.items()},
        }
    )
    body = b"".join(strips)
    return tiff(page, body=body + bytes(len(body) % 2))


def squeeze_strip(strip: NDArray[Any], compression: int) -> bytes:
    """Compress a strip: 1 not at all, 5 LZW, 8 Deflate, 32773 PackBits, 34925 LZMA, 50000 ZSTD."""
    raw = strip.tobytes()
    if compression == 1:
        return raw
    if compression == 8:
        return zlib.compress(raw)
    name = {5: "tiff_lzw", 32773: "packbits", 34925: "lzma", 50000: "zstd"}[compression]
    # PackBits begins anew in each row; for the others the strip is one long row of the same bytes.
    size = (len(raw) // len(strip), len(strip)) if compression == 32773 else (len(raw), 1)
    data = encode(Image.frombytes("L", size, raw), "TIFF", compression=name)
    tags = Image.open(BytesIO(data)).tag_v2  # type: ignore[attr-defined]
    parts = zip(tags[273], tags[279], strict=True)
    return b"".join(data[start : start + length] for start, length in parts)


def raw_photos() -> dict[str, bytes]:
    """The beginnings by which camera raw files are recognised, name -> bytes."""
    sensor = grey_page(t262=32803)
    preview = grey_page(t254=1)
    return {
        "a.cr2": b"II*\x00\x10\x00\x00\x00CR\x02\x00" + bytes(64),
        "a.cr3": b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x01crx isom" + bytes(64),
        "a.raf": b"FUJIFILMCCD-RAW 0201" + bytes(64),
        "a.orf": b"IIRO\x08\x00\x00\x00" + bytes(64),
        "a.rw2": b"IIU\x00\x18\x00\x00\x00" + bytes(64),
        "a.x3f": b"FOVb" + bytes(64),
        # These borrow TIFF's structure; the names give nothing away on purpose.
        "nef": tiff(Directory(preview.tags, inner=(sensor,))),
        "pef": tiff(sensor),
        "srw": tiff(grey_page(), grey_page(t262=32803)),
        "dng": tiff(grey_page(t50706=0x00000401)),
        # And this is a plain TIFF by its bytes, but named as a raw file.
        "a.ARW": tiff(grey_page()),
    }


def headers_of_bombs() -> dict[str, bytes]:
    """Files of a few bytes that announce enormous pictures."""
    jpeg = bytearray(samples()["jpeg-grey"])
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    bmp = bytearray(samples()["bmp"])
    bmp[18:26] = struct.pack("<ii", 60000, 60000)
    gif = bytearray(samples()["gif"])
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    webp = bytearray(samples()["webp-animated"])
    webp[24:30] = b"\xfe\x3f\x00" * 2  # 16383 x 16383
    return {
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "gif": bytes(gif),
        "webp": bytes(webp),
        "tiff": tiff(grey_page(60000, 60000, t279=64, t259=8)),
        "tiff-tile": tiff(
            Directory(
                {
                    256: (8,),
                    257: (8,),
                    258: (8,),
                    259: (8,),
                    262: (1,),
                    277: (1,),
                    322: (60000,),
                    323: (60000,),
                    324: (8,),
                    325: (64,),
                }
            )
        ),
    }


def not_pictures() -> dict[str, tuple[bytes, str]]:
    """Files that are no photographs: name -> (bytes, what the message must say)."""
    return {
        "empty.jpg": (b"", "empty"),
        "document.jpg": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
        "drawing.jpg": (b'<?xml version="1.0"?>\n<svg xmlns="..."></svg>', "SVG"),
        "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        "notes.jpg": ("Grüße aus Köln\n".encode(), "text file"),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        "film.jpg": (b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp42" + bytes(99), "video"),
        "film.png": (b"RIFF\x00\x00\x00\x00AVI LIST" + bytes(99), "video"),
        "archive.jpg": (b"PK\x03\x04" + bytes(99), "ZIP"),
        "layers.jpg": (
            b"8BPS\x00\x01" + bytes(99),
            "Photoshop document, which imlctl",
        ),
        "photo.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), "JPEG 2000 picture, which imlctl"),
        "photo.jxl": (b"\xff\x0a" + bytes(99), "JPEG XL picture, which imlctl"),
        "photo.ppm": (b"P6\n8 8\n255\n" + bytes(192), "PNM picture, which imlctl"),
        "zeros.jpg": (bytes(5000), "zero bytes"),
        "noise.jpg": (random.Random(0).randbytes(5000), "no kind of picture"),
        "ones.jpg": (b"\xff" * 5000, "no kind of picture"),
        "cut-text.jpg": (b"x" * 4095 + "é".encode(), "text file"),
    }


def jpeg_segment(code: int, content: bytes) -> bytes:
    """A marker, the length, and the content."""
    return bytes([0xFF, code]) + struct.pack(">H", len(content) + 2) + content


def jumbf(kind: bytes) -> bytes:
    """Application data of a JPEG (APP11) with a JUMBF box whose description is of this type."""
    inner = struct.pack(">I", 35) + b"jumd" + kind + bytes.fromhex("00110010800000aa00389b71")
    inner += b"\x03c2pa\0".ljust(7, b"\0")
    box = struct.pack(">I", 8 + len(inner)) + b"jumb" + inner
    return jpeg_segment(0xEB, b"JP" + struct.pack(">HI", 1, 1) + box)


def whole_in_bug_threads() -> dict[str, bytes]:
    """Whole pictures at which other tools failed, all of the same grey pixels as the sample."""
    grey = samples()["jpeg-grey"]
    head, table, frame = grey[:2], grey.index(b"\xff\xdb"), grey.index(b"\xff\xc0")
    behind = frame + 2 + int.from_bytes(grey[frame + 2 : frame + 4], "big")
    c2pa, unknown = jumbf(b"c2pa"), jumbf(b"zzzz")
    xmp = jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0")
    return {
        "tables-behind-the-frame.jpg": grey[:table]
        + grey[frame:behind]
        + grey[table:frame]
        + grey[behind:],
        "empty-application-data.jpg": head + b"\xff\xe5\0\2" + grey[2:],
        "jumbf-behind-the-scan.jpg": grey[:-2] + c2pa + grey[-2:],
        "jumbf-of-unknown-type.jpg": head + unknown + grey[2:],
        "jumbf-behind-the-end.jpg": grey + c2pa,
        "xmp-header-alone.jpg": head + xmp + grey[2:],
        "named.heic": grey,
        "two-ends.jpg": grey + b"\xff\xd9",
        "Фото.jpg": grey,
        "照片 (1).jpg": grey,
    }


def broken_in_bug_threads() -> dict[str, tuple[bytes, str]]:
    """Files that other tools took for pictures: name -> (bytes, what the message must say)."""
    jpeg = samples()["jpeg"]
    table, frame = jpeg.index(b"\xff\xdb"), jpeg.index(b"\xff\xc0")
    no_table, no_slot = bytearray(jpeg), bytearray(jpeg)
    no_table[frame + 12] = 3  # the first component's table
    no_slot[table + 4] = 9
    scan = jpeg.index(b"\xff\xda")
    return {
        "table-never-defined.jpg": (bytes(no_table), "Quantization table 0x03 was not defined"),
        "table-in-no-slot.jpg": (bytes(no_slot), "cannot be decoded as JPEG"),
        "length-1.jpg": (jpeg[:2] + b"\xff\xe5\0\1" + jpeg[2:], "byte 2 has no length"),
        "length-0.jpg": (jpeg[:2] + b"\xff\xe5\0\0" + jpeg[2:], "byte 2 has no length"),
        "length-past-the-end.jpg": (jpeg[:2] + b"\xff\xe5\xff\xff" + jpeg[2:], "runs past the end"),
        "cut-in-half.jpg": (jpeg[: len(jpeg) // 2], "the file is truncated"),
        "cut-by-two.jpg": (jpeg[:-2], "no end marker"),
        "cut-and-ended.jpg": (jpeg[: scan + 400].rstrip(b"\xff") + b"\xff\xd9", "premature end"),
        "second-start.jpg": (jpeg[: scan + 400] + jpeg, "marker D8 in the picture data"),
    }


def plain_scenes() -> dict[str, NDArray[np.uint8]]:
    """Pictures with nothing in them: black, of one colour, a smooth sky with and without noise."""
    sky = np.linspace(120, 220, 256)[:, None, None] + np.array([0, 10, 25])
    sky = np.broadcast_to(sky, (256, 256, 3)).clip(0, 255).astype(np.uint8)
    noise = np.random.default_rng(0).integers(-1, 2, sky.shape)
    return {
        "black": np.zeros((256, 256, 3), np.uint8),
        "one colour": np.full((256, 256, 3), (30, 90, 200), np.uint8),
        "sky": sky,
        "sky with noise": (sky + noise).clip(0, 255).astype(np.uint8),
    }
