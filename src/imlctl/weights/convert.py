"""Pickled weights made into safetensors: the only place where a pickle is opened.

It is opened by a process of its own, without the user's tokens in its environment, that builds
tensors and runs no code of the file (see `unpickle`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imlctl import atomic
from imlctl.errors import WeightsError
from imlctl.weights.files import sha256_of

_PATIENCE = 600  # seconds; reading tensors takes a few, so this one hangs


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of a pickle.

    Attributes:
        path: The safetensors file.
        source_sha256: Of the pickle.
        sha256: Of the safetensors file.
        tensors: How many it holds.
        left_out: Names in the pickle that stand for something else.
    """

    path: Path
    source_sha256: str
    sha256: str
    tensors: int
    left_out: tuple[str, ...]


def convert(source: Path, target: Path, *, part: str = "", overwrite: bool = False) -> Converted:
    """Write the tensors of a pickle as safetensors.

    Args:
        source: A file that ``torch.save`` wrote.
        target: Where to write; ends in ``.safetensors``.
        part: Which set of tensors of a checkpoint that holds several.
        overwrite: Replace what has the target's name.

    Raises:
        WeightsError: The pickle cannot be read, or holds more or less than tensors.
        OutputError: The target cannot be written.
    """
    if target.suffix != ".safetensors":
        raise WeightsError(
            "does not end in .safetensors, which it will be",
            source=str(target),
            remedy="Give it that ending.",
        )
    before = sha256_of(source)
    with tempfile.TemporaryDirectory(prefix="imlctl-convert-") as folder:
        partial = Path(folder) / "converted.safetensors"
        report = _run(source, partial, part)
        if "error" in report:
            raise WeightsError(
                report["error"],
                source=str(source),
                remedy="Nothing was written. Only tensors by name, as torch.save writes a state, "
                "can be converted.",
            )
        atomic.write(target, partial.read_bytes(), overwrite=overwrite)
    return Converted(
        target, before, sha256_of(target), report["tensors"], tuple(report["left_out"])
    )


def _run(source: Path, target: Path, part: str) -> dict[str, Any]:
    """Let a process of its own do it; whatever it does, only its report comes back."""
    # -P: a module of the current folder must not pass for one that is installed.
    command = [sys.executable, "-P", "-m", "imlctl.weights.unpickle"]
    environment = {key: value for key, value in os.environ.items() if "TOKEN" not in key.upper()}
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [*command, str(source.absolute()), str(target), part],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            env=environment,
            check=False,
        )
        report = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"error": f"could not be read in {_PATIENCE} seconds"}
    except ValueError:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
        return {"error": f"ended the process that read it (status {done.returncode}: {last[0]})"}
    return dict(report)
