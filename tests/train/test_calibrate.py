"""The calibrated threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from imlctl.core.diff_iml import DiffIML
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import SIZES
from imlctl.evaluate.metrics import threshold_at
from imlctl.forge.photos import PhotoPool
from imlctl.inference import Answer
from imlctl.mask.decide import log_odds, picture_score
from imlctl.train import calibrate as module
from imlctl.train.calibrate import calibrate, threshold_for


def noise_pool() -> PhotoPool:
    rng = np.random.default_rng(0)
    photos = tuple(rng.integers(0, 256, (128 + n, 130, 3), dtype=np.uint8) for n in range(3))
    return PhotoPool(("a", "b", "c"), photos, {}, {})


def test_of_a_model_that_is_certain_more_pixels_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each version of each photograph has a share of ones of its own, and zeros elsewhere."""
    authentic = [max(0, n - 4) / 20 for n in range(9)]
    shares = iter((*authentic, *[0.9] * 6))

    def certain(*_: object, **__: object) -> Answer:
        return Answer((torch.arange(100).view(10, 10) < 100 * next(shares)).float(), 0.5, None)

    monkeypatch.setattr(module, "predict", certain)
    cpu = torch.device("cpu")
    found = calibrate(DiffIML(), noise_pool(), device=cpu)
    assert found.marked == pytest.approx(10 / 20 / 9, abs=1e-3)
    assert found.score_scale is not None
    assert found.rule.manipulated == pytest.approx(picture_score(1.0, found.score_scale), abs=1e-4)
    assert picture_score(1.0, found.score_scale) > 0.5 > picture_score(0.0, found.score_scale)


def test_rare_thresholds_follow_the_tail() -> None:
    """Log odds beyond 1 are exponential with mean 0.5: the closed form is known."""
    rng = np.random.default_rng(0)
    odds = np.concatenate([rng.uniform(-3, 1, 18_000), 1 + rng.exponential(0.5, 2_000)])
    critical = (1 / (1 + np.exp(-odds))).tolist()
    for rate in (0.05, 0.01, 0.001):
        expected = 1 + 0.5 * np.log(0.1 / rate)
        assert log_odds(threshold_for(critical, rate)) == pytest.approx(expected, abs=0.1)
    assert threshold_for(critical, 0.2) == threshold_at(critical, 0.2)


def test_a_rare_threshold_does_not_hang_on_one_photograph() -> None:
    usual = np.linspace(0.1, 0.9, 100).tolist()
    odd = [*usual[:-1], 0.999999]
    assert threshold_at(odd, 0.005) > 0.99999
    assert 0.9 < threshold_for(usual, 0.005) < threshold_for(odd, 0.005) < 0.999


def test_shares_are_counted_by_the_folder_a_photograph_came_from() -> None:
    found = module._by_source(["a/1", "b/2", "a/3"], [0.1, 0.9, 0.5, 0.6, 0.95, 0.2], (0.9, 0.5))
    assert found == {"a": (4, 0.5, 0.5), "b": (2, 0.0, 1.0)}


def chancy_model() -> EfficientIML:
    """One whose probabilities lie on both sides of a half."""
    torch.manual_seed(0)
    model = EfficientIML(EfficientIMLConfig(backbone=SIZES["tiny"], width=16)).eval()
    torch.nn.init.constant_(model.head.bias, 1.0)
    torch.nn.init.normal_(model.head.weight, std=2.0)
    return model


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_lowered_weights_mark_as_little_as_promised(share: float) -> None:
    model, pool, cpu = chancy_model(), noise_pool(), torch.device("cpu")

    def marked() -> float:
        seen = module._authentic(pool)
        levels = (module._look(model, each, cpu).marked[0] for each in seen)
        return float(np.mean(list(levels)))

    before, was = marked(), model.head.bias.item()
    found = calibrate(model, pool, device=cpu, share=share)
    assert found.lowered == pytest.approx(was - model.head.bias.item())
    assert found.marked == pytest.approx(marked(), abs=1e-5)
    assert before > share >= marked() > 0.9 * share  # no less than that is given up


def test_a_rarer_verdict_needs_a_higher_score() -> None:
    model, pool = chancy_model(), noise_pool()
    found = calibrate(model, pool, device=torch.device("cpu"))
    assert found.photos == 3
    assert found.levels[0] >= found.levels[1]  # a rarer score is a higher one
    assert found.rule.manipulated >= found.rule.inconclusive
    again = calibrate(model, pool, device=torch.device("cpu"))
    assert again == replace(found, lowered=0.0)  # what was taken the first time stays taken
