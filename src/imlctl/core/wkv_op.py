"""The registered operator behind `wkv.bi_wkv`, with its closed-form backward and FLOP formula.

Write K for the symmetric kernel K_ti = e^{-(|t-i|-1) lam} (i != t), K_tt = e^{mu}, lam = w/T,
mu = u/T, and e_i = e^{k_i - max k}. Then y = K(e v) / K(e). With positions p_t centred on 0 the
kernel's two triangles are weighted running sums:
  before_t = e^{lam (1 - p_t)} sum_{i<t} e^{ lam p_i} x_i
  after_t  = e^{lam (1 + p_t)} sum_{i>t} e^{-lam p_i} x_i
|lam p| <= |w|/2, and the largest key bounds each denominator below by e^{-|w|}: nothing
overflows and no epsilon is needed. The two sums are never got as total minus prefix, which
would cancel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

if TYPE_CHECKING:
    from collections.abc import Iterator

# Beyond this a token T/60 away already weighs 1/e of its neighbour. Larger values change nothing a
# picture could show, but would push exp(+-w/2) towards the ends of float32.
MAX_DECAY = 60.0
# Values handled at once by `bi_wkv`: bounds its temporaries, and keeps them in the cache.
_BLOCK_VALUES = 1 << 20
# Multiply-accumulates per token and channel of `bi_wkv`: two sums (numerator, denominator), each
# scanned both ways with a weight before and after, and the token's own term.
_MACS_PER_VALUE = 2 * (2 * 2 + 1)

# Values are divided by their largest magnitude, or by this where all are smaller: the backward
# multiplies by it, and the gradient of a silent channel must not underflow.
LEAST_SCALE = 1e-20


class _Kernel:
    """K for one block of rows; every method takes and returns (R, T)."""

    def __init__(self, decay: Tensor, bonus: Tensor, length: int) -> None:
        self.lam = decay.clamp(-MAX_DECAY, MAX_DECAY)[:, None] / length  # (R, 1)
        self.own = (bonus.clamp(-MAX_DECAY, MAX_DECAY)[:, None] / length).exp()
        self.p = torch.arange(length, device=decay.device, dtype=decay.dtype) - (length - 1) / 2
        self.rise = (self.lam * self.p).exp()  # (R, T)
        self.fall = (-self.lam * self.p).exp()
        self.step = self.lam.exp()

    def before(self, x: Tensor) -> Tensor:
        """Sum over earlier tokens."""
        sums = F.pad((x * self.rise)[:, :-1].cumsum(-1), (1, 0))
        return sums.mul_(self.fall).mul_(self.step)

    def after(self, x: Tensor) -> Tensor:
        """Sum over later tokens."""
        sums = F.pad((x * self.fall)[:, 1:].flip(-1).cumsum(-1), (1, 0)).flip(-1)
        return sums.mul_(self.rise).mul_(self.step)

    def __call__(self, x: Tensor) -> Tensor:
        return self.before(x).add_(self.after(x)).addcmul_(self.own.expand_as(x), x)


def _blocks(
    decay: Tensor, bonus: Tensor, *maps: Tensor
) -> Iterator[tuple[slice, _Kernel, tuple[Tensor, ...]]]:
    """Cut maps of shape (B, C, T) into blocks of rows (R, T), each with its kernel.

    Rows are independent of each other, so this is where memory is bounded.
    """
    batch, channels, length = maps[0].shape
    rows = max(1, _BLOCK_VALUES // length)
    flat = tuple(x.reshape(batch * channels, length) for x in maps)
    decay, bonus = decay.repeat(batch), bonus.repeat(batch)
    for start in range(0, batch * channels, rows):
        block = slice(start, start + rows)
        yield block, _Kernel(decay[block], bonus[block], length), tuple(x[block] for x in flat)


def _scaled(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return e^{k - max k}, the values divided by their largest magnitude, and that magnitude."""
    scale = value.abs().amax(-1, keepdim=True).clamp_min(LEAST_SCALE)
    return (key - key.amax(-1, keepdim=True)).exp(), value / scale, scale


