"""The training loop: numbered samples in, averaged weights out, resumable at every checkpoint."""

from __future__ import annotations

import itertools
import json
import time
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torch.nn.parallel import DistributedDataParallel

from imlctl.train.batches import batches
from imlctl.train.checkpoint import State, load_state, save_state
from imlctl.train.distributed import (
    Place,
    barrier,
    first_alone,
    joined,
    micro_batch,
    processes,
)
from imlctl.train.logs import Log, Report
from imlctl.train.material import decisive, load_material
from imlctl.train.objective import clues_of, make_objective
from imlctl.train.step import Learner, Stopwatch, check_compiler, fresh_state, take_step
from imlctl.train.validate import finish, validate
from imlctl.weights.load import Card, save

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from torch import nn

    from imlctl.train.config import TrainConfig
    from imlctl.train.material import Material
    from imlctl.train.objective import Objective


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
        micro_batch(config.optim, place)  # refuses before anything is read, as does the next
        if config.optim.compile:
            check_compiler(where)
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
        state = fresh_state(objective, config, self.device)
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


def _steps(state: State, objective: Objective, config: TrainConfig, run: _Run) -> Iterator[int]:
    """Take all remaining steps; stop over at each that is due for validation."""
    optim, place = config.optim, run.place
    source = batches(
        run.material.training,
        start=state.step * optim.batch,
        stop=optim.steps * optim.batch,
        batch=optim.batch,
        workers=config.data.workers,
        device=run.device,
        micro=micro_batch(optim, place),
        rank=place.rank,
        world=place.world,
        clues=clues_of(state.model),
    )
    learner: nn.Module = Learner(state, objective)
    if joined():
        with warnings.catch_warnings():  # torch 2.13 has another name for it, 2.4 has none
            warnings.simplefilter("ignore", FutureWarning)
            learner = DistributedDataParallel(learner, broadcast_buffers=False)
    objective.train_mode(state.model)
    clock, seen = time.monotonic(), 0
    watch, watched = Stopwatch(), state.step
    while state.step < optim.steps:
        parts = itertools.islice(source, optim.accumulate)
        terms = take_step(state, learner, optim, parts, run.material.training, place, watch)
        seen += optim.batch
        if state.step % 20 == 0 or state.step == optim.steps:
            speed = seen / (time.monotonic() - clock)
            left = (optim.steps - state.step) * optim.batch / speed
            progress = {"per_second": round(speed, 2), "eta": round(left)}
            steps = {"step": state.step, "of": optim.steps}
            seconds = watch.read(state.step - watched)
            run.log({"event": "step", **steps, **terms, **seconds, **progress})
            watched = state.step
        if state.step % config.validation.every == 0 or state.step == optim.steps:
            yield state.step
            objective.train_mode(state.model)
            clock, seen = time.monotonic(), 0
            watch, watched = Stopwatch(), state.step
