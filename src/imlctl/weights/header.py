"""The header of a safetensors file, read with a clear word on what is wrong with a damaged one."""

from __future__ import annotations

import json
from typing import Any

from imlctl.errors import WeightsError

MAX_HEADER = 100_000_000  # bytes, the limit of the format
_GET_AGAIN = "Get the file again."
# What else is found under the name of weights, by its first bytes.
_OTHERS = (
    (b"PK\x03\x04", "is a pickle in a zip archive, whatever its name says, so it is refused"),
    (b"\x80", "is a pickle, whatever its name says, so it is refused"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file that it stands for"),
    (b"<", "is a page of text, not weights"),
)
_REMEDIES = {b"PK\x03\x04": "Convert it with imlctl weights convert.", b"<": _GET_AGAIN}


def read_header(data: bytes, name: str) -> dict[str, Any]:
    """Return the header of a safetensors file: tensors by name, and ``__metadata__``.

    Args:
        data: The whole file. The header is JSON, and its length stands in the first 8 bytes.
        name: For messages.

    Raises:
        WeightsError: The file is empty, truncated, or no safetensors; says which.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8:
        raise _damaged(f"is damaged or not safetensors: it ends after {len(data)} bytes", name)
    if size > MAX_HEADER:
        for start, what in _OTHERS:
            if data.startswith(start):
                raise WeightsError(what, source=name, remedy=_REMEDIES.get(start, _GET_AGAIN))
        raise _damaged(
            "is damaged or not safetensors: it announces a header of "
            f"{size} bytes, and the format allows {MAX_HEADER}",
            name,
        )
    if size > len(data) - 8:
        raise _truncated(len(data), 8 + size, name)
    try:
        header = json.loads(data[8 : 8 + size])
        ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        whole = 8 + size + max(ends, default=0)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError) as error:
        raise _damaged(f"is damaged or not safetensors: no valid header ({error})", name) from error
    if whole > len(data):
        raise _truncated(len(data), whole, name)
    return dict(header)


def _damaged(what: str, name: str) -> WeightsError:
    return WeightsError(what, source=name, remedy=_GET_AGAIN)


def _truncated(here: int, whole: int, name: str) -> WeightsError:
    return _damaged(f"is damaged: it is truncated to {here} of at least {whole} bytes", name)
