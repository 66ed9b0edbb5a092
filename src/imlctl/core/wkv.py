"""The bidirectional WKV operator: attention-like mixing over T tokens in O(T) time and memory.

Two published forms, both exact, in plain torch:

`bi_wkv`
    Vision-RWKV (Duan et al. 2024, Eq. 5), scalar state per channel, decay divided by T.
`bi_wkv6`
    Vision-RWKV6 (OpenGVLab/Vision-RWKV; RWKV-6, Peng et al. 2024), matrix state per head,
    decay per token and channel.

Both compute in float32 at least, whatever the input's dtype, since neither exponentials nor
running sums survive bfloat16. `bi_wkv` is a registered operator with a closed-form backward and a
FLOP formula, so `torch.utils.flop_counter.FlopCounterMode` sees it; on CUDA it runs as Triton
kernels where they can be had, see `wkv_cuda`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

import imlctl.core.wkv_cuda  # noqa: F401 - registers torch.ops.imlctl.bi_wkv, and what CUDA does
from imlctl.core.layers import full_precision

# exp(-30) is below float32 resolution: a state that decays faster is already forgotten.
_MIN_LOG_DECAY6 = -30.0
# Tokens of a chunk of `bi_wkv6`.
_CHUNK6 = 32
# Log decay over a chunk down to which its weights may be factored: e^{+-80} lies within float32.
_FACTORED_RANGE = 160.0


def bi_wkv(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Mix every token with every other, weighted by content and distance (Vision-RWKV, Eq. 5).

    y_t = [ sum_{i!=t} e^{-(|t-i|-1) w/T + k_i} v_i + e^{u/T + k_t} v_t ] / [ the same with v = 1 ]

    Each output is a convex combination of the values, so it never exceeds them.

    Args:
        decay: w, shape (C,). Negative decays favour far tokens. Clamped to +-`wkv_op.MAX_DECAY`.
        bonus: u, shape (C,). Clamped likewise.
        key: k, shape (B, C, T).
        value: v, shape (B, C, T).

    Returns:
        y, shape (B, C, T), in the dtype of `value`. Finite for any finite input.

    Raises:
        ValueError: The shapes do not fit together.
    """
    channels = key.shape[1] if key.ndim == 3 else -1
    if key.shape != value.shape or decay.shape != (channels,) or bonus.shape != (channels,):
        raise ValueError(
            "bi_wkv takes decay (C,), bonus (C,), key (B, C, T) and value (B, C, T); got "
            f"{tuple(decay.shape)}, {tuple(bonus.shape)}, {tuple(key.shape)}, {tuple(value.shape)}"
        )
    dtype = torch.promote_types(value.dtype, torch.float32)
    args = (decay.to(dtype), bonus.to(dtype), key.to(dtype), value.to(dtype))
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
    gained = (
        k * (total - after).exp()
    ).mT @ v  # (B, H, N, K, V), what each chunk adds to the state
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
    for r_n, k_n, before_n, after_n in zip(
        *(x.unbind(2) for x in (r, k, before, after)), strict=True
    ):
        gap = before_n.unsqueeze(-2) - after_n.unsqueeze(-3)  # (B, H, L, L, K)
        weight = gap.masked_fill(~earlier, -torch.inf).exp()
        chunks.append((r_n.unsqueeze(-2) * k_n.unsqueeze(-3) * weight).sum(-1))
    return torch.stack(chunks, dim=2)
