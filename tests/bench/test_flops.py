from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from imlctl.bench.flops import EFFICIENT_IML, MIX_TRANSFORMER, Part, count
from imlctl.core.efficient_iml import EfficientIML
from imlctl.core.mit import SIZES, MixTransformer
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
    assert cost.parts == (
        Part("convolution", 3 * 4 * 9, 3 * 4 * 9 * pixels),
        Part("linear", 4 * 2 + 2, 4 * 2 * pixels),
        # The operator's formula: two sums, each with a weight before and after a scan both ways,
        # and the token's own term.
        Part("other", 4, 2 * 5 * 4 * pixels),
    )
    assert cost.parameters == sum(p.numel() for p in Toy().parameters())
    assert cost.to_json()["macs"] == cost.macs == sum(part.macs for part in cost.parts)


def test_a_part_of_a_part_is_counted_once() -> None:
    cost = count(Toy().eval(), 8, {"linear": ("second", "second.0"), "like": ("fir",)})
    assert [(part.name, part.macs) for part in cost.parts[:2]] == [("linear", 512), ("like", 0)]


def test_named_parts_hold_all_of_a_model() -> None:
    for model, parts in (
        (EfficientIML().fuse(), EFFICIENT_IML),
        (MixTransformer(SIZES["b0"]), MIX_TRANSFORMER),
    ):
        cost = count(on_meta(model), 64, parts)
        assert [part.name for part in cost.parts] == list(parts)  # no "other"
        assert all(part.parameters and part.macs for part in cost.parts)
        assert cost.parameters == sum(p.numel() for p in model.parameters())


def test_mit_b3_costs_what_is_published() -> None:
    with torch.device("meta"):
        model = MixTransformer(SIZES["b3"]).eval()
    cost = count(model, 512, MIX_TRANSFORMER)
    assert cost.parameters / 1e6 == pytest.approx(44.07, abs=0.005)
    # 30.96 in layers and 5.91 in attention, which a CPU's fused kernel would hide.
    assert cost.macs / 1e9 == pytest.approx(30.96 + 5.91, abs=0.02)


def test_a_count_is_the_same_with_and_without_computing() -> None:
    for build, parts in (
        (lambda: EfficientIML().fuse(), EFFICIENT_IML),
        (lambda: MixTransformer(SIZES["b0"]), MIX_TRANSFORMER),
    ):
        assert count(build().eval(), 64, parts) == count(on_meta(build()), 64, parts)


def test_efficient_iml_grows_with_the_pixels() -> None:
    model = on_meta(EfficientIML().fuse())
    small, large = (count(model, size, EFFICIENT_IML).macs for size in (512, 2048))
    assert large / small == pytest.approx(16, rel=0.001)