def _bi_wkv(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out = torch.empty_like(value, memory_format=torch.contiguous_format)
    rows = out.view(-1, out.shape[-1])
    for block, kernel, (k, v) in _blocks(decay, bonus, key, value):
        e, v, scale = _scaled(k, v)
        torch.mul(kernel(e * v) / kernel(e), scale, out=rows[block])
    return out


def _bi_wkv_backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Closed-form gradients. K is symmetric, so the adjoint of each scan is its mirror image."""
    channels, length = key.shape[1:]
    grads = [
        torch.empty(key.numel() // length, length, dtype=key.dtype, device=key.device)
        for _ in range(2)
    ]
    per_row = [torch.empty(len(grads[0]), dtype=key.dtype, device=key.device) for _ in range(2)]
    for block, kernel, (g, k, v) in _blocks(decay, bonus, grad, key, value):
        e, v, scale = _scaled(k, v)
        num, den = _Sides(kernel, e * v), _Sides(kernel, e)
        down = g / den.sum()
        into_num = _Sides(kernel, down * scale)  # dL/dK(ev)
        into_den = _Sides(kernel, -into_num.x * num.sum() / den.sum())  # dL/dK(e)
        to_num, to_den = into_num.sum(), into_den.sum()  # dL/d(ev), dL/de
        grads[0][block] = e * (v * to_num + to_den)
        grads[1][block] = e * to_num / scale
        per_row[0][block] = _decay_gradient(into_num, num) + _decay_gradient(into_den, den)
        own = (into_num.x * num.x + into_den.x * den.x).sum(-1)
        per_row[1][block] = own * kernel.own[:, 0]
    grad_decay, grad_bonus = (x.view(-1, channels).sum(0) / length for x in per_row)
    inside = [x.abs() <= MAX_DECAY for x in (decay, bonus)]
    shaped = [x.view(key.shape) for x in grads]
    return grad_decay * inside[0], grad_bonus * inside[1], shaped[0], shaped[1]


class _Sides:
    """Both triangles of the kernel applied to x, kept apart for the decay's gradient."""

    def __init__(self, kernel: _Kernel, x: Tensor) -> None:
        self.kernel, self.x = kernel, x
        self.before, self.after = kernel.before(x), kernel.after(x)

    def sum(self) -> Tensor:
        """K(x)."""
        return (self.before + self.after).addcmul_(self.kernel.own.expand_as(self.x), self.x)


def _decay_gradient(into: _Sides, x: _Sides) -> Tensor:
    """d/dlam of sum_t into_t (before(x) + after(x))_t, shape (R,).

    The weight of a pair is 1 - |p_t - p_i|; its p_i half moves to the adjoint scan.
    """
    p = x.kernel.p
    here = into.x * ((1 - p) * x.before + (1 + p) * x.after)
    there = p * x.x * (into.after - into.before)
    return (here + there).sum(-1)


def _bi_wkv_fake(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(value, memory_format=torch.contiguous_format)


def _bi_wkv_backward_fake(
    grad: Tensor, decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(decay),
        torch.empty_like(bonus),
        torch.empty_like(key, memory_format=torch.contiguous_format),
        torch.empty_like(value, memory_format=torch.contiguous_format),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Any:
    return torch.ops.imlctl.bi_wkv_backward(grad.contiguous(), *ctx.saved_tensors)


def _flops(
    decay: list[int],
    bonus: list[int],
    key: list[int],
    value: list[int],
    *args: object,
    **kwargs: object,
) -> int:
    """Floating-point operations: two per multiply-accumulate, as the counter counts."""
    batch, channels, length = key
    return 2 * _MACS_PER_VALUE * batch * channels * length


# `torch.library.custom_op` would be shorter, but its first call imports torch's compiler: a second
# and a half of every cold start.
_library = torch.library.Library("imlctl", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "bi_wkv(Tensor decay, Tensor bonus, Tensor key, Tensor value) -> Tensor"
)
_library.define(  # type: ignore[no-untyped-call]
    "bi_wkv_backward(Tensor grad, Tensor decay, Tensor bonus, Tensor key, Tensor value)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.impl(  # type: ignore[no-untyped-call]
    "bi_wkv", _bi_wkv, "CompositeExplicitAutograd"
)
_library.impl(  # type: ignore[no-untyped-call]
    "bi_wkv_backward", _bi_wkv_backward, "CompositeExplicitAutograd"
)
torch.library.register_fake("imlctl::bi_wkv", _bi_wkv_fake, lib=_library)
torch.library.register_fake("imlctl::bi_wkv_backward", _bi_wkv_backward_fake, lib=_library)
torch.library.register_autograd(
    "imlctl::bi_wkv", _backward, setup_context=_save_for_backward, lib=_library
)
register_flop_formula(torch.ops.imlctl.bi_wkv)(_flops)
