"""Recognise a file by its first bytes; errors and limits that all formats share.

Only these kinds ever reach a decoder: renaming a file reaches no obscure parser of Pillow's, of
which the one for EPS starts ghostscript.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from imlctl.errors import DecodeError, TooLargeError

HEAD_BYTES = 4096  # enough to recognise every kind below
TO_CONVERT = "Convert it without loss to a TIFF or PNG of the same bit depth, and use that."
_DEVELOP = (
    "Develop it to a 16-bit TIFF or PNG at full size, without retouching, and use that; "
    "the preview inside it is not the evidence."
)
_OBTAIN = "Obtain the original file again; a damaged picture is not analysed."
# 16384 x 16384: beyond any phone (200 MP) or medium-format camera (150 MP), and a fraction of what
# a decompression bomb needs. Pillow itself stops at 179 MP for WebP.
DEFAULT_MAX_PIXELS = 2**28

_LEAST_SIDE = 64  # what a strip is widened to before it is analysed, see `prepare`
_HARMLESS = 2**22  # that many pixels fit anywhere

_RAW_SUFFIX = re.compile(
    r"\.(3fr|arw|cr2|cr3|crw|dcr|dng|erf|fff|iiq|kdc|mef|mos|mrw|nef|nrw|orf|pef|raf|raw|rw2|rwl"
    r"|sr2|srf|srw|x3f)$",
    re.IGNORECASE,
)
# What a file is by its first bytes, or by those from the ninth on.
_RAW = {
    b"FUJIFILMCCD-RAW": "RAF",
    **dict.fromkeys((b"IIRO", b"IIRS", b"MMOR"), "ORF"),
    b"IIU\x00": "RW2",
    b"FOVb": "X3F",
    b"\x00MRM": "MRW",
}
_RAW_AT_8 = {b"CR\x02": "CR2", b"IIII": "IIQ"}  # TIFF with a mark
_PICTURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    **dict.fromkeys((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"), "TIFF"),
    **dict.fromkeys((b"GIF87a", b"GIF89a"), "GIF"),
    b"BM": "BMP",
}
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_OTHER_PICTURES = {
    **dict.fromkeys((b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"), "a JPEG 2000 picture"),
    **dict.fromkeys((b"\x00\x00\x00\x0cJXL ", b"\xff\x0a"), "a JPEG XL picture"),
    b"II\xbc": "a JPEG XR picture",
    b"BPG\xfb": "a BPG picture",
    b"8BPS": "a Photoshop document",
    b"v/1\x01": "an OpenEXR picture",
    b"#?RADIANCE": "a Radiance picture",
    b"DDS ": "a DDS texture",
    b"qoif": "a QOI picture",
    b"\x00\x00\x01\x00": "an icon",
    b"SIMPLE  =": "a FITS file",
    b"AT&TFORM": "a DjVu document",
    **{b"P%d\n" % number: "a PNM picture" for number in range(1, 8)},
}
_OTHERS = {
    b"%PDF": "a PDF document",
    **dict.fromkeys((b"%!PS", b"\xc5\xd0\xd3\xc6"), "a PostScript document"),
    b"PK\x03\x04": "a ZIP archive or an office document",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    **dict.fromkeys((b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"), "an MPEG video"),
    b"FLV\x01": "a Flash video",
    **dict.fromkeys((b"ID3", b"OggS"), "a sound recording"),
}
_OTHERS_AT_8 = {b"AVI ": "an AVI video", b"WAVE": "a sound recording"}
_ANALYSED = "Supported formats: JPEG, PNG, WebP, TIFF, BMP, GIF, MPO, HEIC and AVIF."


def identify(data: bytes, *, name: str = "") -> str:
    """Return what a file is by its first `HEAD_BYTES`: JPEG, PNG, WEBP, TIFF, BMP, GIF, HEIF, AVIF.

    Of its name only the suffix is looked at, and only to tell a camera's raw file from the TIFF
    whose structure it borrows. DecodeError for an empty file, a raw one, or no photograph.
    """
    if not data:
        raise DecodeError("the file is empty", remedy="Get the original again.")
    if raw_kind := _starting(data, _RAW) or _starting(data, _RAW_AT_8, 8):
        raise raw_error(raw_kind)
    if data[4:8] == b"ftyp":
        return _identify_boxes(data)
    if kind := _starting(data, _PICTURES) or _starting(data, {b"WEBP": "WEBP"}, 8):
        if kind == "TIFF" and (suffix := _RAW_SUFFIX.search(name)):
            raise raw_error(suffix[1].upper())
        return kind
    other = "a DICOM file" if data.startswith(b"DICM", 128) else _starting(data, _OTHER_PICTURES)
    if other:
        raise not_read(other, TO_CONVERT)
    raise DecodeError(f"{_describe(data)}, not a photograph", remedy=_ANALYSED)


def _starting(data: bytes, kinds: dict[bytes, str], at: int = 0) -> str:
    return next((kind for magic, kind in kinds.items() if data.startswith(magic, at)), "")


def raw_error(kind: str) -> DecodeError:
    """Build the refusal of a camera's raw file, e.g. ``NEF``."""
    but = "which holds sensor readings and not yet a picture"
    return DecodeError(f"this is a camera's raw file ({kind}), {but}", remedy=_DEVELOP)


