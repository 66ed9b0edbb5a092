"""The calibrated threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import SIZES
from imlctl.train.calibrate import calibrate, critical_quantile
from imlctl.train.photos import PhotoPool


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.5, 0.95])
def test_no_more_than_the_rate_is_flagged_and_hardly_less(rate: float) -> None:
    critical = np.random.default_rng(0).random(40).tolist()
    threshold = critical_quantile(critical, rate)
    flagged = sum(c >= threshold for c in critical)
    assert flagged == int(rate * 40)


def test_calibrated_weights_flag_as_promised() -> None:
    torch.manual_seed(0)
    model = EfficientIML(EfficientIMLConfig(backbone=SIZES["tiny"], width=16)).eval()
    torch.nn.init.constant_(model.head.bias, 1.0)  # probabilities on both sides of a half
    torch.nn.init.normal_(model.head.weight, std=2.0)
    rng = np.random.default_rng(0)
    photos = tuple(rng.integers(0, 256, (128 + n, 130, 3), dtype=np.uint8) for n in range(3))
    pool = PhotoPool(("a", "b", "c"), photos, {}, {})
    found = calibrate(model, pool, min_share=0.01, device=torch.device("cpu"))
    assert 0.5 <= found.threshold <= 0.99
    assert found.photos == 3
    values = list(found.thresholds.values())
    assert values == sorted(values, reverse=True)  # a stricter rate needs a higher threshold
    assert found == calibrate(model, pool, min_share=0.01, device=torch.device("cpu"))
