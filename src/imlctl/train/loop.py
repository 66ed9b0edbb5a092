"""The training loop: numbered samples in, averaged weights out, resumable at every checkpoint."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imlctl.errors import ConfigError, ImlctlError
from imlctl.train import distributed
from imlctl.train.batches import batches
from imlctl.train.checkpoint import (
    EMA,
    SAVE_EVERY,
    Log,
    Report,
    TrainState,
    as_json,
    load_state,
    save_state,
)
from imlctl.train.distributed import Process
from imlctl.train.material import decisive, load_material, require_sources
from imlctl.train.objective import clues_of, make_objective, train_mode
from imlctl.train.validate import finish, validate
from imlctl.weights.load import Card, save

if TYPE_CHECKING:
    from imlctl.core.model import Model
    from imlctl.forge.synthesizer import Maker
    from imlctl.train.batches import Batch
    from imlctl.train.config import OptimConfig, TrainConfig
    from imlctl.train.material import Material
    from imlctl.train.objective import Latents, Masks

_LOG_EVERY = 20  # steps
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def fresh_state(
    objective: Masks | Latents, config: TrainConfig, device: torch.device
) -> TrainState[Model]:
    """Make the model, what moves it, and its average, as before the first step."""
    torch.manual_seed(config.optim.seed)
    model = objective.build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    distributed.share_batch_norm(model)
    optimizer = make_optimizer(model, config.optim, objective.rates)
    return TrainState(model, optimizer, EMA(model, config.optim.ema))


def make_optimizer(
    model: nn.Module, optim: OptimConfig, rates: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices and filters, not on norms, biases and the WKV's decays.

    `rates` are factors on the learning rate of parameters whose names start so; others have 1.
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


class Learner(nn.Module):
    """The loss as a module: what DistributedDataParallel wraps, whatever parts the loss calls."""

    def __init__(self, state: TrainState[Model], objective: Masks | Latents) -> None:
        super().__init__()
        self.model, self.objective = state.model, objective

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and terms of a batch."""
        return self.objective.loss(self.model, batch, step)


class Stopwatch:
    """Shares of the time that the parts of steps take.

    What a GPU still owes shows where its result is first asked for, backward's in ``update``.
    """

    def __init__(self) -> None:
        self.spent = dict.fromkeys(("waiting", "forward", "backward", "update"), 0.0)
        self.since = time.perf_counter()

    def lap(self, part: str) -> None:
        """Book the time since the last lap on a part."""
        now = time.perf_counter()
        self.spent[part] += now - self.since
        self.since = now

    def shares(self) -> dict[str, float]:
        """Return each part's share of all time booked so far."""
        whole = sum(self.spent.values())
        return {part: round(spent / whole, 3) for part, spent in self.spent.items()}


def take_step(
    state: TrainState[Any],
    learner: nn.Module,
    optim: OptimConfig,
    parts: Iterable[Batch],
    watch: Stopwatch,
    process: Process = Process(),  # noqa: B008  # frozen
    maker: Maker | None = None,
) -> dict[str, float]:
    """Move the weights once, by this process's `optim.accumulate` parts of the batch.

    A `maker` of the samples names the pictures of a batch that went wrong. The learner returns loss
    and terms of a batch and a step, as `Learner`, also in a DistributedDataParallel.

    Returns:
        The loss, its terms, and the norm of the gradient before it was clipped.

    Raises:
        ImlctlError: The loss or the gradient is not finite; nothing has moved.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = rate_at(state.step, optim) * group["factor"]
    state.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    first = process.rank * optim.batch // process.world
    for number, part in enumerate(parts):
        watch.lap("waiting")
        image = part.image.contiguous(memory_format=torch.channels_last)
        last = number == optim.accumulate - 1
        gradients_stay = isinstance(learner, DistributedDataParallel) and not last
        batch = replace(part, image=image, first=first, total=optim.batch)
        with learner.no_sync() if gradients_stay else nullcontext():  # type: ignore[operator]
            loss, terms = learner(batch, state.step)
            if not torch.isfinite(loss):
                raise _not_finite("loss", state.step, optim, maker)
            watch.lap("forward")
            (loss / optim.accumulate).backward()
            watch.lap("backward")
        first += len(part)
        for name, value in {"loss": loss.detach(), **terms}.items():
            sums[name] = sums.get(name, 0) + value / optim.accumulate
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), optim.clip)
    if not torch.isfinite(norm):
        raise _not_finite("gradient", state.step, optim, maker)
    state.optimizer.step()
    state.step += 1
    state.ema.update(state.model)
    found = {k: round(v.item(), 5) for k, v in {**sums, "norm": norm}.items()}
    watch.lap("update")
    return found


def _not_finite(what: str, step: int, optim: OptimConfig, maker: Maker | None) -> ImlctlError:
    """Name the pictures of the batch: making its samples again tells which they were."""
    samples = ""
    if maker is not None:
        first, last = step * optim.batch, (step + 1) * optim.batch - 1
        made = map(maker, range(first, last + 1))
        names = dict.fromkeys(name for sample in made for name in sample.sources)
        samples = f" (samples {first} to {last}, made of {', '.join(names)})"
    return ImlctlError(
        f"the {what} is not finite at step {step}{samples}",
        remedy="Lower optim.rate; the last checkpoint is from before this step.",
    )


def train(
    config: TrainConfig,
    out: Path,
    *,
    device: torch.device,
    report: Report | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Train a model, or go on where `out` stopped.

    Writes into `out`: ``log.jsonl``, ``last.safetensors`` (the whole state, every few minutes),
    ``best.safetensors`` (the averaged weights that validated best, with a rule calibrated on the
    held-out photographs once the run ends; ready for `imlctl localize --weights`). Under torchrun
    the processes divide each batch, and the first of them writes.

    Args:
        config: The preset. A run may go on with more `optim.steps` than it began with.
        out: Folder of the run, made when missing.
        device: Where to compute; under torchrun, the kind of device.
        report: Called with each log line.
        stop: Asked after each step whether to save and return.

    Returns:
        Path of the best weights; None if it was stopped.

    Raises:
        ImlctlError: The loss is not finite, the memory does not suffice, or the configuration or a
            checkpoint is wrong.
    """
    require_sources(config)
    out.mkdir(parents=True, exist_ok=True)
    with distributed.processes(device) as (process, where):
        log = Log(out / "log.jsonl" if process.first else None, report)
        distributed.micro_batch(config.optim, process)  # refuses before anything is read
        with distributed.first_alone(process):
            material = load_material(config, log)
        ended = _all_steps(config, out, where, process, material, log, stop)
        if ended and process.first:
            finish(out, material, config, where, log)
        distributed.barrier()
    return out / "best.safetensors" if ended else None


