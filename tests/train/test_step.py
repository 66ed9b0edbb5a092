"""What can go wrong in a step, and what compiling changes: nothing but time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from imlctl.core.diff_iml import ENCODERS, build_backbone
from imlctl.core.efficient_iml import EfficientIMLConfig
from imlctl.core.efficient_rwkv import Block, EfficientRWKVConfig
from imlctl.errors import ConfigError, ImlctlError
from imlctl.forge.synthesizer import Sample
from imlctl.train import loop
from imlctl.train.batches import Batch
from imlctl.train.checkpoint import EMA, TrainState
from imlctl.train.config import DataConfig, OptimConfig, TrainConfig, ValidationConfig
from imlctl.train.distributed import Process
from imlctl.train.loop import train
from imlctl.train.objective import costly_parts, make_objective
from imlctl.train.score import HeadConfig
from imlctl.train.step import Stopwatch, check_compiler, fresh_state, take_step

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = torch.device("cpu")
MODEL = EfficientIMLConfig(EfficientRWKVConfig(dims=(16, 16, 32), depths=(1, 1, 1)), width=16)


class Weighing(nn.Module):
    """A learner whose gradient is what the batch says."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Any, *_: Any) -> tuple[Any, dict[str, Any]]:
        loss = (self.model.weight * image).sum()
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
        def forward(self, image: Any, *_: Any) -> tuple[Any, dict[str, Any]]:
            loss, terms = super().forward(image)
            return Sneaky.apply(loss), terms

    part = Batch(torch.ones(2, 3, 1, 1), torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1))
    optim = OptimConfig(batch=2, clip=1.0)
    return take_step(state, Learner(state.model), optim, [part], maker, Process(), watch)


def test_the_time_of_a_step_is_booked_in_four_parts() -> None:
    watch, ours = Stopwatch(), state()
    for _ in range(4):
        step(ours, 1.0, watch)
    seconds = watch.read(4)
    assert set(seconds) == {"waiting", "forward", "backward", "update"}
    assert min(seconds.values()) >= 0
    assert set(watch.read(1).values()) == {0.0}


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


@pytest.fixture
def config(save_photos: Callable[..., Path]) -> TrainConfig:
    return TrainConfig(
        DataConfig((save_photos(4),), validation_share=0.5, workers=0),
        model=MODEL,
        optim=OptimConfig(steps=2, batch=2, size=64, warmup=1, precision="float32"),
        validation=ValidationConfig(every=2, synthetic=2),
        heads=HeadConfig(pictures=0),
    )


# What torch's compiler imports when it is first asked.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
class TestCompile:
    def test_the_encoders_blocks_are_what_is_compiled(
        self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compiled: list[nn.Module] = []
        monkeypatch.setattr(nn.Module, "compile", lambda part: compiled.append(part))
        objective = make_objective(config)
        fresh_state(objective, config, CPU)
        assert compiled == []
        optim = replace(config.optim, compile=True)
        made = fresh_state(objective, replace(config, optim=optim), CPU)
        blocks = [part for part in made.model.modules() if isinstance(part, Block)]
        assert len(blocks) == 3
        assert compiled == blocks

    # Torch's tracer looks at gradients that nobody will ask for.
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
    def test_changes_no_loss_and_no_name(
        self, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Traced, as for any compiler, and run without one: that would take minutes."""
        trace = nn.Module.compile
        monkeypatch.setattr(nn.Module, "compile", lambda part: trace(part, backend="aot_eager"))
        monkeypatch.setattr(loop, "check_compiler", lambda _: None)
        train(config, tmp_path / "plain", device=CPU)
        optim = replace(config.optim, compile=True)
        train(replace(config, optim=optim), tmp_path / "traced", device=CPU)
        losses, states = [], []
        for name in ("plain", "traced"):
            lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
            losses += [e["loss"] for e in map(json.loads, lines) if e["event"] == "step"]
            states.append(load_file(tmp_path / name / "last.safetensors"))
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert states[0].keys() == states[1].keys()

    @pytest.mark.skipif(
        not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="there is no C++ compiler"
    )
    def test_works_where_there_is_a_compiler(self) -> None:
        check_compiler(CPU)

    def test_a_machine_that_cannot_is_told_before_anything_is_read(
        self, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(_: object) -> None:
            raise RuntimeError("No C++ compiler found\nand more")

        monkeypatch.setattr(torch, "compile", broken)
        monkeypatch.setattr(loop, "load_material", lambda *_: pytest.fail("was read"))
        config = replace(config, optim=replace(config.optim, compile=True))
        message = (
            r"optim\.compile: this machine cannot compile \(No C\+\+ compiler found\)\. Install"
        )
        with pytest.raises(ConfigError, match=message):
            train(config, tmp_path / "run", device=CPU)

    def test_may_change_between_two_sittings(
        self, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train(config, tmp_path / "run", device=CPU)
        monkeypatch.setattr(loop, "check_compiler", lambda _: None)
        told: list[dict[str, Any]] = []
        optim = replace(config.optim, compile=True)
        train(replace(config, optim=optim), tmp_path / "run", device=CPU, report=told.append)
        assert told[0] == {"event": "resumed", "step": 2}


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_has_parts_worth_compiling(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name).module
    assert len(costly_parts(backbone)) >= 3
