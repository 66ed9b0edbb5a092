from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from imlctl.core import wkv
from imlctl.core.wkv import MAX_DECAY, bi_wkv, bi_wkv6

if TYPE_CHECKING:
    from collections.abc import Callable


from torch import Tensor

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def oracle(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The definition of `bi_wkv` read aloud, in float64 and O(T^2)."""
    w, u = (x.double().clamp(-MAX_DECAY, MAX_DECAY)[:, None, None] for x in (decay, bonus))
    k, v = key.double()[:, :, None], value.double()[:, :, None]  # (B, C, 1, T)
    length = key.shape[-1]
    t = torch.arange(length)
    gap = (t[:, None] - t).abs() - 1  # (T, T)
    exponent = torch.where(gap < 0, u / length, -gap * w / length)  # (C, T, T)
    k = k - k.amax(-1, keepdim=True)  # the weights' ratios stay, and huge keys lose no digits
    return ((exponent + k).softmax(-1) * v).sum(-1)


def oracle6(r: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, bonus: Tensor) -> Tensor:
    """The definition of `bi_wkv6` read aloud: one token after the other, both ways, in float64."""
    r, k, v, bonus = (x.double() for x in (r, k, v, bonus))
    decay = log_decay.double().clamp(-30, 0).exp()
    length = r.shape[-2]
    y = (r * bonus[:, None] * k).sum(-1, keepdim=True) * v
    for order in (range(length), range(length - 1, -1, -1)):
        state = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1], dtype=torch.float64)
        for t in order:
            seen = (r[:, :, t, None] @ state)[:, :, 0]
            y = y + torch.nn.functional.pad(seen[:, :, None], (0, 0, t, length - t - 1))
            state = decay[:, :, t, :, None] * state + k[:, :, t, :, None] * v[:, :, t, None]
    return y


def inputs(length: int, *, channels: int = 4, keys: float = 2.0, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    decay = torch.linspace(-8, 20, channels)
    bonus = torch.randn(channels, generator=g) * 3
    key, value = (torch.randn(2, channels, length, generator=g) for _ in range(2))
    return [decay, bonus, key * keys, value]


def inputs6(length: int, log_decay: tuple[float, float], *, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    r, k = (torch.randn(2, 3, length, 4, generator=g) for _ in range(2))
    v = torch.randn(2, 3, length, 5, generator=g)
    low, high = log_decay
    decay = torch.rand(2, 3, length, 4, generator=g) * (high - low) + low
    return [r, k, v, decay, torch.randn(3, 4, generator=g)]


def gradients(fn: Callable[..., Tensor], args: list[Tensor], *, scale: float = 1.0) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in args]
    y = fn(*leaves)
    weight = torch.linspace(-scale, scale, y.numel(), dtype=y.dtype).view_as(y)
    return list(torch.autograd.grad((y * weight).sum(), leaves))


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare against the largest of the expected values."""
    expected = expected.double()
    scale = float(expected.abs().max().clamp_min(1e-3))
    assert torch.isfinite(actual).all()
    assert float((actual.double() - expected).abs().max()) / scale < tolerance


class TestBiWKV:
    @pytest.mark.parametrize("length", [1, 2, 3, 65, 257])
    @pytest.mark.parametrize("keys", [0.0, 2.0, 20.0])
    def test_agrees_with_its_definition(self, length: int, keys: float) -> None:
        args = inputs(length, keys=keys)
        assert_near(bi_wkv(*args), oracle(*args), 5e-6)

    @pytest.mark.parametrize("length", [1, 2, 3, 65, 257])
    def test_gradients_agree_with_the_definition(self, length: int) -> None:
        args = inputs(length)
        for actual, expected in zip(gradients(bi_wkv, args), gradients(oracle, args), strict=True):
            assert_near(actual, expected, 2e-5)

    @pytest.mark.parametrize("decay", [-1e4, -61.0, -60.0, 0.0, 60.0, 61.0, 1e4])
    def test_extreme_decays(self, decay: float) -> None:
        args = inputs(129)
        args[0] = torch.full_like(args[0], decay)
        args[1] = torch.tensor([-1e3, -60.0, 60.0, 1e3])
        assert_near(bi_wkv(*args), oracle(*args), 5e-6)
        for actual, expected in zip(gradients(bi_wkv, args), gradients(oracle, args), strict=True):
            assert_near(actual, expected, 1e-4)

    def test_clamped_parameters_get_no_gradient(self) -> None:
        args = inputs(33)
        args[0] = torch.tensor([-60.5, -59.5, 59.5, 60.5])
        args[1] = args[0].clone()
        decay, bonus = gradients(bi_wkv, args)[:2]
        for grad in (decay, bonus):
            assert grad[[0, 3]].tolist() == [0, 0]
            assert (grad[[1, 2]] != 0).all()

    @pytest.mark.parametrize("extreme", [1e4, -1e30, 3e38, -3e38])
    def test_extreme_keys(self, extreme: float) -> None:
        args = inputs(65)
        args[2][:, :, ::7] = extreme
        assert_near(bi_wkv(*args), oracle(*args), 5e-6)
        for actual, expected in zip(gradients(bi_wkv, args), gradients(oracle, args), strict=True):
            assert_near(actual, expected, 1e-4)

    def test_gradcheck(self) -> None:
        args = [x.double().requires_grad_() for x in inputs(7)]
        assert torch.autograd.gradcheck(bi_wkv, args)

    def test_bfloat16_is_the_float32_result_rounded(self) -> None:
        short = [x.bfloat16() for x in inputs(65)]
        y = bi_wkv(*short)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, bi_wkv(*(x.float() for x in short)).bfloat16())

    def test_autocast_changes_nothing(self) -> None:
        args = inputs(65)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(bi_wkv(*args), bi_wkv(*args))
            inside = bi_wkv(*args)
        assert torch.equal(inside, bi_wkv(*args))

    @settings(max_examples=80, deadline=None)
    @given(data=st.data(), length=st.integers(1, 40))
    def test_stays_within_the_values_for_any_finite_input(
        self, data: st.DataObject, length: int
    ) -> None:
        def draw(*shape: int) -> Tensor:
            return torch.from_numpy(data.draw(hnp.arrays(np.float32, shape, elements=FINITE)))

        value = draw(1, 2, length)
        y = bi_wkv(draw(2), draw(2), draw(1, 2, length), value).double()
        slack = 1e-5 * value.double().abs().amax(-1) + 1e-37
        assert torch.isfinite(y).all()
        assert (y.amax(-1) <= value.double().amax(-1) + slack).all()
        assert (y.amin(-1) >= value.double().amin(-1) - slack).all()

    def test_has_no_preferred_direction(self) -> None:
        decay, bonus, key, value = inputs(65)
        mirrored = bi_wkv(decay, bonus, key.flip(-1), value.flip(-1)).flip(-1)
        torch.testing.assert_close(mirrored, bi_wkv(decay, bonus, key, value), rtol=0, atol=5e-6)

    def test_memory_layout_does_not_matter(self) -> None:
        decay, bonus, key, value = inputs(65)
        strided = [x.mT.contiguous().mT for x in (key, value)]
        assert not strided[0].is_contiguous()
        assert torch.equal(bi_wkv(decay, bonus, *strided), bi_wkv(decay, bonus, key, value))
        for a, b in zip(
            gradients(bi_wkv, [decay, bonus, *strided]),
            gradients(bi_wkv, [decay, bonus, key, value]),
            strict=True,
        ):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("wrong", [0, 1, 2, 3])
    def test_refuses_shapes_that_do_not_fit(self, wrong: int) -> None:
        args = inputs(5)
        args[wrong] = args[wrong][..., :-1]
        with pytest.raises(ValueError, match=r"bi_wkv takes decay \(C,\)"):
            bi_wkv(*args)

    def test_its_work_is_linear_in_the_length(self) -> None:
        """Counted in the numbers that its operators write; a quadratic one would write 64 times."""

        def written(length: int) -> int:
            with Written() as seen:
                wkv._bi_wkv(*inputs(length))
            return seen.numbers

        assert written(32768) / written(4096) == pytest.approx(8, rel=0.05)


