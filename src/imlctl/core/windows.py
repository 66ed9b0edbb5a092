"""Means over windows of a map, by adding slices: pooling at stride 1 is many times as slow."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterable


def box_mean(values: Tensor, rows: int, columns: int) -> Tensor:
    """Mean over a box around each place of (B, H, W); odd sides, only what lies inside counts."""
    return _mean_along(_mean_along(values, rows, 1), columns, 2)


def block_mean(values: Tensor, side: int) -> Tensor:
    """Mean of each block of `side` x `side`, (B, H / side, W / side); H and W are multiples."""
    rows = _total(values[:, start::side] for start in range(side))
    return _total(rows[:, :, start::side] for start in range(side)) / side**2


def _total(parts: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, parts)


def _mean_along(values: Tensor, side: int, dim: int) -> Tensor:
    length, half = values.shape[dim], side // 2
    frame = (0, 0, half, half) if dim == 1 else (half, half)
    total = _running_sum(F.pad(values, frame), side, dim)
    place = torch.arange(length, device=values.device)
    inside = (place + half).clamp_max(length - 1) - (place - half).clamp_min(0) + 1
    return total / (inside[:, None] if dim == 1 else inside)


def _running_sum(values: Tensor, side: int, dim: int) -> Tensor:
    """Sum of `side` neighbours from each place on, by sums of 1, 2, 4, ... of them."""
    length = values.shape[dim] - side + 1
    total, done = None, 0
    power, reach = values, 1  # sums of `reach` neighbours
    while True:
        if side & reach:
            part = power.narrow(dim, done, length)
            total = part if total is None else total + part
            done += reach
        if done == side:
            assert total is not None  # noqa: S101
            return total
        count = power.shape[dim] - reach
        power = power.narrow(dim, 0, count) + power.narrow(dim, reach, count)
        reach *= 2
