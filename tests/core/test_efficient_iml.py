from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from imlctl.core.copies import CHANNELS
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig, doubled
from imlctl.core.efficient_rwkv import SIZES

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

TINY = SIZES["tiny"]
CHOICES: dict[str, tuple[Any, ...]] = {
    "mixing": ("v4", "v6"),
    "self_similarity": (False, True),
    "outliers": (False, True),
}
VARIANTS = [
    pytest.param(
        EfficientIMLConfig(
            replace(TINY, depths=(1, 1, 1), **dict(zip(CHOICES, chosen, strict=True))), width=16
        ),
        id="-".join(map(str, chosen)),
    )
    for chosen in itertools.product(*CHOICES.values())
]


def tiny(**changes: Any) -> EfficientIML:
    torch.manual_seed(0)
    return EfficientIML(EfficientIMLConfig(replace(TINY, **changes), width=32))


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (80, 112), (72, 104)])
def test_shapes(size: tuple[int, int]) -> None:
    height, width = size
    model = tiny().eval()
    assert model.multiple == 8
    with torch.inference_mode():
        p = model(torch.rand(2, 3, height, width))
    assert p.logits.shape == (2, 1, height, width)
    assert [x.shape for x in p.levels] == [
        (2, 1, -(-height // s), -(-width // s)) for s in (16, 32)
    ]
    assert p.score_logits.shape == (2,)


def test_outliers_add_their_share_to_the_log_odds() -> None:
    model = tiny(outliers=True).eval()
    plain = EfficientIML(replace(model.config, outlier_gain=0.0)).eval()
    plain.load_state_dict(model.state_dict())
    image = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        found = model.backbone.clues(image)
        assert found is not None
        clues = torch.randn(found.shape)
        with_them, without = model(image, clues), plain(image, clues)
        assert torch.equal(plain(image).logits, plain(image, found).logits)
        assert torch.equal(model(image).logits, model(image, found).logits)
    cells = clues[:, -1:].reshape(2, 1, 8, 2, 12, 2)
    share = 2 * cells.mean((3, 5))
    share = F.interpolate(share, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(with_them.logits - without.logits, share, atol=1e-5, rtol=0)
    for a, b in zip(with_them.levels, without.levels, strict=True):
        assert torch.equal(a, b)


def test_the_gain_of_outliers_is_not_negative() -> None:
    with pytest.raises(ValueError, match="gain"):
        EfficientIMLConfig(TINY, outlier_gain=-1.0)


def test_copies_add_to_the_log_odds_and_change_nothing_else() -> None:
    plain = tiny(outliers=True).eval()
    model = EfficientIML(replace(plain.config, copies=True)).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    image = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        clues = plain.clues(image)
        assert clues is not None
        found = torch.rand(2, CHANNELS, 16, 24)
        with_them, without = model(image, torch.cat((clues, found), dim=1)), plain(image, clues)
        assert model.copied is not None
        told = F.avg_pool2d(model.copied.map(found), 2)
        assert model.clues(image).shape[1] == clues.shape[1] + CHANNELS
        assert torch.equal(model(image).logits, without.logits)  # noise holds no copies
    assert told.abs().max() > 0
    torch.testing.assert_close(with_them.copied, told)
    torch.testing.assert_close(with_them.cells - without.cells, told, atol=1e-5, rtol=0)
    for a, b in zip(with_them.features, without.features, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("size", [(64, 70), (101, 64), (48, 64), (64, 32), (1, 1)])
def test_refuses_a_size_that_does_not_fit(size: tuple[int, int]) -> None:
    match = f"multiples of 8 and at least 64, not {size[0]}x{size[1]}"
    with pytest.raises(ValueError, match=match):
        tiny()(torch.rand(1, 3, *size))


def test_a_coarser_map_is_doubled_in_place_whatever_the_size() -> None:
    ramp = torch.arange(6.0).expand(1, 1, 6, 6)
    even, odd = (doubled(ramp, torch.zeros(1, 1, side, side)) for side in (12, 11))
    assert torch.equal(odd, even[..., :11, :11])
    assert torch.equal(doubled(ramp, even[..., :6, :6]), ramp)


@pytest.mark.parametrize("config", VARIANTS)
def test_every_parameter_learns(
    config: EfficientIMLConfig, randomise: Callable[[nn.Module], None]
) -> None:
    torch.manual_seed(0)
    model = EfficientIML(config)
    randomise(model)
    p = model(torch.rand(2, 3, 64, 96))
    sum(x.square().mean() for x in (p.logits, *p.levels, p.score_logits)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("config", VARIANTS)
def test_fused_equals_unfused(
    config: EfficientIMLConfig, randomise: Callable[[nn.Module], None]
) -> None:
    torch.manual_seed(0)
    model = EfficientIML(config).eval()
    randomise(model)
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = model(image)
        for _ in range(2):
            assert model.fuse() is model
            p = model(image)
            for a, b in zip(
                (p.logits, *p.levels, p.score_logits),
                (expected.logits, *expected.levels, expected.score_logits),
                strict=True,
            ):
                scale = float(b.abs().max().clamp_min(1))
                torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * scale)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules())


@pytest.mark.parametrize("mixing", ["v4", "v6"])
def test_pictures_of_a_batch_do_not_meet(mixing: str) -> None:
    model = tiny(mixing=mixing).eval()
    image = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        together = model(image)
        alone = [model(x[None]) for x in image]
    for i, p in enumerate(alone):
        torch.testing.assert_close(together.logits[i : i + 1], p.logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            together.score_logits[i : i + 1], p.score_logits, rtol=1e-5, atol=1e-5
        )


def test_runs_agree_bit_for_bit() -> None:
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        first, second = (tiny().eval()(image) for _ in range(2))
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.score_logits, second.score_logits)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_flat_pictures_give_finite_answers(value: float) -> None:
    with torch.inference_mode():
        p = tiny().eval()(torch.full((1, 3, 64, 64), value))
    assert all(torch.isfinite(x).all() for x in (p.logits, *p.levels, p.score_logits))


def test_autocast_stays_near_float32() -> None:
    model = tiny().eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = model(image).logits
        with torch.autocast("cpu", torch.bfloat16):
            actual = model(image).logits
    assert actual.dtype == torch.float32
    assert float((actual - expected).abs().mean()) < 0.05 * float(expected.abs().mean())


def test_starts_by_doubting() -> None:
    """Most pixels are untouched, so an untrained model should not cry wolf."""
    with torch.inference_mode():
        probability = torch.sigmoid(tiny().eval()(torch.rand(1, 3, 64, 64)).logits)
    assert float(probability.mean()) < 0.3


def test_score_ignores_gradients_through_the_map() -> None:
    model = tiny()
    model(torch.rand(2, 3, 64, 64)).score_logits.sum().backward()
    assert model.head.weight.grad is None


def test_lowered_odds_leave_the_score() -> None:
    model = tiny().eval()
    picture = torch.rand(1, 3, 96, 96)
    with torch.inference_mode():
        before = model(picture)
        after = model.lower(0.75)(picture)
    torch.testing.assert_close(after.logits, before.logits - 0.75)
    for new, old in zip(after.levels, before.levels, strict=True):
        torch.testing.assert_close(new, old - 0.75)
    torch.testing.assert_close(after.score_logits, before.score_logits)


def test_meets_the_budget_at_512() -> None:
    """At most 5 M parameters and 8 G multiply-accumulates (two operations each)."""
    with torch.device("meta"):
        model = EfficientIML().eval()
        image = torch.empty(1, 3, 512, 512)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    assert sum(p.numel() for p in model.parameters()) <= 5e6
    assert 1e9 < counter.get_total_flops() / 2 <= 8e9
    counted = counter.get_flop_counts()["Global"]
    assert any("bi_wkv" in str(op) for op in counted)


class TestConfig:
    @pytest.mark.parametrize("config", VARIANTS)
    def test_survives_json(self, config: EfficientIMLConfig) -> None:
        read = EfficientIMLConfig.from_dict(json.loads(json.dumps(config.to_dict())))
        assert read == config

    def test_missing_keys_take_their_defaults(self) -> None:
        assert EfficientIMLConfig.from_dict({}) == EfficientIMLConfig()
        assert EfficientIMLConfig.from_dict({"width": 32}).width == 32

    def test_leaves_the_values_it_reads_alone(self) -> None:
        values = EfficientIMLConfig().to_dict()
        EfficientIMLConfig.from_dict(values)
        assert values == EfficientIMLConfig().to_dict()

    @pytest.mark.parametrize(
        "values",
        [{"depth": 3}, {"backbone": {"width": 3}}, {"backbone": 3}, {"backbone": None}],
    )
    def test_refuses_unknown_keys_and_shapes(self, values: dict[str, Any]) -> None:
        with pytest.raises(TypeError):
            EfficientIMLConfig.from_dict(values)

    @pytest.mark.parametrize("values", [{"width": 0}, {"backbone": {"dims": [1, 2, 3]}}])
    def test_refuses_values_out_of_range(self, values: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"width|dims"):
            EfficientIMLConfig.from_dict(values)
