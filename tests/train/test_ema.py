from __future__ import annotations

import pytest
import torch
from torch import nn

from imlctl.train.ema import EMA


def constant(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for x in model.state_dict().values():
            x.fill_(value)
    return model


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_closed_form(decay: float) -> None:
    ema = EMA(constant(0), decay)
    expected = 0.0
    for n in range(1, 40):
        ema.update(constant(n))
        keep = min(decay, (1 + n) / (10 + n))
        expected = keep * expected + (1 - keep) * n
        for shadow in ema.model.state_dict().values():
            value = expected if shadow.is_floating_point() else float(n)
            torch.testing.assert_close(shadow.double(), torch.full_like(shadow.double(), value))
    assert ema.steps == 39


def test_forgets_a_random_start_quickly() -> None:
    ema = EMA(constant(100), 0.999)
    for _ in range(60):
        ema.update(constant(1))
    assert float(ema.model.get_parameter("0.weight")[0, 0]) < 1.01


def test_is_apart_from_the_model_and_ready_to_judge() -> None:
    model = constant(1)
    ema = EMA(model, 0.5)
    with torch.no_grad():
        model.get_parameter("0.weight").fill_(7)
    assert float(ema.model.get_parameter("0.weight")[0, 0]) == 1
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0, float("nan")])
def test_refuses_a_decay_that_is_no_share(decay: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        EMA(constant(0), decay)
