"""Gather what a file says about itself and its origin: no verdict, since anybody can write it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from imlctl.image import jpeg, metadata
from imlctl.image.jpeg_facts import JpegFacts, jpeg_facts
from imlctl.image.metadata import Embedded, ExifSummary

if TYPE_CHECKING:
    from imlctl.image.decode import Photo

_MAX_NOTES = 20  # a file made to annoy cannot flood the record
_LEAST_SIDE = 96  # pixels; a smaller picture holds less than the network looks at for one decision
_LEAST_QUALITY = 50  # of libjpeg; below it little but the compression is left
_WEAK = 96  # quality of libjpeg from which a JPEG may show the grid of an earlier compression
_LOSSLESS = ("PNG", "TIFF", "BMP")
_FLAT = 2  # levels of 255 that a picture of one colour may differ by
_MAX_THUMBNAIL = 2**22  # pixels
_OTHER_SCENE = 0.1  # of the range: thumbnails of the same scene differ by 0.01 to 0.04
DARK = 24  # of 255: bars that fill a thumbnail of another aspect
_GENERATOR_KEYS = ("claim_generator_info", "claim_generator")  # of C2PA
_DATE = re.compile(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d")
_EDITORS = re.compile(
    r"photoshop|lightroom|gimp|affinity|snapseed|pixelmator|picsart|canva|capture one|luminar"
    r"|facetune|meitu|faceapp|paint\.net|krita|darktable|rawtherapee|imagemagick|photoscape"
    r"|paintshop|coreldraw|topaz|polarr|vsco|fotor|pixlr|acdsee|dxo|photopea|remini|beautyplus",
    re.IGNORECASE,
)
_GENERATORS = re.compile(
    r"midjourney|dall[·-]e|stable.?diffusion|comfyui|novelai|adobe firefly|ideogram|leonardo\.ai"
    r"|flux\.1|invokeai|automatic1111|made with google ai|google imagen|openai|xai grok"
    r"|negative prompt|cfg scale|\"class_type\"",
    re.IGNORECASE,
)
_CARRIERS = {  # what services leave behind
    "FBMD": "Facebook or Instagram",
    "gd-jpeg": "a web server's re-compression (gd-jpeg)",
    "Lavc": "a frame taken from a video (Lavc)",
    **{name: name for name in ("Instagram", "WhatsApp", "Snapchat", "Telegram", "TikTok")},
}


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """The small picture in the EXIF metadata, which may show an earlier state."""

    bytes: int
    width: int  # in pixels
    height: int
    same_aspect: bool  # as the picture, dark bars beside it left aside
    difference: float | None  # mean of brightness from the picture at that size, 0 to 1


@dataclass(frozen=True, slots=True)
class Provenance:
    """Traces of a file's history. Absent ones prove nothing, and present ones can be forged."""

    bytes: int
    pixels_sha256: str  # of the decoded samples, whatever the metadata
    jpeg: JpegFacts | None = None
    exif: ExifSummary | None = None
    c2pa: bool = False  # a manifest store (content credentials) is embedded, not verified
    c2pa_generator: str | None = None  # program that made it, by its own word
    thumbnail: Thumbnail | None = None
    flags: tuple[str, ...] = ()  # phrases on what does not fit together or tells of editing
    # Columns and rows by which the 8 x 8 grid of a JPEG compression is shifted in the pixels.
    grid: tuple[int, int] | None = None
    compressions: str = "not decidable"  # or ``once`` or ``twice``, and perhaps more often


@dataclass(frozen=True, slots=True)
class FormatFacts:
    """Facts about a picture from its file, for the record."""

    format: str  # of Pillow's names, such as ``JPEG`` or ``MPO``; also ``HEIF`` and ``pixels``
    width: int  # in pixels, as stored and not turned
    height: int
    mode: str  # as stored, in Pillow's words: ``RGB``, ``CMYK``, ``P``, ``I;16``, ...
    bit_depth: int  # of a sample, as stored
    orientation: int = 1  # by EXIF, 1 to 8; 1 when absent or invalid
    frames: int = 1  # pictures in the file; one is analysed
    icc_profile: bool = False  # embedded, never applied
    alpha: bool = False  # there is transparency; it is ignored
    notes: tuple[str, ...] = ()  # sentences without a full stop on what is out of the ordinary
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        # Repeated warnings say nothing new.
        object.__setattr__(self, "notes", tuple(dict.fromkeys(self.notes))[:_MAX_NOTES])


