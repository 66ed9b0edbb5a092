from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable


def _randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 4:  # norms, biases, decays and offsets; not the filters
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_(generator=generator)
                part.running_var.uniform_(0.3, 3, generator=generator)


@pytest.fixture
def randomise() -> Callable[[nn.Module], None]:
    """Move every norm, bias and running statistic off the value it starts with, in place."""
    return _randomise
