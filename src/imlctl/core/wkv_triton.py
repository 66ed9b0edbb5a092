"""The bidirectional WKV on a graphics card: two Triton kernels, forward only.

The equations are those of `wkv`. Tokens are cut into chunks that run side by side. The first
kernel sums each chunk as its successors see it, from its last token, and as its predecessors do,
from its first. The second adds those sums up over all other chunks, which is what a chunk has to
know of them, and then runs through its own tokens. The backward pass reads the inputs alone, so
nothing is kept for it.

Importing this module imports triton; `wkv_cuda` does so, when a CUDA tensor first arrives.
"""

# Kernels are written in Triton's language, whose types mypy does not know.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from imlctl.core.wkv import LEAST_SCALE, MAX_DECAY

# Channels and tokens of a tile, and chunks whose sums are read at a time.
_CHANNELS, _TOKENS, _CHUNKS = 8, 256, 64
# What is known of a chunk: its largest key and value; then, seen from its last token and from its
# first, the sum of the values and that of their weights.
_FACTS = 6
# With 4 warps the second kernel needs more registers than there are. Fusing multiplications into
# additions is on or off by Triton's version; the results are not to depend on it.
_BUILD = {"num_warps": 8, "enable_fp_fusion": False}
# Triton would compile anew for sizes of 1 and for multiples of 16, so for many a picture.
_ANY_SIZE = ["channels", "length", "chunks", "table", "key_b", "value_b"]


@triton.jit
def _rate(parameter, channel, channels, length, LIMIT: tl.constexpr):
    """Clamp a parameter of each channel and divide it by T; (C, 1)."""
    rate = tl.load(parameter + channel, mask=channel < channels, other=0.0)
    return (tl.minimum(tl.maximum(rate, -LIMIT), LIMIT) / length)[:, None]


@triton.jit
def _start(pointer, batch, channel, over_batch, over_channels):
    """Point at the first token of each channel; (C, 1). In 64 bits, since batches can be large."""
    away = batch.to(tl.int64) * over_batch + channel.to(tl.int64) * over_channels
    return (pointer + away)[:, None]


@triton.jit
def _tile(decay, channels, length, LIMIT: tl.constexpr, C: tl.constexpr, L: tl.constexpr):
    """Say which tile a program has: its chunk, picture and channels (C,), its tokens (1, L).

    Then the last token there is, which channels (C,) and values (C, L) there are, and the decay.
    """
    chunk, groups = tl.program_id(0), tl.cdiv(channels, C)
    batch = tl.program_id(1) // groups
    channel = tl.program_id(1) % groups * C + tl.arange(0, C)
    at = tl.arange(0, L)[None, :]
    last = tl.minimum(length - chunk * L, L) - 1
    real = channel < channels
    inside = real[:, None] & (at <= last)
    lam = _rate(decay, channel, channels, length, LIMIT)
    return chunk, batch, channel, at, last, real, inside, lam


