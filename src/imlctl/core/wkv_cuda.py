"""The bidirectional WKV on CUDA: by Triton kernels where they prove right, else in the plain form.

CUDA builds of torch bring triton along. Its kernels must first agree with the plain form on small
inputs, on each device. Once they fail or disagree they are off until the process ends.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import threading
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from imlctl.core import wkv

_Answer = TypeVar("_Answer")

SWITCH = "IMLCTL_TRITON"  # environment variable; 0 keeps to the plain form

# Largest difference from the plain form, as a share of its largest value: a hundred times what
# rounding does, a hundredth of what a sum gone wrong does.
_TOLERANCE = 1e-4
# What is tried, as (B, C, T) and whether the channels lie side by side, as they do where the model
# reads rows: tiles that are not full; and more chunks of tokens than are read at a time.
_TRIED = (((2, 11, 777), True), ((1, 3, 16_400), False))
_MOST_ROWS = 65_535  # B * C; the second axis of a CUDA grid has room for no more blocks

_log = logging.getLogger(__name__)
_off = threading.Event()  # whether the kernels failed or disagreed in this process


def bi_wkv(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`torch.ops.imlctl.bi_wkv` for CUDA tensors; shapes as there."""
    if _suits(key, value) and _allowed(value.device):
        y = _attempt(lambda: _kernels()(decay, bonus, key, value))
        if y is not None:
            return y
    return wkv._bi_wkv(decay, bonus, key, value)


def _suits(key: Tensor, value: Tensor) -> bool:
    single = key.dtype == value.dtype == torch.float32
    return single and key.numel() > 0 and key.shape[0] * key.shape[1] <= _MOST_ROWS


def _allowed(device: torch.device) -> bool:
    """Tell whether the kernels may run there; the first call tries them."""
    wanted = not _off.is_set() and os.environ.get(SWITCH) != "0" and _present()
    return wanted and _proven(device)


@functools.cache
def _present() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _proven(device: torch.device) -> bool:
    return _attempt(lambda: _try_out(device)) is not None


def _kernels() -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    from imlctl.core import wkv_triton

    return wkv_triton.bi_wkv


def _attempt(run: Callable[[], _Answer]) -> _Answer | None:
    """Return what `run` returns; None, and no more kernels, if it raises."""
    try:
        return run()
    except torch.cuda.OutOfMemoryError:
        raise  # the plain form needs more
    except Exception as error:
        _off.set()
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        _log.warning("the Triton kernels of the WKV are off, its plain form is used: %s", reason)
        _log.debug("what the kernels raised", exc_info=error)
        return None


def _try_out(device: torch.device) -> float:
    """Return the kernels' largest error, as a share of the largest value, or raise."""
    worst = 0.0
    for shape, channels_last in _TRIED:
        args = _example(*shape, channels_last=channels_last, device=device)
        expected = wkv._bi_wkv(*args)
        error = float((_kernels()(*args) - expected).abs().amax() / expected.abs().amax())
        if not error <= _TOLERANCE:  # as NaN is not
            raise ArithmeticError(f"they differ from it by {error:.1e} on {device}")
        worst = max(worst, error)
    return worst


def _example(
    batch: int, channels: int, length: int, *, channels_last: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decay, bonus, key and value; the latter two cut from one map, as in the model."""
    generator = torch.Generator().manual_seed(0)  # so that nobody else's numbers change
    decay = torch.linspace(-wkv.MAX_DECAY, wkv.MAX_DECAY, channels)
    bonus = torch.randn(channels, generator=generator)
    maps = 2 * torch.randn(batch, 48, length, generator=generator)
    maps = (maps.mT.contiguous().mT if channels_last else maps).to(device)
    return decay.to(device), bonus.to(device), maps[:, :channels], maps[:, 16 : 16 + channels]


# CUDA tensors come here, all others to the plain form; the backward pass is one for all.
_library = torch.library.Library("imlctl", "IMPL")  # type: ignore[no-untyped-call]
_library.impl("bi_wkv", bi_wkv, "CUDA")  # type: ignore[no-untyped-call]
