from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from imlctl.core import wkv_op
from imlctl.core.wkv import bi_wkv


def inputs(length: int, *, values: float = 1.0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Decay (4,), bonus (4,), key (2, 4, T) and value (2, 4, T), as leaves."""
    g = torch.Generator().manual_seed(0)
    decay, bonus = torch.linspace(-8, 20, 4), torch.randn(4, generator=g)
    key, value = (torch.randn(2, 4, length, generator=g) for _ in range(2))
    args = (decay, bonus, key * 3, value * values)
    return [x.to(dtype).requires_grad_() for x in args]


def answers(args: list[Tensor], *, upstream: float = 1.0) -> list[Tensor]:
    """The output and all four gradients."""
    y = bi_wkv(*args)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y)
    return [y.detach(), *torch.autograd.grad(y, args, weight * upstream)]


def test_is_a_well_formed_operator() -> None:
    torch.library.opcheck(torch.ops.imlctl.bi_wkv.default, tuple(inputs(9)))


@pytest.mark.parametrize("block", [1, 3 * 65, 7 * 65 + 3])
def test_cutting_into_blocks_changes_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = answers(inputs(65))
    monkeypatch.setattr(wkv_op, "_BLOCK_VALUES", block)
    for cut, expected in zip(answers(inputs(65)), whole, strict=True):
        assert torch.equal(cut, expected)


@pytest.mark.parametrize("values", [0.0, 1e-42, 1e-25, 1e25])
def test_gradients_hold_for_values_of_any_size(values: float) -> None:
    """A silent channel must still be able to learn: d y / d v does not depend on v."""
    *_, actual = answers(inputs(65, values=values), upstream=1e-6)
    *_, expected = answers(inputs(65, dtype=torch.float64))
    scale = float(expected.abs().max())
    assert float((actual * 1e6 - expected).abs().max()) < 2e-5 * scale


def test_key_gradient_scales_with_the_values() -> None:
    for values in (1e-25, 1e25):
        _, _, _, actual, _ = answers(inputs(65, values=values))
        _, _, _, expected, _ = answers(inputs(65, dtype=torch.float64))
        scale = float(expected.abs().max())
        assert float((actual.double() / values - expected).abs().max()) < 2e-5 * scale


def test_flop_counter_sees_it_and_finds_it_linear() -> None:
    def flops(length: int) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            bi_wkv(*inputs(length))
        return int(counter.get_total_flops())

    counts = [flops(length) for length in (100, 200, 400)]
    assert counts[0] > 2 * 2 * 4 * 100  # more than one multiply-accumulate for each value
    assert counts == [counts[0], 2 * counts[0], 4 * counts[0]]


def test_shapes_are_known_without_data() -> None:
    args = [x.detach().to("meta").requires_grad_() for x in inputs(65)]
    for answer, like in zip(answers(args), [args[3], *args], strict=True):
        assert answer.is_meta
        assert answer.shape == like.shape
