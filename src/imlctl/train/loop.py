"""The training loop: numbered samples in, averaged weights out, resumable at every checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from imlctl.errors import ConfigError, ImlctlError
from imlctl.train.autoencoder import add_regenerated
from imlctl.train.calibrate import calibrate
from imlctl.train.checkpoint import State, load_state, save_state
from imlctl.train.ema import EMA
from imlctl.train.objective import make_objective
from imlctl.train.photos import PhotoPool, load_pool
from imlctl.train.samples import batches
from imlctl.train.synthesis import Synthesizer
from imlctl.train.validate import validate
from imlctl.weights.load import Card, load, save

if TYPE_CHECKING:
    from pathlib import Path

    from imlctl.train.config import OptimConfig, TrainConfig
    from imlctl.train.objective import Objective

Report = Callable[[dict[str, Any]], None]

_VALIDATION_SEED = 1_000_003  # never a training seed: those are small numbers people choose


def train(
    config: TrainConfig, out: Path, *, device: torch.device, report: Report | None = None
) -> Path:
    """Train a model, or go on where `out` stopped.

    Writes into `out`: ``log.jsonl``, ``last.safetensors`` (the whole state), ``best.safetensors``
    (the averaged weights that validated best, with a threshold calibrated on the held-out
    photographs once the run ends; ready for `imlctl localize --weights`).

    Args:
        config: The preset.
        out: Folder of the run, made when missing.
        device: Where to compute.
        report: Called with each log line.

    Returns:
        Path of the best weights.

    Raises:
        ImlctlError: The loss is not finite; the configuration or a checkpoint is wrong.
    """
    out.mkdir(parents=True, exist_ok=True)
    log = _Log(out / "log.jsonl", report)
    settings = json.loads(json.dumps(asdict(config), default=str))
    pool = load_split(config, validation=False, report=log)
    held = load_split(config, validation=True, report=log)
    objective = make_objective(config)
    state = _start(objective, config, device)
    if (out / "last.safetensors").exists():
        load_state(out / "last.safetensors", state, settings)
        log({"event": "resumed", "step": state.step})
    synthesizer = Synthesizer(pool, size=config.optim.size, mix=config.mix, seed=config.optim.seed)
    judge = Synthesizer(held, size=config.optim.size, mix=config.mix, seed=_VALIDATION_SEED)
    for _ in _steps(state, objective, config, synthesizer, device, log):
        scores = validate(state.ema.model, judge, config.validation, device)
        log({"event": "validation", "step": state.step, **scores})
        if scores["objective"] >= state.best:  # of equals, the one that learned longer
            state.best = scores["objective"]
            made = {"steps": state.step, "validation": scores, "preset": settings}
            card = Card(objective.architecture, state.model.config.to_dict(), training=made)
            save(out / "best.safetensors", state.ema.model, card)
        save_state(out / "last.safetensors", state, settings)
    _calibrate(out / "best.safetensors", held, device, log)
    return out / "best.safetensors"


def _calibrate(path: Path, held: PhotoPool, device: torch.device, log: _Log) -> None:
    """Give finished weights the verdict threshold that seldom flags an authentic photograph."""
    loaded = load(path)
    model = loaded.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = calibrate(model, held, min_share=loaded.card.min_share, device=device)
    log({"event": "calibration", **asdict(found)})
    training = loaded.card.training | {"calibration": asdict(found)}
    card = replace(loaded.card, verdict_threshold=found.threshold, training=training)
    save(path, model, card)


def load_split(config: TrainConfig, *, validation: bool, report: Report | None = None) -> PhotoPool:
    """Load the photographs of one split, regenerated ones included.

    Raises:
        ConfigError: The split has no usable photograph.
    """
    data, tell = config.data, report or (lambda _: None)
    pool = load_pool(
        data.photos,
        objects=data.objects,
        validation=validation,
        validation_share=data.validation_share,
    )
    if not len(pool):
        raise ConfigError(
            "no usable photographs in this split", source=", ".join(map(str, data.photos))
        )
    for line in pool.skipped:
        tell({"event": "skipped", "what": line})
    if data.autoencoder is None:
        return pool
    limit = round(data.regenerated * (data.validation_share if validation else 1))
    return add_regenerated(
        pool,
        data.autoencoder,
        data.cache,
        limit=limit,
        report=lambda done, total: tell({"event": "regenerated", "done": done, "total": total}),
    )


def _start(objective: Objective, config: TrainConfig, device: torch.device) -> State:
    torch.manual_seed(config.optim.seed)
    model = objective.build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, config.optim, objective.rates)
    return State(model, optimizer, EMA(model, config.optim.ema))


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


def _steps(
    state: State,
    objective: Objective,
    config: TrainConfig,
    synthesizer: Synthesizer,
    device: torch.device,
    log: _Log,
) -> Iterator[int]:
    """Take all remaining steps; stop over at each that is due for validation."""
    optim = config.optim
    source = batches(
        synthesizer,
        start=state.step * optim.batch,
        stop=optim.steps * optim.batch,
        batch=optim.batch,
        workers=config.data.workers,
    )
    objective.train_mode(state.model)
    clock, seen = time.monotonic(), 0
    for image, mask in source:
        terms = _step(state, objective, config.optim, image.to(device), mask.to(device))
        seen += len(image)
        if state.step % 20 == 0 or state.step == optim.steps:
            speed = seen / (time.monotonic() - clock)
            left = (optim.steps - state.step) * optim.batch / speed
            log(
                {
                    "event": "step",
                    "step": state.step,
                    "of": optim.steps,
                    **terms,
                    "per_second": round(speed, 2),
                    "eta": round(left),
                }
            )
        if state.step % config.validation.every == 0 or state.step == optim.steps:
            yield state.step
            objective.train_mode(state.model)
            clock, seen = time.monotonic(), 0


def _step(
    state: State, objective: Objective, optim: OptimConfig, image: Tensor, mask: Tensor
) -> dict[str, float]:
    for group in state.optimizer.param_groups:
        group["lr"] = rate_at(state.step, optim) * group["factor"]
    image = image.contiguous(memory_format=torch.channels_last)
    loss, terms = objective.loss(state.model, image, mask, state.step)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), optim.clip)
    if not torch.isfinite(loss + norm):
        first = state.step * optim.batch
        what = "loss" if not torch.isfinite(loss) else "gradient"
        raise ImlctlError(
            f"the {what} is not finite at step {state.step}"
            f" (samples {first} to {first + len(image) - 1})",
            remedy="Lower optim.rate; the last checkpoint is from before this step.",
        )
    state.optimizer.step()
    state.step += 1
    state.ema.update(state.model)
    numbers = {"loss": loss.item(), "norm": norm.item(), **{k: v.item() for k, v in terms.items()}}
    return {k: round(v, 5) for k, v in numbers.items()}


class _Log:
    """One JSON line per event, in the file and to whoever watches."""

    def __init__(self, path: Path, report: Report | None) -> None:
        self.path, self.report = path, report

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] != "regenerated":  # progress, not history
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": round(time.time(), 2), **event}) + "\n")
        if self.report:
            self.report(event)
