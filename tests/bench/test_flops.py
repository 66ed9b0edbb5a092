from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from imlctl.bench.flops import (
    MIX_TRANSFORMER,
    compare_counts,
    count,
    count_model,
)
from imlctl.core.denoiser import DenoiserConfig
from imlctl.core.diff_iml import SIZES as DIFF_SIZES
from imlctl.core.diff_iml import DiffIML, DiffIMLConfig
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import SIZES as RWKV_SIZES
from imlctl.core.imagenet import MIT_SIZES as SIZES
from imlctl.core.imagenet import MixTransformer
from imlctl.core.wkv import bi_wkv


class Toy(nn.Module):
    """A convolution in a list, a linear layer, and the WKV operator over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1, bias=False)])
        self.second = nn.Sequential(nn.Linear(4, 2))
        self.decay = nn.Parameter(torch.zeros(4))

    def forward(self, image: Tensor) -> Tensor:
        x = self.first[0](image).flatten(2)  # (B, 4, T)
        x = bi_wkv(self.decay, self.decay, x, x)
        return cast("Tensor", self.second(x.mT))


def on_meta(model: nn.Module) -> nn.Module:
    return model.eval().to("meta")


def test_every_part_is_counted_by_hand() -> None:
    cost = count(Toy().eval(), 8, {"convolution": ("first",), "linear": ("second",)})
    pixels = 8 * 8
    assert [tuple(part.values()) for part in cost["parts"]] == [
        ("convolution", 3 * 4 * 9, 3 * 4 * 9 * pixels),
        ("linear", 4 * 2 + 2, 4 * 2 * pixels),
        # The operator's formula: two sums, each with a weight before and after a scan both ways,
        # and the token's own term.
        ("other", 4, 2 * 5 * 4 * pixels),
    ]
    assert cost["parameters"] == sum(p.numel() for p in Toy().parameters())
    assert cost["macs"] == sum(part["macs"] for part in cost["parts"])


def test_a_part_of_a_part_is_counted_once() -> None:
    cost = count(Toy().eval(), 8, {"linear": ("second", "second.0"), "like": ("fir",)})
    assert [(part["name"], part["macs"]) for part in cost["parts"][:2]] == [
        ("linear", 512),
        ("like", 0),
    ]


def test_named_parts_hold_all_of_a_model() -> None:
    seeing = EfficientIML(EfficientIMLConfig(RWKV_SIZES["semantic"])).fuse()
    blind = EfficientIML().fuse()
    for model, parts in (
        (blind, blind.parts()),
        (seeing, seeing.parts()),
        (MixTransformer(SIZES["b0"]), MIX_TRANSFORMER),
    ):
        cost = count(on_meta(model), 64, parts)
        assert [part["name"] for part in cost["parts"]] == list(parts)  # no "other"
        assert all(part["parameters"] and part["macs"] for part in cost["parts"])
        assert cost["parameters"] == sum(p.numel() for p in model.parameters())


def test_mit_b3_costs_what_is_published() -> None:
    with torch.device("meta"):
        model = MixTransformer(SIZES["b3"]).eval()
    cost = count(model, 512, MIX_TRANSFORMER)
    assert cost["parameters"] / 1e6 == pytest.approx(44.07, abs=0.005)
    # 30.96 in layers and 5.91 in attention, which a CPU's fused kernel would hide.
    assert cost["macs"] / 1e9 == pytest.approx(30.96 + 5.91, abs=0.02)


def test_a_count_is_the_same_with_and_without_computing() -> None:
    for build, parts in (
        (lambda: EfficientIML().fuse(), EfficientIML().parts()),
        (lambda: MixTransformer(SIZES["b0"]), MIX_TRANSFORMER),
    ):
        assert count(build().eval(), 64, parts) == count(on_meta(build()), 64, parts)


def test_efficient_iml_grows_with_the_pixels() -> None:
    model = EfficientIML().fuse()
    small, large = (count_model(model, size, steps=1, members=1)["macs"] for size in (512, 2048))
    assert large / small == pytest.approx(16, rel=0.001)


TINY = DiffIMLConfig("efficient-rwkv-tiny", DenoiserConfig(channels=32, condition=32))


def test_the_wkv_operator_is_counted_by_its_formula() -> None:
    cost = count(Toy().eval(), 8, {"linear": ("second",)})
    assert cost["wkv"] == 2 * 5 * 4 * 64
    assert count_model(EfficientIML().eval(), 64, steps=1, members=1)["wkv"] > 0


def test_a_sampling_model_has_all_of_it_in_named_parts() -> None:
    model = DiffIML(TINY).fuse()
    cost = count_model(model, 64, steps=2, members=3)
    assert [part["name"] for part in cost["parts"]] == list(model.parts())
    by_name = {part["name"]: part for part in cost["parts"]}
    assert by_name["LightVAE encoder (training)"]["macs"] == 0
    assert all(part["parameters"] for part in cost["parts"])
    assert cost["parameters"] == sum(p.numel() for p in model.parameters())
    assert next(model.parameters()).device.type == "cpu"  # counted on a copy


def test_every_step_of_every_member_is_counted() -> None:
    model = DiffIML(TINY).fuse()

    def macs(steps: int, members: int) -> tuple[int, int]:
        cost = count_model(model, 64, steps=steps, members=members)
        (denoiser,) = (part["macs"] for part in cost["parts"] if part["name"] == "denoiser")
        return cost["macs"], denoiser

    whole, once = macs(1, 1)
    assert macs(8, 5) == (whole + 39 * once, 40 * once)
    assert macs(1, 5) == (whole + 4 * once, 5 * once)  # as the paper counts


def test_the_papers_count_is_met_in_the_papers_way() -> None:
    """Its Table 4: 53.01 G for N = 1 and 102.36 G for N = 5, one call of the UNet each.

    Its count leaves out the attention of the UNet, 4.3 G a call, and its decoder is the authors'.
    """
    model = DiffIML(DIFF_SIZES["diffiml-mit-b3"]).eval().to("meta")
    costs = [count_model(model, 512, steps=1, members=members) for members in (1, 5)]
    attention = 2 * 4096 * 4096 * 128 / 1e9  # queries by keys, and by values
    one, five = (cost["macs"] / 1e9 for cost in costs)
    assert one - attention == pytest.approx(53.01, rel=0.03)
    # Half of the convolution that lets the condition in is the same for all members: counted once.
    shared = 128 * 128 * 9 * 4096 / 1e9
    per_member = (five - one) / 4 - attention + shared
    assert per_member == pytest.approx((102.36 - 53.01) / 4, rel=0.03)


def test_a_step_more_costs_the_denoiser_only() -> None:
    """The condition is computed once, whatever the steps."""
    model = DiffIML().fuse()
    one, two, nine = (count_model(model, 64, steps=s, members=1)["macs"] for s in (1, 2, 9))
    assert nine - one == 8 * (two - one)
    assert two - one < 0.3 * one  # 0.2


def test_both_ways_of_counting_are_shown() -> None:
    found = compare_counts(DiffIML(TINY).fuse(), 64, (8,), (1, 5))
    assert found["way"] == "N=5, 8 steps"
    one, five = found["counts"]
    assert (five["members"], five["steps"], five["all"]) == (5, 8, found["cost"]["macs"])
    assert one["paper"] < five["paper"] < five["all"]
    plain = compare_counts(EfficientIML().eval(), 64, (8,), (1, 5))
    assert (plain["way"], plain["counts"]) == ("one pass", [])