class Written(TorchDispatchMode):
    """Counts the numbers that operators return, views and copies included."""

    numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, (tuple, list)) else (found,):
            self.numbers += each.numel() if isinstance(each, Tensor) else 0
        return found


class TestBiWKV6:
    MILD = (-2.0, -0.001)
    EXTREME = (-40.0, 0.5)  # also beyond the clamps on both sides

    @pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 77])
    @pytest.mark.parametrize("log_decay", [MILD, EXTREME])
    def test_agrees_with_its_definition(self, length: int, log_decay: tuple[float, float]) -> None:
        args = inputs6(length, log_decay)
        assert_near(bi_wkv6(*args), oracle6(*args), self.tolerance(log_decay))

    @pytest.mark.parametrize("log_decay", [MILD, EXTREME])
    def test_gradients_agree_with_the_definition(self, log_decay: tuple[float, float]) -> None:
        args = inputs6(37, log_decay)
        for actual, expected in zip(
            gradients(bi_wkv6, args), gradients(oracle6, args), strict=True
        ):
            assert_near(actual, expected, self.tolerance(log_decay))

    def tolerance(self, log_decay: tuple[float, float]) -> float:
        """A gap between neighbours is the difference of two sums of up to 32 log decays."""
        return 1e-6 * max(10.0, -32 * log_decay[0] / 8)

    @pytest.mark.parametrize("log_decay", [(-1.0, -0.01), (-29.0, -20.0)])
    def test_gradcheck(
        self, log_decay: tuple[float, float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wkv, "_CHUNK6", 4)
        monkeypatch.setattr(wkv, "_FACTORED_RANGE", 40.0)
        r, k, v, decay, bonus = inputs6(5, log_decay)
        args = [x.double()[:1, :1] for x in (r, k, v, decay)] + [bonus.double()[:1]]
        assert torch.autograd.gradcheck(bi_wkv6, [x.clone().requires_grad_() for x in args])

    @pytest.mark.parametrize("chunk", [1, 5, 64])
    @pytest.mark.parametrize("log_decay", [MILD, EXTREME])
    def test_chunk_size_does_not_matter(
        self, chunk: int, log_decay: tuple[float, float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        args = inputs6(77, log_decay)
        expected = bi_wkv6(*args)
        monkeypatch.setattr(wkv, "_CHUNK6", chunk)
        assert_near(bi_wkv6(*args), expected, self.tolerance(log_decay))

    def test_bfloat16_is_the_float32_result_rounded(self) -> None:
        short = [x.bfloat16() for x in inputs6(40, self.MILD)]
        y = bi_wkv6(*short)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, bi_wkv6(*(x.float() for x in short)).bfloat16())

    def test_stays_accurate_under_autocast(self) -> None:
        args = inputs6(40, self.MILD)
        with torch.autocast("cpu", torch.bfloat16):
            inside = bi_wkv6(*args)
        assert torch.equal(inside, bi_wkv6(*args))

    def test_has_no_preferred_direction(self) -> None:
        args = inputs6(40, self.MILD)
        turned = [x.flip(-2) for x in args[:4]] + args[4:]
        assert_near(bi_wkv6(*turned).flip(-2), bi_wkv6(*args), 1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_saturates_beyond_the_range(self, dtype: torch.dtype) -> None:
        huge = torch.full((1, 1, 9, 2), torch.finfo(dtype).max, dtype=dtype)
        y = bi_wkv6(huge, huge, -huge, torch.zeros_like(huge), torch.ones(1, 2))
        assert torch.equal(y, torch.full_like(y, torch.finfo(dtype).min))

    @settings(max_examples=80, deadline=None)
    @given(data=st.data(), length=st.integers(1, 40))
    def test_is_finite_for_any_finite_input(self, data: st.DataObject, length: int) -> None:
        def draw(*shape: int) -> Tensor:
            return torch.from_numpy(data.draw(hnp.arrays(np.float32, shape, elements=FINITE)))

        r, k, v, decay = (draw(1, 2, length, 2) for _ in range(4))
        assert torch.isfinite(bi_wkv6(r, k, v, decay, draw(2, 2))).all()

    def test_work_is_linear_in_the_length(self) -> None:
        def flops(length: int) -> int:
            with FlopCounterMode(display=False) as counter:
                bi_wkv6(*inputs6(length, self.MILD))
            return int(counter.get_total_flops())

        counts = [flops(length) for length in (64, 128, 256)]
        assert counts == [counts[0], 2 * counts[0], 4 * counts[0]]
        assert counts[0] > 0


def leaves(length: int, *, values: float = 1.0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
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
    torch.library.opcheck(torch.ops.imlctl.bi_wkv.default, tuple(leaves(9)))


@pytest.mark.parametrize("block", [1, 3 * 65, 7 * 65 + 3])
def test_cutting_into_blocks_changes_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = answers(leaves(65))
    monkeypatch.setattr(wkv, "_BLOCK_VALUES", block)
    monkeypatch.setattr(wkv, "_BLOCK_VALUES_BACKWARD", block)
    for cut, expected in zip(answers(leaves(65)), whole, strict=True):
        assert torch.equal(cut, expected)


@pytest.mark.parametrize("values", [0.0, 1e-42, 1e-25, 1e25])
def test_gradients_hold_for_values_of_any_size(values: float) -> None:
    """A silent channel must still be able to learn: d y / d v does not depend on v."""
    *_, actual = answers(leaves(65, values=values), upstream=1e-6)
    *_, expected = answers(leaves(65, dtype=torch.float64))
    scale = float(expected.abs().max())
    assert float((actual * 1e6 - expected).abs().max()) < 2e-5 * scale


def test_key_gradient_scales_with_the_values() -> None:
    for values in (1e-25, 1e25):
        _, _, _, actual, _ = answers(leaves(65, values=values))
        _, _, _, expected, _ = answers(leaves(65, dtype=torch.float64))
        scale = float(expected.abs().max())
        assert float((actual.double() / values - expected).abs().max()) < 2e-5 * scale


def test_flop_counter_sees_it_and_finds_it_linear() -> None:
    def flops(length: int) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            bi_wkv(*leaves(length))
        return int(counter.get_total_flops())

    counts = [flops(length) for length in (100, 200, 400)]
    assert counts[0] > 2 * 2 * 4 * 100  # more than one multiply-accumulate for each value
    assert counts == [counts[0], 2 * counts[0], 4 * counts[0]]


def test_shapes_are_known_without_data() -> None:
    args = [x.detach().to("meta").requires_grad_() for x in leaves(65)]
    for answer, like in zip(answers(args), [args[3], *args], strict=True):
        assert answer.is_meta
        assert answer.shape == like.shape
