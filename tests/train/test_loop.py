from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.errors import ConfigError, ImlctlError, WeightsError
from imlctl.train import loop, material, objective
from imlctl.train.config import DataConfig, OptimConfig, TrainConfig, ValidationConfig
from imlctl.train.loop import make_optimizer, rate_at, train
from imlctl.train.material import load_split
from imlctl.train.objective import localization_loss
from imlctl.train.score import HeadConfig
from imlctl.weights.load import load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = torch.device("cpu")
MODEL = EfficientIMLConfig(
    EfficientRWKVConfig(dims=(16, 16, 32), depths=(1, 1, 1)),
    width=16,
)


@pytest.fixture
def config(save_photos: Callable[..., Path]) -> TrainConfig:
    """Four steps on eight photographs, with a look after each second one."""
    return TrainConfig(
        DataConfig((save_photos(8),), validation_share=0.5, workers=0),
        model=MODEL,
        optim=OptimConfig(steps=4, batch=2, size=64, warmup=1, precision="float32"),
        validation=ValidationConfig(every=2, synthetic=6),
        heads=HeadConfig(pictures=0),
    )


class InterruptionError(Exception):
    pass


def interrupt_at(step: int) -> Callable[[dict[str, Any]], None]:
    """A report that fails on the log line of a step, as a kill would."""

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            raise InterruptionError

    return report


class TestRate:
    optim = OptimConfig(steps=100, warmup=10, rate=0.5)

    def test_warms_up_in_a_line(self) -> None:
        assert [rate_at(s, self.optim) for s in (0, 4, 9)] == pytest.approx([0.05, 0.25, 0.5])

    def test_falls_along_a_cosine(self) -> None:
        for step in range(10, 101):
            expected = 0.25 * (1 + math.cos(math.pi * (step - 10) / 90))
            assert rate_at(step, self.optim) == pytest.approx(expected)
        assert rate_at(10, self.optim) == 0.5
        assert rate_at(100, self.optim) == pytest.approx(0, abs=1e-12)
        assert rate_at(500, self.optim) == pytest.approx(0, abs=1e-12)

    def test_without_warm_up(self) -> None:
        assert rate_at(0, replace(self.optim, warmup=0)) == 0.5

    def test_all_warm_up(self) -> None:
        short = replace(self.optim, steps=5, warmup=10)
        assert rate_at(4, short) == pytest.approx(0.25)


def test_weight_decay_is_for_filters_and_matrices() -> None:
    model = EfficientIML(MODEL)
    decayed, rest = make_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    assert decayed["weight_decay"] == 0.3
    assert rest["weight_decay"] == 0
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))
    spared = {id(p) for p in rest["params"]}
    for name, parameter in model.named_parameters():
        if name.endswith((".decay", ".bonus", ".bias", ".point", "norm.weight")):
            assert id(parameter) in spared, name
        if "conv.weight" in name or "project.weight" in name:
            assert id(parameter) not in spared, name


