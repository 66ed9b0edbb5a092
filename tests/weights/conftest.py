"""Small weights, and a registry of nobody's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.mask.decide import Rule
from imlctl.weights.load import Card, save
from imlctl.weights.registry import to_toml, user_registry_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the registry and the cache of whoever runs it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def add_entry() -> Callable[[Any], None]:
    """Write an entry into the user's registry, as a person does."""

    def add(entry: Any) -> None:
        path = user_registry_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" + to_toml(f"[weights.{entry.name}]", entry.to_dict()))

    return add


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
    save(
        path, small_model, Card("efficient-iml", small_model.config.to_dict(), Rule(threshold=0.4))
    )
    return path
