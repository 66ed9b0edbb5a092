"""The training loop: numbered samples in, averaged weights out, resumable at every checkpoint."""

from __future__ import annotations

import json
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imlctl.errors import ImlctlError
from imlctl.train.checkpoint import State, load_state, save_state
from imlctl.train.distributed import (
    Place,
    barrier,
    first_alone,
    joined,
    micro_batch,
    part_of_batch,
    processes,
    share_batch_norm,
)
from imlctl.train.ema import EMA
from imlctl.train.finish import finish
from imlctl.train.logs import Log, Report
from imlctl.train.objective import make_objective
from imlctl.train.samples import batches
from imlctl.train.splits import decisive, load_material, load_split
from imlctl.train.validate import validate
from imlctl.weights.load import Card, save

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from imlctl.train.config import OptimConfig, TrainConfig
    from imlctl.train.objective import Objective
    from imlctl.train.reals import Maker
    from imlctl.train.splits import Material

__all__ = ["load_split", "make_optimizer", "rate_at", "train"]

_LEAST_SCALE = 2.0**-10  # of a float16 loss: below, no scale can help


def train(
    config: TrainConfig, out: Path, *, device: torch.device, report: Report | None = None
) -> Path:
    """Train a model, or go on where `out` stopped.

    Writes into `out`: ``log.jsonl``, ``last.safetensors`` (the whole state), ``best.safetensors``
    (the averaged weights that validated best, with a threshold calibrated on the held-out
    photographs once the run ends; ready for `imlctl localize --weights`), ``curves.png``, and
    ``evaluation.json`` if the preset asks for one. Under torchrun the processes divide each batch,
    and the first of them writes.

    Args:
        config: The preset.
        out: Folder of the run, made when missing.
        device: Where to compute; under torchrun, the kind of device.
        report: Called with each log line.

    Returns:
        Path of the best weights.

    Raises:
        ImlctlError: The loss is not finite; the configuration or a checkpoint is wrong.
    """
    out.mkdir(parents=True, exist_ok=True)
    with processes(device) as (place, where):
        log = Log(out / "log.jsonl" if place.first else None, report)
        micro_batch(config.optim, place)  # refuses before anything is read
        with first_alone(place):
            material = load_material(config, log)
        run = _Run(config, out, where, place, log, material)
        run.all_steps()
        if place.first:
            finish(out, material.held, config.evaluation, where, log)
        barrier()
    return out / "best.safetensors"


@dataclass(slots=True)
class _Run:
    """One run, from its start or checkpoint to its last step."""

    config: TrainConfig
    out: Path
    device: torch.device
    place: Place
    log: Log
    material: Material

    def all_steps(self) -> None:
        config, material, last = self.config, self.material, self.out / "last.safetensors"
        settings = json.loads(json.dumps(asdict(config), default=str))
        decides = decisive(config, material.digest)
        objective = make_objective(config)
        state = _start(objective, config, self.device)
        if last.exists():
            load_state(last, state, decides)
            self.log({"event": "resumed", "step": state.step})
        barrier()  # nobody writes before all have read
        for _ in _steps(state, objective, config, self):
            if self.place.first:
                scores = validate(
                    state.ema.model,
                    material.judge,
                    config.validation,
                    self.device,
                    material.real_judge,
                )
                self.log({"event": "validation", "step": state.step, **scores})
                if scores["objective"] >= state.best:  # of equals, the one that learned longer
                    state.best = scores["objective"]
                    made = {"steps": state.step, "validation": scores, "preset": settings}
                    card = Card(objective.architecture, state.model.config.to_dict(), training=made)
                    save(self.out / "best.safetensors", state.ema.model, card)
                save_state(last, state, decides)
            barrier()


def _start(objective: Objective, config: TrainConfig, device: torch.device) -> State:
    torch.manual_seed(config.optim.seed)
    model = objective.build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    share_batch_norm(model)
    optimizer = make_optimizer(model, config.optim, objective.rates)
    scaler = None
    if config.optim.precision == "float16":
        scaler = torch.amp.GradScaler(device.type)
    return State(model, optimizer, EMA(model, config.optim.ema), scaler=scaler)


def make_optimizer(
    model: nn.Module, optim: OptimConfig, rates: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices and filters, not on norms, biases and the WKV's decays.

    Args:
        model: Parameters that need no gradient are left out.
        optim: Rates and decay.
        rates: Factors on the learning rate of parameters whose names start so; others have 1.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = optim.weight_decay if parameter.ndim >= 2 and name.endswith(".weight") else 0.0
        factor = next((f for start, f in (rates or {}).items() if name.startswith(start)), 1.0)
        groups.setdefault((decay, factor), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "factor": factor}
            for (decay, factor), parameters in sorted(groups.items(), reverse=True)
        ],
        lr=optim.rate,
        betas=(0.9, 0.99),
    )


