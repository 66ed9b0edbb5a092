"""The training loop: numbered samples in, averaged weights out, resumable at every checkpoint."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imlctl.errors import ConfigError, ImlctlError
from imlctl.train import distributed
from imlctl.train.batches import Batch, batches
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
from imlctl.train.material import Material, decisive, load_material, require_sources
from imlctl.train.objective import Objective, clues_of, make_objective, train_mode
from imlctl.train.validate import finish, validate
from imlctl.weights.load import Card, save

if TYPE_CHECKING:
    from imlctl.forge.synthesizer import Maker
    from imlctl.train.config import OptimConfig, TrainConfig

_LOG_EVERY = 20  # steps
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def fresh_state(objective: Objective, optim: OptimConfig, device: torch.device) -> TrainState[Any]:
    """Make the model, what moves it, and its average, as before the first step."""
    torch.manual_seed(optim.seed)
    model = objective.build().to(device, memory_format=torch.channels_last)
    distributed.share_batch_norm(model)
    return TrainState(model, make_optimizer(model, optim, objective.rates), EMA(model, optim.ema))


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

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

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
    first: int = 0,
    maker: Maker | None = None,
) -> dict[str, float]:
    """Move the weights once, by the `optim.accumulate` parts of the batch from picture `first` on.

    A `maker` of the samples names the pictures of a batch that went wrong. The learner is one like
    `Learner`, also in a DistributedDataParallel. Returned are the loss, its terms, and the norm of
    the gradient before it was clipped. ImlctlError where that or the loss is not finite; nothing
    has moved then.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = rate_at(state.step, optim) * group["factor"]
    state.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
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
        numbers = range(step * optim.batch, (step + 1) * optim.batch)
        names = dict.fromkeys(name for sample in map(maker, numbers) for name in sample.sources)
        samples = f" (samples {numbers[0]} to {numbers[-1]}, made of {', '.join(names)})"
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

    Writes into `out`: ``log.jsonl``, whose lines `report` is told too; ``last.safetensors`` (the
    whole state, every few minutes), from which a run may go on with more `optim.steps` than it
    began with; ``best.safetensors`` (the averaged weights that validated best, with a rule
    calibrated on the held-out photographs once the run ends; ready for `imlctl localize
    --weights`), whose path is returned. None if `stop`, asked after each step, said so.

    Under torchrun the processes divide each batch, the first of them writes, and `device` is the
    kind of device.

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
    process: distributed.Process,
    material: Material,
    log: Log,
    stop: Callable[[], bool],
) -> bool:
    """Take the steps that remain; return whether all of them were taken."""
    optim = config.optim
    objective = make_objective(config)
    state = fresh_state(objective, optim, device)
    decides = decisive(config, material.digest)
    run = TrainingRun(state, optim, out, decides, log, samples=optim.batch)
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
    learner = distributed.averaging(Learner(state.model, objective))
    first = process.rank * optim.batch // process.world

    def advance(watch: Stopwatch) -> dict[str, float]:
        parts = itertools.islice(source, optim.accumulate)
        try:
            return take_step(state, learner, optim, parts, watch, first, material.training)
        except RuntimeError as error:  # torch's for a full GPU is one as well
            raise _explained(error, optim, process) from error

    def judge() -> None:
        model = state.ema.model
        scores = validate(model, material.judge, config.validation, device, material.real_judge)
        made = {"preset": as_json(config)}
        card = Card(objective.architecture, model.config.to_dict(), training=made)
        run.keep_best("validation", scores, scores["objective"], card)

    def stopping() -> bool:
        return distributed.any_process(stop(), device)

    return run(advance, judge, config.validation.every, stopping, process.first)


@dataclass
class TrainingRun:
    """All steps of a run in `out`, from its checkpoint on if there is one; raises as `load_state`.

    `decides` is what of the configuration a checkpoint must agree with.
    """

    state: TrainState[Any]
    optim: OptimConfig
    out: Path
    decides: dict[str, Any]
    log: Log
    samples: int  # of a step, whose number in a second is told

    def __post_init__(self) -> None:
        self.last = self.out / "last.safetensors"
        if self.last.exists():
            load_state(self.last, self.state, self.decides)
            self._tell("resumed")

    def keep_best(self, event: str, scores: dict[str, Any], score: float, card: Card) -> None:
        """Log what was found of the averaged weights, and keep them if none scored more."""
        state = self.state
        self.log({"event": event, "step": state.step, **scores})
        if score >= state.best:  # of equals, the one that learned longer
            state.best = score
            made = {"steps": state.step, event.replace(" ", "_"): scores, **card.training}
            save(self.out / "best.safetensors", state.ema.model, replace(card, training=made))

    def __call__(
        self,
        advance: Callable[[Stopwatch], dict[str, float]],
        judge: Callable[[], None],
        every: int,
        stop: Callable[[], bool],
        first: bool = True,
    ) -> bool:
        """Take the steps that remain; the `first` process judges and saves. False if stopped."""
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
                    "per_second": round(speed * self.samples, 2),
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


def _explained(error: RuntimeError, optim: OptimConfig, process: distributed.Process) -> Exception:
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