def _all_steps(
    config: TrainConfig,
    out: Path,
    device: torch.device,
    process: Process,
    material: Material,
    log: Log,
    stop: Callable[[], bool],
) -> bool:
    """Take the steps that remain; return whether all of them were taken."""
    optim = config.optim
    objective = make_objective(config)
    state = fresh_state(objective, config, device)
    run = Run(state, optim, out / "last.safetensors", decisive(config, material.digest), log)
    distributed.barrier()  # nobody writes before all have read
    source = batches(
        material.training,
        start=state.step * optim.batch,
        stop=optim.steps * optim.batch,
        batch=optim.batch,
        workers=config.data.workers,
        device=device,
        parts=optim.accumulate,
        process=process,
        clues=clues_of(state.model),
    )
    learner = distributed.averaging(Learner(state, objective))

    def advance(watch: Stopwatch) -> dict[str, float]:
        parts = itertools.islice(source, optim.accumulate)
        try:
            return take_step(state, learner, optim, parts, watch, process, material.training)
        except RuntimeError as error:  # torch's for a full GPU is one as well
            raise _explained(error, optim, process) from error

    def judge() -> None:
        model = state.ema.model
        scores = validate(model, material.judge, config.validation, device, material.real_judge)
        log({"event": "validation", "step": state.step, **scores})
        if scores["objective"] >= state.best:  # of equals, the one that learned longer
            state.best = scores["objective"]
            made = {"steps": state.step, "validation": scores, "preset": as_json(config)}
            card = Card(objective.architecture, model.config.to_dict(), training=made)
            save(out / "best.safetensors", model, card)

    every = config.validation.every
    return run(
        advance, judge, every, lambda: distributed.any_process(stop(), device), process.first
    )


class Run:
    """All steps of a run, from its checkpoint on if there is one; raises as `load_state` does.

    `decides` is what of the configuration a checkpoint must agree with.
    """

    def __init__(
        self,
        state: TrainState[Any],
        optim: OptimConfig,
        last: Path,
        decides: dict[str, Any],
        log: Log,
    ) -> None:
        self.state, self.optim, self.last, self.decides, self.log = state, optim, last, decides, log
        if last.exists():
            load_state(last, state, decides)
            self._tell("resumed")

    def __call__(
        self,
        advance: Callable[[Stopwatch], dict[str, float]],
        judge: Callable[[], None],
        every: int,
        stop: Callable[[], bool],
        first: bool = True,
    ) -> bool:
        """Advance step by step, and judge after so many; return whether all steps were taken.

        Of several processes the first one judges and saves.
        """
        state, optim = self.state, self.optim
        train_mode(state.model)
        saved = begun = time.monotonic()
        watch, started = Stopwatch(), state.step
        while state.step < optim.steps:
            terms = advance(watch)
            ended = state.step == optim.steps
            if state.step % _LOG_EVERY == 0 or ended:
                speed = (state.step - started) / (time.monotonic() - begun)
                pace = {
                    "per_second": round(speed * optim.batch, 2),
                    "eta": round((optim.steps - state.step) / speed),
                }
                self._tell("step", **terms, **watch.shares(), **pace)
            stopping = stop() and not ended
            judging = state.step % every == 0 or ended
            if first and judging:
                judge()
            if first and (judging or stopping or time.monotonic() - saved > SAVE_EVERY):
                save_state(self.last, state, self.decides)
                saved = time.monotonic()
            if stopping:
                self._tell("stopped")
                return False
            if judging:
                distributed.barrier()
                train_mode(state.model)
                begun, watch, started = time.monotonic(), Stopwatch(), state.step
        return True

    def _tell(self, event: str, **values: float) -> None:
        self.log({"event": event, "step": self.state.step, "of": self.optim.steps, **values})


def _explained(error: RuntimeError, optim: OptimConfig, process: Process) -> Exception:
    """The error itself, or what to lower where memory ran out."""
    full = isinstance(error, torch.OutOfMemoryError)
    if not full and not any(sign in str(error).lower() for sign in _NO_MEMORY):
        return error
    count = distributed.micro_batch(optim, process)
    return ConfigError(
        f"out of memory with {count} samples of {optim.size}x{optim.size}"
        f" at once (optim.batch {optim.batch}, optim.accumulate {optim.accumulate})",
        source="optim",
        remedy=f"Raise optim.accumulate to {2 * optim.accumulate}, which costs time instead of"
        " memory, or lower optim.batch or optim.size; with another --out, for the result differs.",
    )
