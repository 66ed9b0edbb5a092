"""The modules of this folder, which is no package, and weights that are small."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"imlctl_tests_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def target() -> Any:
    """The module `target.py`: what must hold of any bytes."""
    return _module("target")


@pytest.fixture(scope="session")
def corpus() -> Any:
    """The module `corpus.py`: bad files by kind."""
    return _module("corpus")


@pytest.fixture
def lay_out(tmp_path: Path) -> Callable[[str, dict[str, bytes]], Path]:
    """Write files into a folder of this name."""

    def call(name: str, files: dict[str, bytes]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for each, data in files.items():
            (folder / each).write_bytes(data)
        return folder

    return call