class TestRun:
    def test_writes_weights_a_state_and_a_log(self, config: TrainConfig, tmp_path: Path) -> None:
        told: list[dict[str, Any]] = []
        out = tmp_path / "run"
        best = train(config, out, device=CPU, report=told.append)
        assert best == out / "best.safetensors"
        assert {p.name for p in out.iterdir()} == {
            *("best.safetensors", "last.safetensors", "log.jsonl")
        }
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        timeless = [{k: v for k, v in x.items() if k != "time"} for x in lines]
        assert timeless == json.loads(json.dumps(told))  # JSON knows no tuples
        validations = [x for x in told if x["event"] == "validation"]
        assert [x["step"] for x in validations] == [2, 4]
        (last,) = (x for x in told if x["event"] == "step")
        assert last["step"] == last["of"] == 4
        assert last["eta"] == 0
        assert last["per_second"] > 0
        assert {"loss", "norm", "bce", "dice", "edge", "consistency", "score"} <= set(last)
        assert all(math.isfinite(v) for x in told for v in x.values() if isinstance(v, float))

    def test_the_best_weights_are_ready_for_use(self, config: TrainConfig, tmp_path: Path) -> None:
        loaded = load(train(config, tmp_path / "run", device=CPU))
        assert loaded.model.config == MODEL
        assert loaded.card.architecture == "efficient-iml"
        made = loaded.card.training
        assert made["steps"] in (2, 4)
        assert 0 <= made["validation"]["synthetic_auc"] <= 1
        assert made["preset"]["optim"]["steps"] == 4

    def test_the_best_weights_are_the_averaged_ones_of_the_best_look(
        self, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scores = iter((0.6, 0.4))
        monkeypatch.setattr(loop, "validate", lambda *_: {"objective": next(scores)})
        train(config, tmp_path / "run", device=CPU)
        assert load(tmp_path / "run" / "best.safetensors").card.training["steps"] == 2

    def test_without_any_validation_the_last_weights_are_kept(
        self, config: TrainConfig, tmp_path: Path
    ) -> None:
        blind = replace(config, validation=ValidationConfig(every=2, synthetic=0))
        best = train(blind, tmp_path / "run", device=CPU)
        assert load(best).card.training["steps"] == 4

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_goes_on_bit_for_bit(self, precision: str, config: TrainConfig, tmp_path: Path) -> None:
        config = replace(config, optim=replace(config.optim, precision=precision))
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        train(config, whole, device=CPU)
        with pytest.raises(InterruptionError):
            train(config, broken, device=CPU, report=interrupt_at(4))
        told: list[dict[str, Any]] = []
        train(config, broken, device=CPU, report=told.append)
        assert ("resumed", 2) in [(e["event"], e.get("step")) for e in told]
        for name in ("last.safetensors", "best.safetensors"):
            first, second = (load_file(folder / name) for folder in (whole, broken))
            assert first.keys() == second.keys()
            for key, value in first.items():
                assert torch.equal(value, second[key]), key

    def test_a_finished_run_has_nothing_left_to_do(
        self, config: TrainConfig, tmp_path: Path
    ) -> None:
        best = train(config, tmp_path / "run", device=CPU)
        before = best.read_bytes()
        told: list[dict[str, Any]] = []
        assert train(config, tmp_path / "run", device=CPU, report=told.append) == best
        assert [event["event"] for event in told] == ["resumed", "calibration"]
        assert told[1]["lowered"] == 0  # they were lowered when it ended
        assert best.read_bytes() == before

    def test_runs_repeat(self, config: TrainConfig, tmp_path: Path) -> None:
        first, second = (load_file(train(config, tmp_path / n, device=CPU)) for n in "ab")
        assert all(torch.equal(value, second[key]) for key, value in first.items())

    def test_another_seed_trains_other_weights(self, config: TrainConfig, tmp_path: Path) -> None:
        other = replace(config, optim=replace(config.optim, seed=1))
        first = load_file(train(config, tmp_path / "a", device=CPU))
        second = load_file(train(other, tmp_path / "b", device=CPU))
        assert not torch.equal(first["head.weight"], second["head.weight"])

    def test_learns(self, config: TrainConfig, tmp_path: Path) -> None:
        """A step moves every parameter, and the average follows."""
        train(config, tmp_path / "run", device=CPU)
        state = load_file(tmp_path / "run" / "last.safetensors")
        torch.manual_seed(config.optim.seed)
        start = EfficientIML(MODEL).state_dict()
        for name in ("head.weight", "backbone.stem.first.conv.weight", "score.0.weight"):
            assert not torch.equal(state[f"model.{name}"], start[name])
            assert not torch.equal(state[f"ema.{name}"], start[name])

    @pytest.mark.parametrize("seed", [0, 1])
    def test_steps_take_their_rate_from_the_schedule(
        self, seed: int, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At a rate of nothing, the weights that the seed made stay as they are."""
        asked: list[int] = []

        def no_rate(step: int, _: OptimConfig) -> float:
            asked.append(step)
            return 0.0

        monkeypatch.setattr(loop, "rate_at", no_rate)
        config = replace(config, optim=replace(config.optim, seed=seed))
        train(config, tmp_path / "run", device=CPU)
        state = load_file(tmp_path / "run" / "last.safetensors")
        assert list(dict.fromkeys(asked)) == [0, 1, 2, 3]
        torch.manual_seed(seed)
        for name, parameter in EfficientIML(MODEL).named_parameters():
            assert torch.equal(state[f"model.{name}"], parameter), name

    def test_starts_from_given_weights(self, config: TrainConfig, tmp_path: Path) -> None:
        first = train(config, tmp_path / "first", device=CPU)
        optim = replace(config.optim, rate=1e-12, weight_decay=0.0)
        second = train(replace(config, init=first, optim=optim), tmp_path / "second", device=CPU)
        before, after = (load_file(path)["head.weight"] for path in (first, second))
        torch.testing.assert_close(after.float(), before.float(), rtol=1e-3, atol=1e-5)

    def test_validates_on_real_forgeries(self, config: TrainConfig, tmp_path: Path) -> None:
        for folder in ("tampered", "masks", "authentic"):
            (tmp_path / "val" / "set" / folder).mkdir(parents=True)
            picture = Image.linear_gradient("L").resize((64, 64))
            picture.convert("RGB").save(tmp_path / "val" / "set" / folder / "a.png")
        validation = replace(config.validation, folder=tmp_path / "val")
        told: list[dict[str, Any]] = []
        train(
            replace(config, validation=validation), tmp_path / "run", device=CPU, report=told.append
        )
        (first, *_) = (x for x in told if x["event"] == "validation")
        assert 0 <= first["mean_auc"] <= 1
        assert 0 <= first["mean_image_auc"] <= 1


class TestWays:
    """Other ways to the same end."""

    def test_parts_of_a_batch_add_up(
        self, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With a loss that is a mean over pictures, two parts give what the whole gives."""

        def mean_loss(prediction: Any, mask: Any, *_: Any, **__: Any) -> Any:
            loss = (prediction.logits - mask).square().mean()
            return loss, {"apart": loss.detach()}

        monkeypatch.setattr(objective, "localization_loss", mean_loss)
        monkeypatch.setattr(loop, "train_mode", lambda model: model.eval())
        optim = replace(config.optim, batch=4, steps=1, warmup=0)
        validation = ValidationConfig(every=5, synthetic=0)
        found = []
        for parts in (1, 2, 4):
            out = tmp_path / str(parts)
            settings = replace(optim, accumulate=parts)
            train(replace(config, optim=settings, validation=validation), out, device=CPU)
            found.append(load_file(out / "last.safetensors"))
        for other in found[1:]:
            for key, value in found[0].items():
                if "exp_avg" in key:  # the gradient itself: Adam's step forgets its size
                    torch.testing.assert_close(other[key], value, rtol=2e-3, atol=1e-6)

    def test_paths_and_workers_may_change_between_start_and_end(
        self, config: TrainConfig, tmp_path: Path
    ) -> None:
        out = tmp_path / "run"
        with pytest.raises(InterruptionError):
            train(config, out, device=CPU, report=interrupt_at(4))
        moved = config.data.photos[0].rename(tmp_path / "elsewhere")
        data = replace(config.data, photos=(moved,), cache=tmp_path / "cache")
        told: list[dict[str, Any]] = []
        train(replace(config, data=data), out, device=CPU, report=told.append)
        assert ("resumed", 2) in [(e["event"], e.get("step")) for e in told]

    def test_other_pictures_may_not(self, config: TrainConfig, tmp_path: Path) -> None:
        train(config, tmp_path / "run", device=CPU)
        for path in config.data.photos[0].iterdir():
            path.rename(path.with_name(f"new{path.name}"))
        with pytest.raises(WeightsError, match=r"another configuration: pictures was"):
            train(config, tmp_path / "run", device=CPU)


class TestStopping:
    def test_it_saves_and_the_same_call_goes_on(self, config: TrainConfig, tmp_path: Path) -> None:
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        train(config, whole, device=CPU)
        asked = iter([False, False, True])
        told: list[dict[str, Any]] = []
        stopped = train(config, broken, device=CPU, report=told.append, stop=lambda: next(asked))
        assert stopped is None
        assert told[-1] == {"event": "stopped", "step": 3, "of": 4}
        assert train(config, broken, device=CPU, report=told.append) is not None
        assert ("resumed", 3) in [(e["event"], e.get("step")) for e in told]
        first, second = (load_file(folder / "last.safetensors") for folder in (whole, broken))
        assert all(torch.equal(value, second[key]) for key, value in first.items())

    def test_after_the_last_step_there_is_nothing_to_stop(
        self, config: TrainConfig, tmp_path: Path
    ) -> None:
        count = iter(range(9))
        assert train(config, tmp_path, device=CPU, stop=lambda: next(count) == 3) is not None

    def test_a_checkpoint_is_written_between_looks(
        self, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved: list[int] = []
        real = loop.save_state
        monkeypatch.setattr(
            loop,
            "save_state",
            lambda path, state, _: saved.append(state.step) or real(path, state, _),
        )
        monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
        train(config, tmp_path / "often", device=CPU)
        assert saved == [1, 2, 3, 4]
        saved.clear()
        monkeypatch.setattr(loop, "SAVE_EVERY", 1e9)
        train(config, tmp_path / "seldom", device=CPU)
        assert saved == [2, 4]

    def test_a_finished_run_may_be_made_longer(self, config: TrainConfig, tmp_path: Path) -> None:
        train(config, tmp_path, device=CPU)
        longer = replace(config, optim=replace(config.optim, steps=6))
        told: list[dict[str, Any]] = []
        best = train(longer, tmp_path, device=CPU, report=told.append)
        assert {"event": "resumed", "step": 4, "of": 6} in told
        assert [e["step"] for e in told if e["event"] == "validation"] == [6]
        assert load(best).card.training["steps"] in (2, 4, 6)  # whichever look was the best


class TestFailures:
    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        ],
    )
    def test_full_memory_says_what_to_lower(
        self,
        error: Exception,
        config: TrainConfig,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def full(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(objective, "localization_loss", full)
        message = (
            r"out of memory with 2 samples of 64x64 at once \(optim.batch 2, optim.accumulate 1\)"
            r"\. Raise optim.accumulate to 2, .* lower optim.batch or optim.size"
        )
        with pytest.raises(ConfigError, match=message):
            train(config, tmp_path, device=CPU)

    def test_other_errors_are_left_as_they_are(
        self, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("shapes do not fit")

        monkeypatch.setattr(objective, "localization_loss", broken)
        with pytest.raises(RuntimeError, match="shapes do not fit"):
            train(config, tmp_path, device=CPU)

    def test_a_loss_that_is_not_finite_names_its_step(
        self, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, calls = localization_loss, iter(range(100))

        def poisoned(*args: Any, **how: Any) -> Any:
            total, terms = real(*args, **how)
            return total * (float("nan") if next(calls) == 3 else 1.0), terms

        monkeypatch.setattr(objective, "localization_loss", poisoned)
        message = r"the loss is not finite at step 3 \(samples 6 to 7, made of \d\.png.*\)"
        with pytest.raises(ImlctlError, match=message):
            train(config, tmp_path / "run", device=CPU)
        state = load_file(tmp_path / "run" / "last.safetensors")
        assert all(torch.isfinite(v).all() for v in state.values())

    def test_another_configuration_is_refused(self, config: TrainConfig, tmp_path: Path) -> None:
        train(config, tmp_path / "run", device=CPU)
        other = replace(config, optim=replace(config.optim, rate=1e-5))
        with pytest.raises(
            WeightsError, match=r"another configuration: optim.rate was 0.002, is 1e-05"
        ):
            train(other, tmp_path / "run", device=CPU)

    def test_a_split_without_photographs_is_refused(
        self, config: TrainConfig, tmp_path: Path
    ) -> None:
        few = replace(config, data=replace(config.data, validation_share=1e-9))
        with pytest.raises(ConfigError, match="photographs, none is"):
            train(few, tmp_path / "run", device=CPU)

    def test_nothing_held_out_is_refused_before_anything_is_read(
        self, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        none = replace(config, data=replace(config.data, validation_share=0.0))
        monkeypatch.setattr(material, "load_pool", lambda *_, **__: pytest.fail("was read"))
        with pytest.raises(ConfigError, match=r"validation_share = 0 leaves no photographs"):
            train(none, tmp_path / "run", device=CPU)

    def test_nothing_held_out_can_be_meant(self, config: TrainConfig, tmp_path: Path) -> None:
        blind = ValidationConfig(every=2, synthetic=0)
        data = replace(config.data, validation_share=0.0)
        told: list[dict[str, Any]] = []
        out = tmp_path / "run"
        train(replace(config, data=data, validation=blind), out, device=CPU, report=told.append)
        assert "not calibrated" in [event["event"] for event in told]
        assert load(out / "best.safetensors").card.training["steps"] == 4

    @pytest.mark.parametrize("batch", [2, 6])
    def test_a_batch_that_cannot_be_divided(self, batch: int, config: TrainConfig) -> None:
        with pytest.raises(ValueError, match="accumulate must divide the batch"):
            replace(config.optim, batch=batch, accumulate=4)

    def test_skipped_photographs_are_told(self, config: TrainConfig) -> None:
        (config.data.photos[0] / "torn.png").write_bytes(b"no picture")
        told: list[dict[str, Any]] = []
        for validation in (False, True):
            load_split(config, validation=validation, report=told.append)
        (skipped,) = told
        assert skipped["event"] == "skipped"
        assert "torn.png" in skipped["what"]
