"""Files of a run: its log, and a checkpoint with all it needs to go on bit for bit."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imlctl import atomic
from imlctl.errors import WeightsError

Report = Callable[[dict[str, Any]], None]

SAVE_EVERY = 300.0  # seconds; a crash costs no more than these
_LENGTH = "optim.steps"  # the one key that a run may go on with another value of
_MODEL, _AVERAGE, _OPTIMIZER = "model.", "ema.", "optim."  # starts of names in a checkpoint

M = TypeVar("M", bound=nn.Module)


class Log:
    """One JSON line per event, in the file, if any, and to whoever watches."""

    def __init__(self, path: Path | None, report: Report | None) -> None:
        self.path, self.report = path, report

    def __call__(self, event: dict[str, Any]) -> None:
        """Write an event down."""
        if self.path is None:
            return
        if event["event"] != "regenerated":  # which is progress, not history
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": round(time.time(), 2), **event}) + "\n")
        if self.report:
            self.report(event)


def as_json(config: Any) -> dict[str, Any]:
    """Return a preset as JSON would give it back."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return values


class EMA(Generic[M]):
    """Shadow of a model, its running statistics included.

    Each step keeps a share `decay` in [0, 1) of the past; the first ones less, so that the random
    start is forgotten: min(decay, (1 + n) / (10 + n)).
    """

    def __init__(self, model: M, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the shadow towards the model."""
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        current = model.state_dict()
        for name, shadow in self.model.state_dict().items():
            if shadow.dtype.is_floating_point:
                shadow.lerp_(current[name], 1 - keep)
            else:
                shadow.copy_(current[name])


@dataclass(slots=True)
class TrainState(Generic[M]):
    """Moving parts of a run."""

    model: M
    optimizer: torch.optim.Optimizer
    ema: EMA[M]
    step: int = 0
    best: float = float("-inf")


def save_state(path: Path, state: TrainState[Any], config: dict[str, Any]) -> None:
    """Write a checkpoint; an interrupted write leaves the one before it."""
    tensors: dict[str, Tensor] = {}
    for prefix, part in ((_MODEL, state.model), (_AVERAGE, state.ema.model)):
        tensors |= {prefix + k: v.detach().contiguous() for k, v in part.state_dict().items()}
    for index, slots in state.optimizer.state_dict()["state"].items():
        start = f"{_OPTIMIZER}{index}."
        tensors |= {start + k: torch.as_tensor(v).contiguous() for k, v in slots.items()}
    numbers = {"step": state.step, "ema_steps": state.ema.steps, "best": state.best}
    with atomic.replacing(path, overwrite=True) as temporary:
        save_file(tensors, temporary, metadata={"state": json.dumps({**numbers, "config": config})})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())


def load_average(path: Path) -> dict[str, Tensor]:
    """Read the averaged weights of a checkpoint, by the names that they have in the model."""
    return starting_with(_AVERAGE, load_file(path))


def starting_with(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select tensors by the start of their names, and take it off."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def load_state(path: Path, state: TrainState[Any], config: dict[str, Any]) -> None:
    """Put a checkpoint's values into `state`; WeightsError if damaged or of other settings."""
    try:
        with safe_open(path, "pt") as file:
            numbers = json.loads(file.metadata()["state"])
        changed = _differences(numbers["config"], config)
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        what = f"is not a readable checkpoint ({error})"
        remedy = "Delete it to start over."
        raise WeightsError(what, source=str(path), remedy=remedy) from error
    if changed.get(_LENGTH, (0, 0))[1] > numbers["step"]:
        del changed[_LENGTH]
    if changed:
        told = (f"{key} was {old}, is {new}" for key, (old, new) in changed.items())
        what = f"is of a run with another configuration: {'; '.join(told)}"
        remedy = "Use another --out folder, or the configuration it was started with."
        raise WeightsError(what, source=str(path), remedy=remedy)
    state.model.load_state_dict(starting_with(_MODEL, tensors))
    state.ema.model.load_state_dict(starting_with(_AVERAGE, tensors))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in starting_with(_OPTIMIZER, tensors).items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = value
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": slots, "param_groups": groups})
    state.step, state.ema.steps, state.best = numbers["step"], numbers["ema_steps"], numbers["best"]


def _differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return each key of `new` whose value differs, named through its tables, with both values.

    A key that an older checkpoint lacks, and that is off, makes no difference.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(new):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = _differences(before, after)
            found |= {f"{key}.{name}": values for name, values in inner.items()}
        elif before != after and (key in old or after):
            found[key] = (before, after)
    return found