def provenance(data: bytes, kind: str, pixels: NDArray[Any]) -> tuple[Provenance, bytes]:
    """Return the traces in a file, of a kind by `identify`, and its EXIF thumbnail, empty if none.

    Whatever the file says, it cannot fail.
    """
    embedded = metadata.find_embedded(data, kind)
    exif = metadata.summarise(embedded.exif) if embedded.exif else None
    thumbnail = embedded.exif.thumbnail() if embedded.exif else b""
    compared = compare_thumbnail(thumbnail, pixels) if thumbnail else None
    named = (metadata.c2pa_text(embedded.c2pa, key) for key in _GENERATOR_KEYS)
    generator = next(filter(None, named), None)
    last = jpeg_facts(data) if kind == "JPEG" else None
    grid, compressions = _compressions(kind, last, pixels)
    traces = Provenance(
        bytes=len(data),
        pixels_sha256=pixels_sha256(pixels),
        jpeg=last,
        exif=exif,
        c2pa=bool(embedded.c2pa),
        c2pa_generator=generator,
        thumbnail=compared,
        flags=_flags(embedded, exif or ExifSummary(), compared, generator, pixels.shape[1::-1]),
        grid=grid,
        compressions=compressions,
    )
    return traces, thumbnail


def _compressions(
    kind: str, last: JpegFacts | None, pixels: NDArray[Any]
) -> tuple[tuple[int, int] | None, str]:
    """Return where the grid of a JPEG compression lies, and how often there surely was one."""
    if last is None:
        grid = jpeg.jpeg_grid(pixels) if kind in _LOSSLESS else None
        return grid, "once" if grid else "not decidable"
    grid = (jpeg.jpeg_grid(pixels) if (last.quality or 0) >= _WEAK else None) or (0, 0)
    return grid, "twice" if any(grid) else "not decidable"


def _flags(
    embedded: Embedded,
    exif: ExifSummary,
    thumbnail: Thumbnail | None,
    generator: str | None,
    size: tuple[int, ...],
) -> tuple[str, ...]:
    """Return what does not fit together, and what tells of programs and services."""
    flags = []
    packet = embedded.xmp[: metadata.MAX_BODY].decode("utf-8", "replace")
    xmp = partial(metadata.xmp_values, packet)
    if exif.width and exif.height and sorted((exif.width, exif.height)) != sorted(size):
        given = f"{exif.width} x {exif.height}"
        flags.append(f"EXIF gives {given} pixels, the picture has {size[0]} x {size[1]}")
    dates = exif.taken or "", exif.modified or ""
    if all(map(_DATE.match, dates)) and dates[1] < dates[0]:
        flags.append(f"modified ({dates[1]}) before it was taken ({dates[0]}), by its EXIF")
    if thumbnail and not thumbnail.same_aspect:
        flags.append("the embedded thumbnail has other proportions than the picture")
    if thumbnail and (thumbnail.difference or 0) > _OTHER_SCENE:
        flags.append("the embedded thumbnail looks unlike the picture")
    agents = [*dict.fromkeys(xmp("stEvt:softwareAgent"))][:10]  # of the editing history
    programs = [exif.software, *xmp("CreatorTool")[:1], *agents]
    flags += [f"an editor is named: {name}" for name in programs if _EDITORS.search(name or "")]
    if steps := xmp("stEvt:action")[:50]:
        flags.append(f"XMP lists editing steps ({len(steps)}): {', '.join(steps[:8])}")
    if re.search("DocumentAncestors|stRef:documentID|DerivedFrom", packet):
        flags.append("XMP names documents that it was made from")
    if embedded.photoshop:
        flags.append("it holds Photoshop resources (APP13), which other programs write as well")
    texts = [exif.software or "", packet, *embedded.texts, embedded.photoshop.decode("latin-1")]
    everything = "\n".join([*texts, embedded.exif.comment() if embedded.exif else ""])
    flags += [f"a mark of {who}" for mark, who in _CARRIERS.items() if mark in everything]
    claimed = metadata.c2pa_text(embedded.c2pa, "digitalSourceType") or ""
    claims = (*xmp("[Dd]igitalSourceType")[:1], claimed)
    sources = filter(None, (claim.rstrip("/").rpartition("/")[2] for claim in claims))
    flags += [f"its digital source type is {source}" for source in sources][:1]
    if made := _GENERATORS.search(everything + "\n" + (generator or "")):
        flags.append(f"a generator of pictures is named: {made[0]}")
    if embedded.c2pa:
        flags.append(f"a C2PA manifest by {generator or 'an unnamed program'}, not verified")
    return tuple(dict.fromkeys(flag[:300] for flag in flags))[:_MAX_NOTES]


