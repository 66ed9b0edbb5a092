"""Running the command line in this process, as a user would run it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from imlctl.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Ran:
    code: int
    out: str
    err: str
    raw: bytes


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    def call(*arguments: object) -> Ran:
        capfdbinary.readouterr()
        words = list(map(str, arguments))
        if words[:1] == ["localize"] and not {"--jobs", "--ray"} & set(words):
            words[1:1] = ["--jobs", "0"]  # a process with a model of its own takes seconds
        monkeypatch.setattr(sys, "argv", ["imlctl", *words])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfdbinary.readouterr()
        return Ran(code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), out)

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two photographs, one of them in a folder of its own."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(3)
    for name in ("a.jpg", "deep/b.png"):
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(folder / name)
    return folder
