"""Pickled weights made into safetensors: the only place where a pickle is opened.

A process of its own, ``python -P -m imlctl.weights.convert SOURCE TARGET PART``, without the user's
tokens in its environment, reads with torch's ``weights_only``, which runs no code of the file. It
prints one JSON object: what it wrote, or ``error``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from imlctl import atomic
from imlctl.errors import WeightsError
from imlctl.weights.files import unreadable, weights_hash

_PATIENCE = 600  # seconds; reading tensors takes a few, so this one hangs


class Converted(NamedTuple):
    """Result of a conversion."""

    sha256: str  # of the safetensors file
    tensors: int  # how many it holds
    left_out: tuple[str, ...]  # names in the pickle that stand for something else


def convert(source: Path, target: Path, *, part: str = "", overwrite: bool = False) -> Converted:
    """Write the tensors of a pickle, or one `part` of a checkpoint with several, as safetensors.

    Raises:
        WeightsError: The pickle cannot be read, or holds more or less than tensors.
        OutputError: The target cannot be written.
    """
    if target.suffix != ".safetensors":
        what, remedy = "must end in .safetensors", "Choose another name."
        raise WeightsError(what, source=str(target), remedy=remedy)
    try:
        with atomic.regular_file(source):
            pass  # it is read by another process
    except OSError as error:
        raise unreadable(error, str(source)) from error
    with tempfile.TemporaryDirectory(prefix="imlctl-convert-") as folder:
        partial = Path(folder) / "converted.safetensors"
        report = _run(source, partial, part)
        if "error" in report:
            remedy = "Nothing was written. Only tensors by name, as torch.save writes a state, can"
            remedy += " be converted."
            raise WeightsError(report["error"], source=str(source), remedy=remedy)
        atomic.write(target, partial.read_bytes(), overwrite=overwrite)
    return Converted(weights_hash(target), report["tensors"], tuple(report["left_out"]))


def _run(source: Path, target: Path, part: str) -> dict[str, Any]:
    """Let a process of its own do it; whatever it does, only its report comes back."""
    # -P: a module of the current folder must not pass for one that is installed.
    command = [sys.executable, "-P", "-m", "imlctl.weights.convert"]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [*command, str(source.absolute()), str(target), part],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            env={key: value for key, value in os.environ.items() if "TOKEN" not in key.upper()},
            check=False,
        )
        return dict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return {"error": f"could not be read in {_PATIENCE} seconds"}
    except ValueError:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
        return {"error": f"ended the process that read it (status {done.returncode}: {last[0]})"}


class ContentError(Exception):
    """The pickle was read, and does not hold what can be written."""


def unpickle(source: str, target: str, part: str) -> dict[str, Any]:
    """Read a pickle and write its tensors; arguments as for `convert`.

    Returns the number of ``tensors``, and the names ``left_out``, which hold no tensors.
    """
    import torch
    from safetensors.torch import save_file

    # What every byte of the file stands for is decided here, not by the file.
    content = torch.load(source, map_location="cpu", weights_only=True)
    if isinstance(content, torch.Tensor):
        content = {"tensor": content}
    if not isinstance(content, Mapping):
        raise ContentError(f"holds a {type(content).__name__}, not tensors by name")
    found = dict(_flat(_choose(content, part)))
    tensors = {k: v for k, v in found.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise ContentError("holds no tensors")
    for name, value in tensors.items():
        if value.layout is not torch.strided or value.is_quantized:
            what = f"in a layout that safetensors does not support ({value.layout})"
            raise ContentError(f"holds {name!r} {what}")
        tensors[name] = value.detach().clone().contiguous()  # safetensors shares no memory
    save_file(tensors, target, metadata={"format": "pt"})
    return {"tensors": len(tensors), "left_out": sorted(found.keys() - tensors.keys())}


def _choose(content: Mapping[Any, Any], part: str) -> Mapping[Any, Any]:
    """Return the set of tensors that is meant; checkpoints keep it beside other things."""
    from torch import Tensor

    def has_tensors(value: Any) -> bool:
        return isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())

    sets: dict[str, Mapping[Any, Any]] = {
        str(key): value for key, value in content.items() if has_tensors(value)
    }
    listed = ", ".join(map(repr, sorted(sets))) or "none"
    if part and part not in sets:
        raise ContentError(f"has no set of tensors {part!r}; it has {listed}")
    if part:
        return sets[part]
    if has_tensors(content) or not sets:
        return content
    if len(sets) > 1:
        raise ContentError(f"holds several sets of tensors: {listed}; choose with --part")
    return next(iter(sets.values()))


def _flat(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def main() -> None:
    """Convert as the command line says, and print what became of it."""
    try:
        result = unpickle(*sys.argv[1:4])
    except ContentError as error:
        result = {"error": str(error)}
    except Exception as error:  # a hostile file may raise anything
        result = {"error": f"cannot be read as tensors ({type(error).__name__}: {error})"}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
