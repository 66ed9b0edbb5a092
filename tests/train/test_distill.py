from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from imlctl.core.light_vae import SIZES, LightVAE, LightVAEConfig
from imlctl.errors import ConfigError, ImlctlError, WeightsError
from imlctl.train import distill as module
from imlctl.train.config import OptimConfig, load_preset
from imlctl.train.distill import (
    DistillConfig,
    DistillWeights,
    distill,
    distillation_loss,
    disturb,
    moment_penalty,
)
from imlctl.train.mask_maps import JudgeConfig, round_trip
from imlctl.weights.load import load

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
TINY = DistillConfig(
    model=LightVAEConfig(widths=(8, 8, 16), hidden=16, fine=4, blocks=1),
    optim=OptimConfig(steps=4, batch=3, size=64, rate=1e-2, warmup=1, precision="float32"),
    judge=JudgeConfig(every=2, masks=1, size=64),
)


def longer(steps: int) -> DistillConfig:
    return replace(TINY, optim=replace(TINY.optim, steps=steps, batch=4, rate=2e-2))


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestLoss:
    logits = torch.tensor([[-2.0, 0.5], [3.0, -1.0]]).reshape(1, 1, 2, 2)
    inside = torch.tensor([[0.0, 1.0], [1.0, 0.25]]).reshape(1, 1, 2, 2)
    latents = torch.tensor([[1.0, -1.0], [0.5, 2.0]]).reshape(1, 2, 2, 1)

    def reference(self) -> float:
        p = 1 / (1 + torch.exp(-self.logits))
        terms = self.inside * p.log() + (1 - self.inside) * (1 - p).log()
        return -float(terms.mean())

    def test_with_a_teacher(self) -> None:
        target = torch.zeros_like(self.latents)
        weights = DistillWeights(teacher=0.1, moments=99.0)
        loss, terms = distillation_loss(self.logits, self.inside, self.latents, target, weights)
        squared = (1 + 1 + 0.25 + 4) / 4
        assert terms["reconstruction"].item() == pytest.approx(self.reference())
        assert terms["teacher"].item() == pytest.approx(squared)
        assert loss.item() == pytest.approx(self.reference() + 0.1 * squared)

    def test_without_one(self) -> None:
        weights = DistillWeights(teacher=99.0, moments=0.1)
        loss, terms = distillation_loss(self.logits, self.inside, self.latents, None, weights)
        moments = moment_penalty(self.latents).item()
        assert terms["moments"].item() == pytest.approx(moments)
        assert loss.item() == pytest.approx(self.reference() + 0.1 * moments)

    def test_moments(self) -> None:
        """Channels (1, -1) and (0.5, 2): means 0 and 1.25, deviations sqrt(2) and sqrt(1.125)."""
        spread = ((2**0.5 - 1) ** 2 + (1.125**0.5 - 1) ** 2) / 2
        expected = 1.25**2 / 2 + spread
        assert moment_penalty(self.latents).item() == pytest.approx(expected, rel=1e-5)

    def test_standard_latents_cost_next_to_nothing_and_far_ones_something(self) -> None:
        latents = torch.randn(64, 4, 16, 16, generator=generator())
        assert moment_penalty(latents).item() < 1e-3
        latents[0, 0, 0, 0] = 1003.0
        assert moment_penalty(latents).item() > 0.1 * 1000**2 / latents.numel()


class TestDisturb:
    latents = torch.randn(40, 4, 8, 8, generator=generator(1))
    inside = (torch.randn(40, 1, 64, 64, generator=generator(2)) > 0).float()

    def test_blends_maps_as_it_blends_latents(self) -> None:
        weights = DistillWeights(noise=0.0, blend=0.5)
        pixels = torch.nn.functional.avg_pool2d(self.inside, 8)
        moved, inside = disturb(pixels, self.inside, weights, generator())
        torch.testing.assert_close(moved, torch.nn.functional.avg_pool2d(inside, 8))
        touched = (inside != self.inside).flatten(1).any(1).float().mean().item()
        assert 0.25 < touched < 0.75
        assert float(inside.min()) >= 0
        assert float(inside.max()) <= 1

    def test_masks_are_blended_with_masks(self) -> None:
        weights = DistillWeights(noise=0.0, blend=1.0)
        masks, edges = torch.zeros(8, 1, 16, 16), torch.ones(8, 1, 16, 16)
        inside = torch.cat((masks, edges))
        moved, _ = disturb(inside.expand(-1, 4, -1, -1), inside, weights, generator())
        assert torch.equal(moved[:, :1], inside)

    def test_noise_stays_below_its_level(self) -> None:
        weights = DistillWeights(noise=0.3, blend=0.0)
        moved, inside = disturb(self.latents, self.inside, weights, generator())
        assert torch.equal(inside, self.inside)
        levels = (moved - self.latents).flatten(1).std(1)
        assert float(levels.max()) < 0.3 * 1.15
        assert float(levels.max()) > 0.15
        assert float(levels.mean()) == pytest.approx(0.3 / 5, abs=0.03)

    def test_can_be_left_out(self) -> None:
        weights = DistillWeights(noise=0.0, blend=0.0)
        moved, inside = disturb(self.latents, self.inside, weights, generator())
        assert torch.equal(moved, self.latents)
        assert torch.equal(inside, self.inside)