def compare_thumbnail(thumbnail: bytes, pixels: NDArray[Any]) -> Thumbnail | None:
    """Hold a thumbnail, encoded as JPEG, against the picture (H, W, 3) that it belongs to."""
    decoded = decode_thumbnail(thumbnail)
    if decoded is None:
        return None
    small = np.asarray(Image.fromarray(decoded).convert("L"), np.float32)
    (height, width), (tall, wide) = small.shape, pixels.shape[:2]
    within = small[picture_within(small.shape, pixels.shape)]
    same = max(width - within.shape[1], height - within.shape[0]) <= 2
    if not same and small.sum() - within.sum() <= DARK * (small.size - within.size):
        same, small = True, within
    step = max(1, min(tall // height, wide // width) // 4)
    grey = Image.fromarray(eight_bit(pixels[::step, ::step])).convert("L")
    shrunk = grey.resize(small.shape[::-1], Image.Resampling.BOX)
    difference = float(np.abs(np.asarray(shrunk, np.float32) - small).mean() / 255)
    return Thumbnail(len(thumbnail), width, height, same, round(difference, 4))


def decode_thumbnail(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a JPEG to (H, W, 3); None if it is empty, damaged or no thumbnail's size."""
    try:
        image = JpegImagePlugin.JpegImageFile(BytesIO(data))
        if image.width * image.height > _MAX_THUMBNAIL:
            return None
        return np.asarray(image.convert("RGB"))
    except Exception:  # decoders meet damaged files with nearly every exception that Python has
        return None


def picture_within(small: tuple[int, ...], pixels: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the middle of a thumbnail that has its picture's proportions, by their shapes."""
    scale = min(small[1] / pixels[1], small[0] / pixels[0])
    height, width = (max(1, round(side * scale)) for side in pixels[:2])
    top, left = (small[0] - height) // 2, (small[1] - width) // 2
    return slice(top, top + height), slice(left, left + width)


def eight_bit(pixels: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.uint8]:
    """Return uint8 samples as they are, and the high bytes of uint16 ones."""
    return (pixels if pixels.dtype == np.uint8 else pixels >> 8).astype(np.uint8, copy=False)


def pixels_sha256(pixels: NDArray[Any]) -> str:
    """Hash samples (H, W, 3) row by row: red green blue, 16-bit ones little-endian."""
    little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little).data).hexdigest()


def cautions(photo: Photo) -> tuple[str, ...]:
    """Return why a picture is unlike those that a model was trained on, as phrases; mostly none."""
    facts, found = photo.facts, []
    if min(facts.width, facts.height) < _LEAST_SIDE:
        found.append(f"too small to judge: {facts.width} x {facts.height} pixels")
    last = facts.provenance.jpeg if facts.provenance else None
    if last is not None and last.quality is not None and last.quality < _LEAST_QUALITY:
        found.append(f"strongly compressed: JPEG quality {last.quality}")
    if facts.mode in ("P", "PA"):
        found.append("a palette of at most 256 colours, not a photograph's own")
    elif facts.bit_depth == 1:
        found.append("black and white without greys")
    flat = _FLAT * (np.iinfo(photo.pixels.dtype).max // 255)
    # Most photographs are told from a few of their pixels.
    parts = (photo.pixels[::32, ::32], photo.pixels)
    if all((part.max((0, 1)).astype(int) - part.min((0, 1))).max() <= flat for part in parts):
        found.append("a single colour throughout")
    return tuple(found)
