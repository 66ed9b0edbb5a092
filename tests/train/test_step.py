"""What can go wrong in a step, and what compiling changes: nothing but time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from imlctl.core.efficient_iml import EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.errors import ImlctlError
from imlctl.forge.synthesizer import Sample
from imlctl.train.batches import Batch
from imlctl.train.checkpoint import EMA, TrainState
from imlctl.train.config import OptimConfig
from imlctl.train.loop import Stopwatch, take_step

CPU = torch.device("cpu")
MODEL = EfficientIMLConfig(EfficientRWKVConfig(dims=(16, 16, 32), depths=(1, 1, 1)), width=16)


class Weighing(nn.Module):
    """A learner whose gradient is what the batch says."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, _: int) -> tuple[Any, dict[str, Any]]:
        loss = (self.model.weight * batch.image).sum()
        return loss, {"weighed": loss.detach()}


def state() -> TrainState[Any]:
    model: Any = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD([{"params": model.parameters(), "factor": 1.0}], lr=0.1)
    return TrainState(model, optimizer, EMA(model, 0.5))


def maker(index: int) -> Sample:
    empty: Any = None
    return Sample(empty, empty, "splice", (f"{index // 2}.jpg",))


def step(state: TrainState[Any], value: float, watch: Stopwatch | None = None) -> dict[str, float]:
    """Take a step of two samples whose gradient is `value`, although their loss is finite."""

    class Sneaky(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: Any) -> Any:
            return x.clone()

        @staticmethod
        def backward(_: Any, *grads: Any) -> Any:
            return grads[0] * value

    class Learner(Weighing):
        def forward(self, batch: Batch, step: int) -> tuple[Any, dict[str, Any]]:
            loss, terms = super().forward(batch, step)
            return Sneaky.apply(loss), terms

    part = Batch(torch.ones(2, 3, 1, 1), torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1))
    optim = OptimConfig(batch=2, clip=1.0)
    return take_step(state, Learner(state.model), optim, [part], watch or Stopwatch(), maker=maker)


class TestFailures:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_gradient_that_is_not_finite_names_its_pictures(self, value: float) -> None:
        ours = state()
        step(ours, 1.0)
        before = ours.model.weight.item()
        message = (
            r"the gradient is not finite at step 1 \(samples 2 to 3, made of 1\.jpg\)\."
            r" Lower optim\.rate"
        )
        with pytest.raises(ImlctlError, match=message):
            step(ours, value)
        assert ours.step == 1
        assert ours.model.weight.item() == before


def test_it_is_told_where_the_time_of_a_step_goes() -> None:
    watch, ours = Stopwatch(), state()
    for _ in range(4):
        step(ours, 1.0, watch)
    shares = watch.shares()
    assert set(shares) == {"waiting", "forward", "backward", "update"}
    assert sum(shares.values()) == pytest.approx(1, abs=3e-3)
    assert min(shares.values()) >= 0
    assert shares["backward"] > 0
