"""What of a PNG its decoder gets: everything but the colour profile.

A profile does not touch a sample here, and Pillow refuses a whole picture for one of more than a
megabyte, as scanners write them.
"""

from __future__ import annotations


def without_profile(data: bytes) -> bytes:
    """Return a PNG, which `walk_png` found whole, without its colour profile."""
    parts, kept, position = [], 0, 8
    while (kind := data[position + 4 : position + 8]) != b"IEND":
        stop = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if kind == b"iCCP":
            parts.append(data[kept:position])
            kept = stop
        position = stop
    return b"".join([*parts, data[kept:]]) if parts else data
