"""Exponential moving average of a model: steadier than any one step, and what is shipped."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class EMA(Generic[M]):
    """A shadow of a model, its running statistics included.

    Args:
        model: What to follow.
        decay: Share of the past kept at each step, in [0, 1). The first steps keep less, so that
            the random start is forgotten: min(decay, (1 + n) / (10 + n)).
    """

    def __init__(self, model: M, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay must lie in [0, 1), not {decay}")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the shadow towards the model."""
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        current = model.state_dict()
        for name, shadow in self.model.state_dict().items():
            if shadow.dtype.is_floating_point:
                shadow.lerp_(current[name], 1 - keep)
            else:
                shadow.copy_(current[name])