def _identify_boxes(data: bytes) -> str:
    """Tell HEIF, AVIF, raw and video apart by the brands of the leading ``ftyp`` box."""
    box = data[: min(int.from_bytes(data[:4], "big"), HEAD_BYTES)]
    major = data[8:12]
    brands = {major, *(box[at : at + 4] for at in range(16, len(box) - 3, 4))}
    if major == b"crx ":
        raise raw_error("CR3")
    # A container brand in front says nothing about the codec; the other brands do.
    generic = major in {b"mif1", b"msf1"}
    if major in _AVIF_BRANDS or (generic and brands & _AVIF_BRANDS):
        return "AVIF"
    if brands & _HEIF_BRANDS:
        return "HEIF"
    raise DecodeError("this is a video, not a photograph", remedy="Export single frames as PNG.")


def _describe(data: bytes) -> str:
    if what := _starting(data, _OTHERS) or _starting(data, _OTHERS_AT_8, 8):
        return f"this is {what}"
    head = data[:HEAD_BYTES]
    if not head.strip(b"\x00"):
        return "the file starts with nothing but zero bytes"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml", b"<!--")) and b"<svg" in start:
        return "this is an SVG drawing"
    if start.startswith((b"<!doctype html", b"<html")):
        return "this is a web page"
    text = head.decode("utf-8", "replace").removesuffix("\ufffd")  # a character cut at the end
    plain = all(c in "\t\r\n\f\x1b" or (c >= " " and c != "\ufffd") for c in text)
    return "this is a text file" if plain else "this is no kind of picture known here"


@dataclass(frozen=True, slots=True)
class FileLayout:
    """Structure of a file, beyond what its decoder reports."""

    end: int  # offset just past the (first) picture
    trailing: int = 0  # bytes after everything that belongs to the format
    frames: int | None = None  # None where the decoder is the one to ask
    size: tuple[int, int] | None = None  # width, height; None where the decoder tells in time
    bits: int = 8  # of a sample as stored
    signed: bool = False
    white_is_zero: bool = False  # samples count down from white
    tile: tuple[int, int] = (1, 1)  # of a TIFF, width and height; a decoder allocates it whole
    kind: str = ""  # of a TIFF: its samples, for a message
    profile: bool = False  # of a PNG: it has a colour profile
    notes: tuple[str, ...] = ()  # for the record


def truncated(what: str) -> DecodeError:
    """Build the error for a file that ends too early."""
    return DecodeError(f"the file is truncated: {what}", remedy=_OBTAIN)


def damaged(what: str) -> DecodeError:
    """Build the error for a file whose content contradicts itself."""
    return DecodeError(f"the file is damaged: {what}", remedy=_OBTAIN)


def not_read(what: str, remedy: str) -> DecodeError:
    """Build the error for a file that may be whole, of a kind that is not read."""
    return DecodeError(f"this is {what}, which imlctl does not read", remedy=remedy)


def check_pieces(count: int, data: bytes) -> None:
    """Refuse a file of very many tiny parts, on which decoders spend hours."""
    if count > 50_000 + len(data) // 1024:
        raise damaged(f"it consists of more than {count - 1} pieces")


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture by the size in its header, before anything is decoded: TooLargeError.

    A strip one pixel high counts as 64, since it is padded for a model.
    """
    widened = max(width, _LEAST_SIDE) * max(height, _LEAST_SIDE)
    if width * height > max_pixels or widened > max(max_pixels, _HARMLESS):
        what = f"the picture is {width} x {height}, more than the limit of {max_pixels} pixels"
        what += "" if width * height > max_pixels else f", once no side is under {_LEAST_SIDE}"
        raise TooLargeError(what, remedy="Raise the pixel limit if that is its true size.")