def test_a_resumed_run_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = distill(TINY, tmp_path / "whole", device=CPU)
    seen: list[int] = []

    def power_cut(*arguments: Any) -> dict[str, Any]:
        seen.append(len(seen))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return round_trip(*arguments)

    monkeypatch.setattr(module, "round_trip", power_cut)
    with pytest.raises(KeyboardInterrupt):
        distill(TINY, tmp_path / "cut", device=CPU)
    monkeypatch.undo()
    resumed = distill(TINY, tmp_path / "cut", device=CPU)
    assert {"event": "resumed", "step": 2}.items() <= events(tmp_path / "cut")[-3].items()
    for name in ("last.safetensors", "best.safetensors"):
        whole, cut = (folder / name for folder in (undisturbed.parent, resumed.parent))
        assert whole.read_bytes() == cut.read_bytes()


def test_the_finished_run_is_weights_that_say_how_they_were_made(tmp_path: Path) -> None:
    best = distill(TINY, tmp_path, device=CPU)
    loaded = load(best)
    model: Any = loaded.model
    assert isinstance(model, LightVAE)
    assert model.config == TINY.model
    assert loaded.card.architecture == "light-vae"
    assert loaded.card.training["preset"]["optim"]["steps"] == 4
    assert loaded.card.training["round_trip"]["f1"] > 0
    trips = [e for e in events(tmp_path) if e["event"] == "round trip"]
    assert [e["step"] for e in trips] == [2, 4]
    assert {"per_second", "eta", "reconstruction", "moments"} <= events(tmp_path)[-2].keys()


def test_the_round_trip_gets_better(tmp_path: Path) -> None:
    config = replace(longer(120), loss=DistillWeights(noise=0.0, blend=0.0))
    config = replace(config, judge=JudgeConfig(every=20, masks=4, size=64))
    distill(config, tmp_path, device=CPU)
    scores = [e["masks"]["shape"] for e in events(tmp_path) if e["event"] == "round trip"]
    assert scores[-1] > 0.6
    assert scores[-1] > scores[0] + 0.3


def test_latents_follow_the_teacher(tmp_path: Path) -> None:
    channels = torch.tensor([1.0, -1.0, 0.5, 0.3]).reshape(1, 4, 1, 1)

    def encode(maps: torch.Tensor) -> torch.Tensor:
        grey = torch.nn.functional.interpolate(maps, scale_factor=1 / 8, mode="area")
        return grey * channels

    config = replace(longer(60), loss=DistillWeights(teacher=1.0))
    distill(config, tmp_path, device=CPU, teacher=encode)
    terms = [e["teacher"] for e in events(tmp_path) if e["event"] == "step"]
    assert terms[-1] < terms[0] / 4


def test_the_preset_that_ships_loads() -> None:
    config = load_preset("distill", DistillConfig)
    assert config.model == SIZES["light"]
    assert not config.teacher.source
    assert config.optim.warmup < config.optim.steps


def test_another_configuration_does_not_resume_but_a_longer_run_does(tmp_path: Path) -> None:
    distill(TINY, tmp_path, device=CPU)
    other = replace(TINY, optim=replace(TINY.optim, rate=1e-5))
    with pytest.raises(WeightsError, match=r"another configuration: optim.rate was"):
        distill(other, tmp_path, device=CPU)
    more = replace(TINY, optim=replace(TINY.optim, steps=6))
    assert distill(more, tmp_path, device=CPU) is not None
    assert events(tmp_path)[-1]["step"] == 6


def test_maps_of_a_step_are_never_divided(tmp_path: Path) -> None:
    """Those of one step fit into memory, so that accumulating is nothing to it."""
    runs = []
    for accumulate in (1, 3):
        folder = tmp_path / str(accumulate)
        optim = replace(TINY.optim, accumulate=accumulate)
        distill(replace(TINY, optim=optim), folder, device=CPU)
        runs.append(([e["loss"] for e in events(folder) if "loss" in e], folder))
    assert runs[0][0] == runs[1][0]
    states = [load_file(folder / "last.safetensors") for _, folder in runs]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_it_can_be_stopped_and_continued(tmp_path: Path) -> None:
    whole = distill(TINY, tmp_path / "whole", device=CPU)
    assert whole is not None
    assert distill(TINY, tmp_path / "cut", device=CPU, stop=lambda: True) is None
    assert events(tmp_path / "cut")[-1] == {"event": "stopped", "step": 1} | {
        k: v for k, v in events(tmp_path / "cut")[-1].items() if k in ("of", "time")
    }
    resumed = distill(TINY, tmp_path / "cut", device=CPU)
    assert resumed is not None
    for name in ("last.safetensors", "best.safetensors"):
        first, second = (folder / name for folder in (whole.parent, resumed.parent))
        assert first.read_bytes() == second.read_bytes()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    def nan(maps: torch.Tensor) -> torch.Tensor:
        return torch.full((len(maps), 4, 8, 8), float("nan"))

    with pytest.raises(ImlctlError, match="the loss is not finite at step 0"):
        distill(TINY, tmp_path, device=CPU, teacher=nan)


@pytest.mark.parametrize(
    "wrong", [{"teacher": -1.0}, {"moments": -1.0}, {"noise": -0.1}, {"blend": 1.5}]
)
def test_refuses_weights_that_cannot_work(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        DistillWeights(**wrong)


def test_refuses_other_edges() -> None:
    with pytest.raises(ConfigError, match="edges: unknown value 'sobel'; known: canny, band"):
        load_preset("distill", DistillConfig, ["edges=sobel"])
