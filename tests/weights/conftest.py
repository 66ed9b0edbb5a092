"""A local Hub with a client that asks it, and small weights."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.weights.load import Card, save

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = Path(__file__).parents[1] / "hub_server.py"


@pytest.fixture(scope="session")
def hub_server() -> Any:
    """The module `tests/hub_server.py`."""
    name = "imlctl_tests_hub_server"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SERVER)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def hub(hub_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Hub, and this process's client sent to it; cache and registry lie in `tmp_path`."""
    with hub_server.serve() as hub, hub_server.client_of(hub, tmp_path, monkeypatch):
        yield hub


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the registry and the cache of whoever runs it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def small_model() -> EfficientIML:
    torch.manual_seed(0)
    model = EfficientIML(
        EfficientIMLConfig(EfficientRWKVConfig(dims=(16, 16, 32), depths=(1, 1, 1)), width=16)
    )
    for _ in range(3):  # norms with statistics of their own
        model(torch.rand(2, 3, 64, 64))
    return model.eval()


@pytest.fixture
def model_file(small_model: EfficientIML, tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save(path, small_model, Card("efficient-iml", small_model.config.to_dict(), threshold=0.4))
    return path