def rate_at(step: int, optim: OptimConfig) -> float:
    """Learning rate of a step: linear warm-up, then a cosine to zero."""
    if step < optim.warmup:
        return optim.rate * (step + 1) / optim.warmup
    done = (step - optim.warmup) / max(1, optim.steps - optim.warmup)
    return optim.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class _Learner(nn.Module):
    """The loss as a module: what DistributedDataParallel wraps, whatever parts the loss calls."""

    def __init__(self, state: State, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = state.model, objective

    def forward(self, image: Tensor, mask: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective.loss(self.model, image, mask, step)


def _steps(state: State, objective: Objective, config: TrainConfig, run: _Run) -> Iterator[int]:
    """Take all remaining steps; stop over at each that is due for validation."""
    optim, place = config.optim, run.place
    source = batches(
        run.material.training,
        start=state.step * optim.batch,
        stop=optim.steps * optim.batch,
        batch=optim.batch,
        workers=config.data.workers,
        micro=micro_batch(optim, place),
        rank=place.rank,
        world=place.world,
    )
    learner: nn.Module = _Learner(state, objective)
    if joined():
        learner = DistributedDataParallel(learner, broadcast_buffers=False)
    objective.train_mode(state.model)
    clock, seen = time.monotonic(), 0
    while state.step < optim.steps:
        parts = [next(source) for _ in range(optim.accumulate)]
        terms = _step(state, learner, optim, parts, run)
        seen += optim.batch
        if state.step % 20 == 0 or state.step == optim.steps:
            speed = seen / (time.monotonic() - clock)
            left = (optim.steps - state.step) * optim.batch / speed
            progress = {"per_second": round(speed, 2), "eta": round(left)}
            steps = {"step": state.step, "of": optim.steps}
            run.log({"event": "step", **steps, **terms, **progress})
        if state.step % config.validation.every == 0 or state.step == optim.steps:
            yield state.step
            objective.train_mode(state.model)
            clock, seen = time.monotonic(), 0


def _step(
    state: State,
    learner: nn.Module,
    optim: OptimConfig,
    parts: list[tuple[Tensor, Tensor]],
    run: _Run,
) -> dict[str, float]:
    for group in state.optimizer.param_groups:
        group["lr"] = rate_at(state.step, optim) * group["factor"]
    state.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    first = run.place.rank * optim.batch // run.place.world
    for number, (image, mask) in enumerate(parts):
        image = image.to(run.device, non_blocking=True)
        image = image.contiguous(memory_format=torch.channels_last)
        last = number == len(parts) - 1
        gradients_stay = isinstance(learner, DistributedDataParallel) and not last
        with (
            part_of_batch(first, optim.batch),
            learner.no_sync() if gradients_stay else nullcontext(),  # type: ignore[operator]
        ):
            loss, terms = learner(image, mask.to(run.device, non_blocking=True), state.step)
            if not torch.isfinite(loss):
                raise _not_finite("loss", state, optim, run.material.training)
            scaled = loss / len(parts)
            (state.scaler.scale(scaled) if state.scaler else scaled).backward()
        first += len(image)
        for name, value in {"loss": loss.detach(), **terms}.items():
            sums[name] = sums.get(name, 0) + value / len(parts)
    norm = _update(state, optim, run.material.training)
    state.step += 1
    state.ema.update(state.model)
    return {k: round(v.item(), 5) for k, v in {**sums, "norm": norm}.items()}


def _update(state: State, optim: OptimConfig, maker: Maker) -> Tensor:
    """Clip the gradient and step; float16 skips a step whose scale was too high, and lowers it."""
    scaler = state.scaler
    if scaler:
        scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), optim.clip)
    if not scaler:
        if not torch.isfinite(norm):
            raise _not_finite("gradient", state, optim, maker)
        state.optimizer.step()
        return norm
    scaler.step(state.optimizer)
    scaler.update()
    if scaler.get_scale() < _LEAST_SCALE:
        raise _not_finite("gradient", state, optim, maker)
    return torch.nan_to_num(norm, posinf=0.0)


def _not_finite(what: str, state: State, optim: OptimConfig, maker: Maker) -> ImlctlError:
    """Name the pictures of the batch: making its samples again tells which they were."""
    first = state.step * optim.batch
    made = [maker(index) for index in range(first, first + optim.batch)]
    names = dict.fromkeys(name for sample in made for name in sample.sources)
    return ImlctlError(
        f"the {what} is not finite at step {state.step}"
        f" (samples {first} to {first + optim.batch - 1}, made of {', '.join(names)})",
        remedy="Lower optim.rate; the last checkpoint is from before this step.",
    )
