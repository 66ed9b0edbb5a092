"""Files of weights as bytes: their hash, and the header of safetensors; needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from imlctl.atomic import sha256_of
from imlctl.errors import WeightsError

KEY = "imlctl"  # of our document in the metadata of a file
MAX_HEADER = 100_000_000  # bytes, the limit of the format

GET_AGAIN = "Get the file again."
# What else is found under the name of weights, by its first bytes, and what to do.
_OTHERS = {
    b"PK\x03\x04": (
        "is a pickle in a zip archive, whatever its name says, so it is refused",
        "Convert it with imlctl weights convert.",
    ),
    b"\x80": ("is a pickle, whatever its name says, so it is refused", GET_AGAIN),
    b"version https://git-lfs": ("is a Git LFS pointer, not the file itself", GET_AGAIN),
    b"<": ("is a page of text, not weights", GET_AGAIN),
}


def weights_hash(path: Path, name: str = "") -> str:
    """Return the sha256 of a file of weights; raises WeightsError if it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise unreadable(error, name or str(path)) from error


def unreadable(error: OSError, name: str) -> WeightsError:
    """Say why a file of weights cannot be read."""
    remedy = "Check the path and that you may read it. A file of the Hub is named"
    remedy += " hf://owner/repo/FILE."
    return WeightsError(f"cannot be read ({error.strerror})", source=name, remedy=remedy)


def mismatch(name: str, path: Path, found: str, expected: str, remedy: str) -> WeightsError:
    """Say that a file is not the one that was expected, with both hashes."""
    remedy = f"It was not used and nothing was deleted; the file is {path}. {remedy}"
    return WeightsError(f"has sha256 {found}, expected {expected}", source=name, remedy=remedy)


def read_header(data: bytes, name: str) -> dict[str, Any]:
    """Return the header of a safetensors file: tensors by name, and ``__metadata__``.

    It is JSON, and its length stands in the first 8 bytes; raises WeightsError if it is damaged.
    """
    size = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = {}
    whole, why = 8 + size, ""
    if len(data) < 8:
        why = f"it ends after {len(data)} bytes"
    elif size > MAX_HEADER:
        for start, (what, remedy) in _OTHERS.items():
            if data.startswith(start):
                raise WeightsError(what, source=name, remedy=remedy)
        why = f"it announces a header of {size} bytes, and the format allows {MAX_HEADER}"
    elif whole <= len(data):
        try:
            header = json.loads(data[8:whole])
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
            whole += max(ends, default=0)
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            why = f"no valid header ({error})"
    if why:
        why = f" or not safetensors: {why}"
    elif whole > len(data):
        why = f": it is truncated to {len(data)} of at least {whole} bytes"
    if why:
        raise WeightsError(f"is damaged{why}", source=name, remedy=GET_AGAIN)
    return header


def read_document(data: bytes, name: str) -> dict[str, Any] | None:
    """Return what a file says of itself, None of another's; WeightsError if it is damaged."""
    metadata = read_header(data, name).get("__metadata__", {})
    try:
        text = metadata.get(KEY)
        return None if text is None else dict(json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise foreign(error, name) from error


def foreign(error: Exception, name: str) -> WeightsError:
    """Say that metadata are of another version."""
    return WeightsError(f"has metadata that this version cannot read ({error})", source=name)
