"""The bidirectional WKV operator: attention-like mixing over T tokens in O(T) time and memory.

Two published forms, both exact, in plain torch:

`bi_wkv`
    Vision-RWKV (Duan et al. 2024, Eq. 5), scalar state per channel, decay divided by T.
`bi_wkv6`
    Vision-RWKV6 (OpenGVLab/Vision-RWKV; RWKV-6, Peng et al. 2024), matrix state per head,
    decay per token and channel.

Both compute in float32 at least, since neither exponentials nor running sums survive bfloat16.
`bi_wkv` is a registered operator with a closed-form backward and a FLOP formula; on CUDA it runs as
Triton kernels where they can be had, see `wkv_cuda`.

Write K for its symmetric kernel K_ti = e^{-(|t-i|-1) lam} (i != t), K_tt = e^{mu}, lam = w/T,
mu = u/T, and e_i = e^{k_i - max k}. Then y = K(e v) / K(e). With positions p_t centred on 0 the
kernel's two triangles are weighted running sums:
  before_t = e^{lam (1 - p_t)} sum_{i<t} e^{ lam p_i} x_i
  after_t  = e^{lam (1 + p_t)} sum_{i>t} e^{-lam p_i} x_i
|lam p| <= |w|/2, and the largest key bounds each denominator below by e^{-|w|}: nothing
overflows and no epsilon is needed. The two sums are never got as total minus prefix, which
would cancel. Forward, they run over chunks of tokens, each summed by a matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from imlctl.core.layers import full_precision

# exp(-30) is below float32 resolution: a state that decays faster is already forgotten.
_MIN_LOG_DECAY6 = -30.0
_CHUNK6 = 32  # tokens of a chunk of `bi_wkv6`
# Log decay over a chunk down to which its weights may be factored: e^{+-80} lies within float32.
_FACTORED_RANGE = 160.0
# Beyond this a token T/60 away already weighs 1/e of its neighbour. Larger values change nothing a
# picture could show, but would push exp(+-w/2) towards the ends of float32.
MAX_DECAY = 60.0
# Values handled at once by `bi_wkv`: bounds its temporaries, and keeps them in the cache.
_BLOCK_VALUES = 1 << 19
# The same for its backward, which holds several times as many: this takes half the time of 1 << 19.
_BLOCK_VALUES_BACKWARD = 1 << 17
# Tokens of a chunk of `bi_wkv`: all where there are no more, half as many up to its square.
_CHUNK = 32
# Multiply-accumulates per token and channel of `bi_wkv`: two sums (numerator, denominator), each
# scanned both ways with a weight before and after, and the token's own term.
_MACS_PER_VALUE = 2 * (2 * 2 + 1)

# Values are divided by their largest magnitude, or by this where all are smaller: the backward
# multiplies by it, and the gradient of a silent channel must not underflow.
LEAST_SCALE = 1e-20


def bi_wkv(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Mix every token with every other, weighted by content and distance (Vision-RWKV, Eq. 5).

    y_t = [ sum_{i!=t} e^{-(|t-i|-1) w/T + k_i} v_i + e^{u/T + k_t} v_t ] / [ the same with v = 1 ]

    Each output is a convex combination of the values, so it never exceeds them.

    Args:
        decay: w, shape (C,). Negative decays favour far tokens. Clamped to +-`MAX_DECAY`.
        bonus: u, shape (C,). Clamped likewise.
        key: k, shape (B, C, T).
        value: v, shape (B, C, T).

    Returns:
        y, shape (B, C, T), in the dtype of `value`. Finite for any finite input.

    Raises a `ValueError` if the shapes do not fit together.
    """
    channels = key.shape[1] if key.ndim == 3 else -1
    if key.shape != value.shape or decay.shape != (channels,) or bonus.shape != (channels,):
        raise ValueError(
            "bi_wkv takes decay (C,), bonus (C,), key (B, C, T) and value (B, C, T); got "
            f"{tuple(decay.shape)}, {tuple(bonus.shape)}, {tuple(key.shape)}, {tuple(value.shape)}"
        )
    dtype = torch.promote_types(value.dtype, torch.float32)
    args = (decay.to(dtype), bonus.to(dtype), key.to(dtype), value.to(dtype))
    with full_precision(value.device):
        return torch.ops.imlctl.bi_wkv(*args).to(value.dtype)  # type: ignore[no-any-return]


