from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from imlctl.errors import OutputError, WeightsError
from imlctl.train.checkpoint import EMA, TrainState, load_state, save_state

if TYPE_CHECKING:
    from pathlib import Path

CONFIG: dict[str, Any] = {"optim": {"rate": 0.1}, "data": {"photos": ["a"]}}


def fresh(seed: int) -> TrainState[Any]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups = [{"params": [p], "weight_decay": 0.1 * i} for i, p in enumerate(model.parameters())]
    return TrainState(model, torch.optim.AdamW(groups, lr=0.1), EMA(model, 0.9))


def walk(state: TrainState[Any], first: int, last: int) -> None:
    for step in range(first, last):
        g = torch.Generator().manual_seed(step)
        loss = state.model(torch.randn(4, 2, 6, 6, generator=g)).square().mean()
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.step += 1
        state.ema.update(state.model)


def tensors(state: TrainState[Any]) -> dict[str, torch.Tensor]:
    found = {f"model.{k}": v for k, v in state.model.state_dict().items()}
    found |= {f"ema.{k}": v for k, v in state.ema.model.state_dict().items()}
    for i, slots in state.optimizer.state_dict()["state"].items():
        found |= {f"optim.{i}.{k}": v for k, v in slots.items()}
    return found


def assert_same(a: TrainState[Any], b: TrainState[Any]) -> None:
    first, second = tensors(a), tensors(b)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    assert (a.step, a.ema.steps, a.best) == (b.step, b.ema.steps, b.best)


def test_round_trip_and_going_on(tmp_path: Path) -> None:
    whole = fresh(0)
    walk(whole, 0, 3)
    whole.best = 0.75
    save_state(tmp_path / "last.safetensors", whole, CONFIG)
    read = fresh(1)
    load_state(tmp_path / "last.safetensors", read, CONFIG)
    assert_same(read, whole)
    walk(whole, 3, 6)
    walk(read, 3, 6)
    assert_same(read, whole)


def test_before_the_first_score(tmp_path: Path) -> None:
    save_state(tmp_path / "last.safetensors", fresh(0), CONFIG)
    read = fresh(1)
    read.best = 3.0
    load_state(tmp_path / "last.safetensors", read, CONFIG)
    assert read.best == float("-inf")
    assert read.step == 0


def test_leaves_no_other_file(tmp_path: Path) -> None:
    for _ in range(2):
        save_state(tmp_path / "last.safetensors", fresh(0), CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def test_an_interrupted_write_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.safetensors"
    save_state(path, fresh(0), CONFIG)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imlctl.train.checkpoint.os.fsync", full)
    with pytest.raises(OutputError, match=r"last\.safetensors"):
        save_state(path, fresh(1), CONFIG)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign", "bare"])
def test_refuses_what_is_no_checkpoint(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "last.safetensors"
    save_state(path, fresh(0), CONFIG)
    if damage == "foreign":
        save_file({"a": torch.zeros(1)}, path)
    elif damage == "bare":
        save_file({"a": torch.zeros(1)}, path, metadata={"state": "{}"})
    else:
        data = path.read_bytes()
        path.write_bytes({"truncated": data[:-50], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(WeightsError, match=r"last.safetensors: is not a readable checkpoint"):
        load_state(path, fresh(1), CONFIG)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"optim": {"rate": 0.2, "steps": 9}}, "optim.rate was 0.1, is 0.2"),
        ({"model": 3, "new": 1}, "model was None, is 3; new was None, is 1"),
        ({"optim": {"rate": 0.1, "steps": 3}}, "optim.steps was 9, is 3"),
    ],
)
def test_another_configuration_is_refused_by_its_keys(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    config = {"optim": {"rate": 0.1, "steps": 9}}
    state = fresh(0)
    state.step = 5
    save_state(tmp_path / "last.safetensors", state, config)
    with pytest.raises(WeightsError, match=f"another configuration: {named}"):
        load_state(tmp_path / "last.safetensors", fresh(1), config | change)


def test_what_an_older_checkpoint_lacks_may_be_off(tmp_path: Path) -> None:
    path, state = tmp_path / "last.safetensors", fresh(0)
    state.step = 5
    save_state(path, state, {"optim": {"rate": 0.1}, "loss": 0.5})
    load_state(path, fresh(1), {"optim": {"rate": 0.1, "new": 0.0}, "loss": 0.5, "also": False})
    with pytest.raises(WeightsError, match=r"optim\.new was None, is 0\.1"):
        load_state(path, fresh(1), {"optim": {"rate": 0.1, "new": 0.1}, "loss": 0.5})
    with pytest.raises(WeightsError, match=r"loss was 0\.5, is 0\.0"):  # it has been on
        load_state(path, fresh(1), {"optim": {"rate": 0.1}, "loss": 0.0})


def test_a_run_may_go_on_for_longer(tmp_path: Path) -> None:
    path, state = tmp_path / "last.safetensors", fresh(0)
    for step, now in ((5, 9), (9, 20), (12, 15)):
        if step > 5:
            load_state(path, state, {"optim": {"steps": now}})
        state.step = step
        save_state(path, state, {"optim": {"steps": now}})
    again = fresh(1)
    load_state(path, again, {"optim": {"steps": 15}})
    assert again.step == 12


def constant(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for x in model.state_dict().values():
            x.fill_(value)
    return model


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_closed_form(decay: float) -> None:
    ema = EMA(constant(0), decay)
    expected = 0.0
    for n in range(1, 40):
        ema.update(constant(n))
        keep = min(decay, (1 + n) / (10 + n))
        expected = keep * expected + (1 - keep) * n
        for shadow in ema.model.state_dict().values():
            value = expected if shadow.is_floating_point() else float(n)
            torch.testing.assert_close(shadow.double(), torch.full_like(shadow.double(), value))
    assert ema.steps == 39


def test_forgets_a_random_start_quickly() -> None:
    ema = EMA(constant(100), 0.999)
    for _ in range(60):
        ema.update(constant(1))
    assert float(ema.model.get_parameter("0.weight")[0, 0]) < 1.01


def test_is_apart_from_the_model_and_ready_to_judge() -> None:
    model = constant(1)
    ema = EMA(model, 0.5)
    with torch.no_grad():
        model.get_parameter("0.weight").fill_(7)
    assert float(ema.model.get_parameter("0.weight")[0, 0]) == 1
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
