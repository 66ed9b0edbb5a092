"""Read the few EXIF fields that say where a picture comes from, whatever state they are in.

Every read is a slice, which cannot fail, and every loop has a bound: metadata made to annoy costs
its own fields and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

_MAKE, _MODEL, _SOFTWARE, _MODIFIED = 0x010F, 0x0110, 0x0131, 0x0132
_EXIF, _GPS, _THUMBNAIL = 0x8769, 0x8825, 0x0201  # offsets of what they are called
_TAKEN, _WIDTH, _HEIGHT, _LENS = 0x9003, 0xA002, 0xA003, 0xA434

_TEXT, _SHORT, _LONG, _DIRECTORY, _UTF8 = 2, 3, 4, 13, 129
_MAX_ENTRIES = 1000
_MAX_TEXT = 200  # characters kept of a field


@dataclass(frozen=True, slots=True)
class ExifSummary:
    """What EXIF claims; anybody can write it, and nothing in it is checked.

    Attributes:
        make: Maker of the camera.
        model: Camera.
        lens: Lens.
        software: Program that wrote the file, or the camera's firmware.
        taken: When the picture was taken, as written: usually ``2024:05:17 08:30:00``.
        modified: When the file was changed, as written.
        width: Of the picture by its EXIF, in pixels; differs after cropping by some programs.
        height: Likewise.
        gps: A position is given; it is not copied here.
        thumbnail: There is a thumbnail, which may show an earlier state.
    """

    make: str | None = None
    model: str | None = None
    lens: str | None = None
    software: str | None = None
    taken: str | None = None
    modified: str | None = None
    width: int | None = None
    height: int | None = None
    gps: bool = False
    thumbnail: bool = False


def summarise(tiff: Tiff) -> ExifSummary | None:
    """Return what EXIF says, or None where it says nothing of this."""
    first, following = tiff.directory(tiff.first)
    inner, _ = tiff.directory(tiff.number(first, _EXIF))
    position, _ = tiff.directory(tiff.number(first, _GPS))
    second, _ = tiff.directory(following)
    found = ExifSummary(
        make=tiff.text(first, _MAKE),
        model=tiff.text(first, _MODEL),
        lens=tiff.text(inner, _LENS),
        software=tiff.text(first, _SOFTWARE),
        taken=tiff.text(inner, _TAKEN),
        modified=tiff.text(first, _MODIFIED),
        width=tiff.number(inner, _WIDTH),
        height=tiff.number(inner, _HEIGHT),
        gps=any(tag != 0 for tag in position),  # tag 0 is the version alone
        thumbnail=_THUMBNAIL in second,
    )
    return None if found == ExifSummary() else found


@dataclass(frozen=True, slots=True)
class Tiff:
    """A classic TIFF structure, as EXIF has one: read by slices, so that nothing is out of bounds.

    Attributes:
        data: From its ``II*`` or ``MM*`` on.
    """

    data: bytes

    @property
    def first(self) -> int | None:
        """Offset of the first directory; None where this is no classic TIFF."""
        known = self.data[:4] in (b"II*\0", b"MM\0*")
        return self._integer(4, 4) if known else None

    def directory(self, at: int | None) -> tuple[dict[int, int], int | None]:
        """Return where the entry of each tag lies, and the offset of the next directory."""
        if not at or at + 2 > len(self.data):
            return {}, None
        count = min(self._integer(at, 2), _MAX_ENTRIES)
        end = at + 2 + 12 * count
        places = range(at + 2, min(end, len(self.data) - 11), 12)
        return {self._integer(place, 2): place for place in places}, self._integer(end, 4)

    def number(self, tags: dict[int, int], tag: int) -> int | None:
        """Return the first value of a tag that holds positive integers."""
        at = tags.get(tag)
        size = {_SHORT: 2, _LONG: 4, _DIRECTORY: 4}.get(self._integer(at + 2, 2), 0) if at else 0
        return self._integer(at + 8, size) or None if at and size else None

    def text(self, tags: dict[int, int], tag: int) -> str | None:
        """Return a tag's text on one line, cut to a length that a record can hold."""
        at = tags.get(tag)
        if not at or self._integer(at + 2, 2) not in (_TEXT, _UTF8):
            return None
        length = self._integer(at + 4, 4)
        start = at + 8 if length <= 4 else self._integer(at + 8, 4)
        raw = self.data[start : start + min(length, 4 * _MAX_TEXT)].split(b"\0")[0]
        line = "".join(c if c.isprintable() else " " for c in raw.decode("utf-8", "replace"))
        return " ".join(line.split())[:_MAX_TEXT] or None

    def _integer(self, at: int, size: int) -> int:
        raw = self.data[at : at + size]
        return int.from_bytes(raw, "little" if self.data[:2] == b"II" else "big")
