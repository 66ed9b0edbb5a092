"""The process that opens a pickle, for `convert`; it has nothing to lose.

Run as ``python -P -m imlctl.weights.unpickle SOURCE TARGET PART``. It reads with torch's
``weights_only``, which builds tensors and plain containers and runs no code of the file, writes
safetensors, and prints one JSON object: what it wrote, or ``error``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


class ContentError(Exception):
    """The pickle was read, and does not hold what can be written."""


def convert(source: str, target: str, part: str) -> dict[str, Any]:
    """Read the pickle `source` and write its tensors to `target`.

    Args:
        source: A file that ``torch.save`` wrote.
        target: A safetensors file; what is there is replaced.
        part: Which of several sets of tensors; empty if there is one.

    Returns:
        Number of ``tensors``, and the names ``left_out``, which are no tensors.

    Raises:
        ContentError: There are no tensors, or several sets of them; says so.
    """
    # What every byte of the file stands for is decided here, not by the file.
    content = torch.load(source, map_location="cpu", weights_only=True)
    chosen = _choose(content, part)
    found = dict(_flat(chosen))
    tensors = {key: _plain(key, value) for key, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ContentError("holds no tensors")
    save_file(tensors, target, metadata={"format": "pt"})
    return {"tensors": len(tensors), "left_out": sorted(found.keys() - tensors.keys())}


def _choose(content: Any, part: str) -> Any:
    """Return the set of tensors that is meant; checkpoints keep it beside other things."""
    if isinstance(content, Tensor):
        return {"tensor": content}
    if not isinstance(content, Mapping):
        raise ContentError(f"holds a {type(content).__name__}, not tensors by name")
    sets = {
        str(key): value
        for key, value in content.items()
        if isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())
    }
    if part:
        if part not in sets:
            raise ContentError(f"has no set of tensors {part!r}; it has {_listed(sets)}")
        return sets[part]
    if any(isinstance(value, Tensor) for value in content.values()) or not sets:
        return content
    if len(sets) > 1:
        raise ContentError(f"holds several sets of tensors: {_listed(sets)}; choose with --part")
    return next(iter(sets.values()))


def _listed(sets: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, sorted(sets))) or "none"


def _flat(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(name: str, value: Tensor) -> Tensor:
    """Return a dense tensor with memory of its own: safetensors shares none."""
    if value.layout is not torch.strided or value.is_quantized:
        raise ContentError(f"holds {name!r} in a form that safetensors has not ({value.layout})")
    return value.detach().clone().contiguous()


def main() -> None:
    """Convert as the command line says, and print what became of it."""
    try:
        result = convert(*sys.argv[1:4])
    except ContentError as error:
        result = {"error": str(error)}
    except Exception as error:  # a hostile file may raise anything
        result = {"error": f"cannot be read as tensors ({type(error).__name__}: {error})"}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
