from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

MAKERS = Path(__file__).parents[1] / "hostile" / "makers.py"


@pytest.fixture(scope="session")
def makers() -> Any:
    """The module `tests/hostile/makers.py`, which makes pictures and bad files by code."""
    name = "imlctl_tests_makers"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, MAKERS)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