def bi_wkv6(
    receptance: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, bonus: Tensor
) -> Tensor:
    """Mix tokens through a matrix-valued state that runs both ways (Vision-RWKV6).

    y_t = r_t [ S_t + S'_t + diag(u) k_t v_t^T ] with S_{t+1} = diag(d_t) S_t + k_t v_t^T,
    d = e^{log_decay}, and S' its mirror image. Computed in chunks: matrix products within a chunk,
    a running state between chunks.

    Args:
        receptance: r, shape (B, H, T, K).
        key: k, shape (B, H, T, K).
        value: v, shape (B, H, T, V).
        log_decay: Log of the decay of each token and channel, shape (B, H, T, K); positive values
            count as 0, values under -30 as -30.
        bonus: u, shape (H, K).

    Returns:
        y, shape (B, H, T, V), in the dtype of `value`. Never NaN for finite input; a result beyond
        the dtype's range saturates.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    with full_precision(value.device):
        r, k, v, u = (x.to(dtype) for x in (receptance, key, value, bonus))
        log_d = log_decay.to(dtype).clamp(_MIN_LOG_DECAY6, 0.0)
        # y is linear in r, k, v and (1, u): taking their scales out first keeps every sum in range.
        scales = [x.detach().abs().amax((-2, -1), keepdim=True).clamp_min(1e-30) for x in (r, k, v)]
        r, k, v = (x / s for x, s in zip((r, k, v), scales, strict=True))
        u_scale = u.detach().abs().amax().clamp_min(1.0)
        own = (r * (u / u_scale)[:, None] * k).sum(-1, keepdim=True) * v * u_scale
        mirrored = _scan6(*(x.flip(-2) for x in (r, k, v, log_d))).flip(-2)
        y = _scan6(r, k, v, log_d) + mirrored + own  # (B, H, T, V)
        limit = torch.finfo(value.dtype).max
        for scale in scales:
            y = (y * scale).clamp(-limit, limit)
    return y.to(value.dtype)


def _scan6(r: Tensor, k: Tensor, v: Tensor, log_d: Tensor) -> Tensor:
    """Forward half of `bi_wkv6`: y_t = r_t S_t, the state before token t is added."""
    length = r.shape[-2]
    padding = (0, 0, 0, -length % _CHUNK6)
    maps = (F.pad(x, padding) for x in (r, k, v, log_d))
    r, k, v, log_d = (torch.unflatten(x, -2, (-1, _CHUNK6)) for x in maps)  # (B, H, N, L, .)
    after = log_d.cumsum(-2)  # log decay from the chunk's start through each token
    before = after - log_d
    total = after[..., -1:, :]  # (B, H, N, 1, K)
    left = k * (total - after).exp()
    gained = left.mT @ v  # (B, H, N, K, V), what each chunk adds to the state
    state, states = torch.zeros_like(gained[:, :, 0]), []
    # unbind, not indexing: the backward of an index is a zero-filled copy of the whole
    for keep, gain in zip(total.exp().mT.unbind(2), gained.unbind(2), strict=True):
        states.append(state)
        state = keep * state + gain
    y = _within_chunks6(r, k, before, after) @ v + (r * before.exp()) @ torch.stack(states, dim=2)
    return y.flatten(2, 3)[:, :, :length]


def _within_chunks6(r: Tensor, k: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Weights of earlier tokens of the same chunk, sum_c r_tc k_ic e^{before_tc - after_ic}.

    Shape (B, H, N, L, L).
    """
    if float(after[..., -1, :].detach().amin()) > -_FACTORED_RANGE:
        middle = after[..., -1:, :] / 2
        weight = (r * (before - middle).exp()) @ (k * (middle - after).exp()).mT
        return weight.tril(-1)
    # Such decays overflow when factored; their differences never do, at L times the memory.
    earlier = torch.ones(_CHUNK6, _CHUNK6, dtype=torch.bool, device=r.device).tril(-1)[..., None]
    chunks = []
    each = (x.unbind(2) for x in (r, k, before, after))
    for r_n, k_n, before_n, after_n in zip(*each, strict=True):
        gap = before_n.unsqueeze(-2) - after_n.unsqueeze(-3)  # (B, H, L, L, K)
        weight = gap.masked_fill(~earlier, -torch.inf).exp()
        chunks.append((r_n.unsqueeze(-2) * k_n.unsqueeze(-3) * weight).sum(-1))
    return torch.stack(chunks, dim=2)


