"""One step of training, which the loop repeats."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imlctl.errors import ImlctlError
from imlctl.train.checkpoint import EMA, TrainState
from imlctl.train.distributed import Process, share_batch_norm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imlctl.core.model import Model
    from imlctl.forge.synthesizer import Maker
    from imlctl.train.batches import Batch
    from imlctl.train.config import OptimConfig, TrainConfig
    from imlctl.train.objective import Latents, Masks


def fresh_state(
    objective: Masks | Latents, config: TrainConfig, device: torch.device
) -> TrainState[Model]:
    """Make the model, what moves it, and its average, as before the first step."""
    torch.manual_seed(config.optim.seed)
    model = objective.build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    share_batch_norm(model)
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