@triton.jit(do_not_specialize=_ANY_SIZE)
def _summarise(
    decay, key, value, facts,
    channels, length, chunks, table,
    key_b, key_c, key_t, value_b, value_c, value_t,
    LIMIT: tl.constexpr, LEAST: tl.constexpr, C: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Write the `_FACTS` of one chunk of C channels; `table` is the distance between two facts."""
    chunk, batch, channel, at, last, real, inside, lam = _tile(decay, channels, length, LIMIT, C, L)

    token = (chunk * L + at).to(tl.int64)
    k = _start(key, batch, channel, key_b, key_c) + token * key_t
    v = _start(value, batch, channel, value_b, value_c) + token * value_t
    k = tl.load(k, mask=inside, other=float("-inf"))  # (C, L)
    v = tl.load(v, mask=inside, other=0.0)
    top = tl.where(real, tl.max(k, 1), 0.0)  # (C,)
    scale = tl.maximum(tl.max(tl.abs(v), 1), LEAST)
    e = tl.exp(k - top[:, None])
    ev = e * (v / scale[:, None])
    from_last = tl.exp(-lam * tl.maximum(last - at, 0))
    from_first = tl.exp(-lam * tl.minimum(at, last))

    out = facts + (batch * channels + channel).to(tl.int64) * chunks + chunk  # (C,)
    tl.store(out, top, mask=real)
    tl.store(out + table, scale, mask=real)
    tl.store(out + 2 * table, tl.sum(ev * from_last, 1), mask=real)
    tl.store(out + 3 * table, tl.sum(e * from_last, 1), mask=real)
    tl.store(out + 4 * table, tl.sum(ev * from_first, 1), mask=real)
    tl.store(out + 5 * table, tl.sum(e * from_first, 1), mask=real)


@triton.jit
def _elsewhere(
    facts, real, chunk, chunks, table, lam,
    LEAST: tl.constexpr, C: tl.constexpr, L: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Add up what the other chunks hold, N at a time; `facts` points at the first one, (C, 1).

    Returns six numbers a channel, (C,): the largest key and value of all, and the sums over what
    lies before, as the chunk's first token sees it, and over what lies after, as its last one does.
    """
    top = tl.full((C,), float("-inf"), tl.float32)
    scale = tl.full((C,), LEAST, tl.float32)
    for start in range(0, chunks, N):
        other = start + tl.arange(0, N)[None, :]
        inside = real[:, None] & (other < chunks)
        top = tl.maximum(top, tl.max(tl.load(facts + other, inside, float("-inf")), 1))
        scale = tl.maximum(scale, tl.max(tl.load(facts + table + other, inside, 0.0), 1))
    top = tl.where(real, top, 0.0)
    before_v = tl.zeros((C,), tl.float32)
    before = tl.zeros((C,), tl.float32)
    after_v = tl.zeros((C,), tl.float32)
    after = tl.zeros((C,), tl.float32)
    for start in range(0, chunks, N):
        other = start + tl.arange(0, N)[None, :]
        inside = real[:, None] & (other < chunks)
        at = facts + other
        weight = tl.exp(tl.load(at, inside, float("-inf")) - top[:, None])  # (C, N)
        share = weight * (tl.load(at + table, inside, 0.0) / scale[:, None])
        fall = tl.exp(-lam * (tl.maximum(chunk - other - 1, 0) * L))
        fall = tl.where(other < chunk, fall, 0.0)
        before_v += tl.sum(tl.load(at + 2 * table, inside, 0.0) * share * fall, 1)
        before += tl.sum(tl.load(at + 3 * table, inside, 0.0) * weight * fall, 1)
        # Chunks that are not there would overflow, and spoil the sum though they weigh nothing.
        fall = tl.exp(-lam * (tl.maximum(tl.minimum(other, chunks - 1) - chunk - 1, 0) * L))
        fall = tl.where(other > chunk, fall, 0.0)
        after_v += tl.sum(tl.load(at + 4 * table, inside, 0.0) * share * fall, 1)
        after += tl.sum(tl.load(at + 5 * table, inside, 0.0) * weight * fall, 1)
    return top, scale, before_v, before, after_v, after


@triton.jit(do_not_specialize=_ANY_SIZE)
def _mix(
    decay, bonus, key, value, facts, out,
    channels, length, chunks, table,
    key_b, key_c, key_t, value_b, value_c, value_t,
    LIMIT: tl.constexpr, LEAST: tl.constexpr, C: tl.constexpr, L: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Write y for one chunk of C channels, given the facts of all chunks."""
    chunk, batch, channel, at, last, real, inside, lam = _tile(decay, channels, length, LIMIT, C, L)
    row = (batch * channels + channel).to(tl.int64)[:, None]
    top, scale, before_v, before, after_v, after = _elsewhere(
        facts + row * chunks, real, chunk, chunks, table, lam, LEAST, C, L, N
    )
    top, scale = top[:, None], scale[:, None]

    token = (chunk * L + at).to(tl.int64)
    k = _start(key, batch, channel, key_b, key_c) + token * key_t
    v = _start(value, batch, channel, value_b, value_c) + token * value_t
    near = tl.minimum(at, last)  # keeps the exponents of absent tokens in range
    p = near - last * 0.5  # positions, centred on 0
    rise, fall = tl.exp(lam * p), tl.exp(-lam * p)
    e = tl.exp(tl.load(k, inside, float("-inf")) - top)  # (C, L)
    ev = e * (tl.load(v, inside, 0.0) / scale)
    own = tl.exp(_rate(bonus, channel, channels, length, LIMIT))
    fade = tl.exp(-lam * near)
    num = own * ev + before_v[:, None] * fade
    den = own * e + before[:, None] * fade
    fade = tl.exp(-lam * (last - near))
    num += after_v[:, None] * fade
    den += after[:, None] * fade
    # A token's own weight is not e^lam: so each sum runs over its neighbours, read anew, which is
    # no total minus itself.
    earlier = inside & (at > 0)
    e = tl.exp(tl.load(k - key_t, earlier, float("-inf")) - top) * rise
    num += fall * tl.cumsum(e * (tl.load(v - value_t, earlier, 0.0) / scale), 1)
    den += fall * tl.cumsum(e, 1)
    later = inside & (at < last)
    e = tl.exp(tl.load(k + key_t, later, float("-inf")) - top) * fall
    num += rise * tl.cumsum(e * (tl.load(v + value_t, later, 0.0) / scale), 1, reverse=True)
    den += rise * tl.cumsum(e, 1, reverse=True)
    # A mean never exceeds its values: rounding must not either, and NaN must stay what it is.
    y = tl.where(inside, num, 0.0) / tl.where(inside, den, 1.0)
    y = tl.where(y > 1.0, 1.0, tl.where(y < -1.0, -1.0, y))
    tl.store(out + row * length + token, y * scale, mask=inside)


def bi_wkv(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute what `wkv.bi_wkv` defines, from float32 of the shapes given there.

    `key` and `value` are in any memory layout, B * C at most 65535; y is contiguous.
    """
    batch, channels, length = value.shape
    chunks = triton.cdiv(length, _TOKENS)
    grid = (chunks, batch * triton.cdiv(channels, _CHANNELS))
    out = torch.empty_like(value, memory_format=torch.contiguous_format)
    facts = torch.empty(_FACTS, batch * channels, chunks, dtype=value.dtype, device=value.device)
    sizes = (channels, length, chunks, facts.stride(0), *key.stride(), *value.stride())
    fixed = {"LIMIT": MAX_DECAY, "LEAST": LEAST_SCALE, "C": _CHANNELS, "L": _TOKENS, **_BUILD}
    decay, bonus = decay.contiguous(), bonus.contiguous()
    # Triton launches on the current device, which need not be the tensors' own.
    with torch.cuda.device(value.device) if value.is_cuda else nullcontext():
        _summarise[grid](decay, key, value, facts, *sizes, **fixed)
        _mix[grid](decay, bonus, key, value, facts, out, *sizes, **fixed, N=_CHUNKS)
    return out
