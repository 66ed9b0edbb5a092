"""The training loop: numbered samples in, averaged weights out, resumable at every checkpoint."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import torch

from imlctl.errors import ConfigError
from imlctl.train.batches import batches
from imlctl.train.checkpoint import SAVE_EVERY, Log, Report, as_json, load_state, save_state
from imlctl.train.distributed import (
    any_process,
    averaging,
    barrier,
    first_alone,
    micro_batch,
    processes,
)
from imlctl.train.material import decisive, load_material, require_sources
from imlctl.train.objective import clues_of, make_objective, train_mode
from imlctl.train.step import Learner, Stopwatch, fresh_state, take_step
from imlctl.train.validate import finish, validate
from imlctl.weights.load import Card, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imlctl.train.checkpoint import TrainState
    from imlctl.train.config import OptimConfig, TrainConfig
    from imlctl.train.distributed import Process
    from imlctl.train.material import Material

_LOG_EVERY = 20  # steps
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


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
    with processes(device) as (process, where):
        log = Log(out / "log.jsonl" if process.first else None, report)
        micro_batch(config.optim, process)  # refuses before anything is read
        with first_alone(process):
            material = load_material(config, log)
        ended = _all_steps(config, out, where, process, material, log, stop)
        if ended and process.first:
            finish(out, material, config, where, log)
        barrier()
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
    barrier()  # nobody writes before all have read
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
    learner = averaging(Learner(state, objective))

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
    return run(advance, judge, every, lambda: any_process(stop(), device), process.first)


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
                barrier()
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
    return ConfigError(
        f"out of memory with {micro_batch(optim, process)} samples of {optim.size}x{optim.size}"
        f" at once (optim.batch {optim.batch}, optim.accumulate {optim.accumulate})",
        source="optim",
        remedy=f"Raise optim.accumulate to {2 * optim.accumulate}, which costs time instead of"
        " memory, or lower optim.batch or optim.size; with another --out, for the result differs.",
    )