class _Kernel:
    """The triangles of K for one block of rows; every method takes and returns (..., R, T)."""

    def __init__(self, lam: Tensor, length: int) -> None:
        self.p = torch.arange(length, device=lam.device, dtype=lam.dtype) - (length - 1) / 2
        self.rise = (lam * self.p).exp()  # (R, T)
        self.fall = self.rise.flip(-1)  # e^{-lam p}, since p is even about 0
        self.step = lam.exp()  # (R, 1)

    def before(self, x: Tensor) -> Tensor:
        """Sum over earlier tokens."""
        sums = F.pad((x * self.rise)[..., :-1].cumsum(-1), (1, 0))
        return sums.mul_(self.fall).mul_(self.step)

    def after(self, x: Tensor) -> Tensor:
        """Sum over later tokens."""
        sums = F.pad((x * self.fall)[..., 1:].flip(-1).cumsum(-1), (1, 0)).flip(-1)
        return sums.mul_(self.rise).mul_(self.step)


def _mix(lam: Tensor, own: Tensor, x: Tensor) -> Tensor:
    """K(x), (R, 2, T) to the same: by matrix products within chunks of tokens, sums between them.

    A product takes a fraction of the time of running along the rows, though it multiplies more.
    """
    rows, _, length = x.shape
    size = length if length <= _CHUNK else _CHUNK if length > _CHUNK**2 else _CHUNK // 2
    chunks = F.pad(x, (0, -length % size)) if length % size else x
    chunks = chunks.view(rows, -1, size)  # (R, 2 N, L)
    t = torch.arange(size, device=x.device, dtype=x.dtype)
    gap = (t[:, None] - t).abs() - 1  # (L, L)
    near = torch.where(gap < 0, own[..., None], (-lam[..., None] * gap).exp())  # (R, L, L)
    y = chunks @ near
    if (count := chunks.shape[1] // 2) > 1:
        first = (-lam * t).exp()  # seen from a chunk's first token, (R, L)
        last = first.flip(-1)
        sums = chunks @ torch.stack((last, first), dim=-1)  # (R, 2 N, 2)
        ends, starts = sums.view(rows, 2, count, 2).permute(3, 1, 0, 2)  # each (2, R, N)
        between = _Kernel(lam * size, count)
        beyond = torch.stack((between.before(ends), between.after(starts)), dim=-1)
        beyond = beyond.transpose(0, 1).reshape(rows, -1, 2)  # (R, 2 N, 2)
        y.baddbmm_(beyond, torch.stack((first, last), dim=1))
    return y.view(rows, 2, -1)[..., :length]


def _blocks(
    values: int, decay: Tensor, bonus: Tensor, *maps: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor, tuple[Tensor, ...]]]:
    """Cut maps (B, C, T) into blocks of rows (R, T) of `values`, each with lam and e^mu, (R, 1).

    Rows are independent of each other, so this is where memory is bounded.
    """
    batch, channels, length = maps[0].shape
    rows = max(1, values // length)
    flat = tuple(x.reshape(batch * channels, length).contiguous() for x in maps)
    lam, mu = (
        x.clamp(-MAX_DECAY, MAX_DECAY).div(length).repeat(batch)[:, None] for x in (decay, bonus)
    )
    for start in range(0, batch * channels, rows):
        block = slice(start, start + rows)
        yield block, lam[block], mu[block].exp(), tuple(x[block] for x in flat)


def _scaled(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return e^{k - max k}, the values divided by their largest magnitude, and that magnitude."""
    scale = value.abs().amax(-1, keepdim=True).clamp_min(LEAST_SCALE)
    return (key - key.amax(-1, keepdim=True)).exp_(), value / scale, scale


def _bi_wkv(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out = torch.empty_like(value, memory_format=torch.contiguous_format)
    length = out.shape[-1]
    rows = out.view(-1, length)
    for block, lam, own, (k, v) in _blocks(_BLOCK_VALUES, decay, bonus, key, value):
        both = k.new_empty(len(k), 2, length)
        e, v, scale = _scaled(k, v)
        torch.mul(e, v, out=both[:, 0])
        both[:, 1] = e
        numerator, denominator = _mix(lam, own, both).unbind(1)  # each (R, T)
        torch.mul(numerator.div_(denominator), scale, out=rows[block])
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
    maps = (grad, key, value)
    for block, lam, own, (g, k, v) in _blocks(_BLOCK_VALUES_BACKWARD, decay, bonus, *maps):
        kernel = _Kernel(lam, length)
        e, v, scale = _scaled(k, v)
        num, den = _Sides(kernel, own, e * v), _Sides(kernel, own, e)
        down = g / den.sum()
        into_num = _Sides(kernel, own, down * scale)  # dL/dK(ev)
        into_den = _Sides(kernel, own, -into_num.x * num.sum() / den.sum())  # dL/dK(e)
        to_num, to_den = into_num.sum(), into_den.sum()  # dL/d(ev), dL/de
        grads[0][block] = e * (v * to_num + to_den)
        grads[1][block] = e * to_num / scale
        per_row[0][block] = _decay_gradient(into_num, num) + _decay_gradient(into_den, den)
        alone = (into_num.x * num.x + into_den.x * den.x).sum(-1)
        per_row[1][block] = alone * own[:, 0]
    grad_decay, grad_bonus = (x.view(-1, channels).sum(0) / length for x in per_row)
    inside = [x.abs() <= MAX_DECAY for x in (decay, bonus)]
    shaped = [x.view(key.shape) for x in grads]
    return grad_decay * inside[0], grad_bonus * inside[1], shaped[0], shaped[1]


class _Sides:
    """Both triangles of the kernel applied to x, kept apart for the decay's gradient."""

    def __init__(self, kernel: _Kernel, own: Tensor, x: Tensor) -> None:
        self.p, self.own, self.x = kernel.p, own, x
        self.before, self.after = kernel.before(x), kernel.after(x)

    def sum(self) -> Tensor:
        """K(x)."""
        return (self.before + self.after).addcmul_(self.own.expand_as(self.x), self.x)


def _decay_gradient(into: _Sides, x: _Sides) -> Tensor:
    """d/dlam of sum_t into_t (before(x) + after(x))_t, shape (R,).

    The weight of a pair is 1 - |p_t - p_i|; its p_i half moves to the adjoint scan.
    """
    p = x.p
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


def _flops(decay: list[int], bonus: list[int], key: list[int], *_: object, **__: object) -> int:
    """Floating-point operations: two per multiply-accumulate, as the counter counts."""
    return 2 * _MACS_PER_VALUE * math.prod(key)


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
for _name, _plain in (("bi_wkv", _bi_wkv), ("bi_wkv_backward", _bi_wkv_backward)):
    _library.impl(_name, _plain, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("imlctl::bi_wkv", _bi_wkv_fake, lib=_library)
torch.library.register_fake("imlctl::bi_wkv_backward", _bi_wkv_backward_fake, lib=_library)
torch.library.register_autograd(
    "imlctl::bi_wkv", _backward, setup_context=_save_for_backward, lib=_library
)
register_flop_formula(torch.ops.imlctl.bi_wkv)(_flops)
