from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.train.round_trip import JudgeConfig, f1, round_trip

CPU = torch.device("cpu")


class Perfect(nn.Module):
    """Keeps all 64 pixels of a block as channels."""

    offset = 0.0

    def encode(self, maps: Tensor) -> Tensor:
        return F.pixel_unshuffle(maps, 8)

    def decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents, 8) + self.offset


def judge(model: Any) -> dict[str, Any]:
    return round_trip(cast("Any", model), JudgeConfig(masks=3, size=128), "canny", CPU)


def test_a_perfect_model_has_perfect_scores() -> None:
    found = judge(Perfect())
    assert found["f1"] == found["f1_noisy"] == found["worst"] == 1.0
    for what in ("masks", "edges"):
        assert found[what] == {"shape": 1.0, "thin": 1.0, "small": 1.0}
        assert found["latents"][what]["largest"] == 1.0
        assert len(found["latents"][what]["mean"]) == 64
    # Masks are mostly outside (-1).
    assert -1 < sum(found["latents"]["masks"]["mean"]) / 64 < 0


def test_a_model_that_marks_everything_scores_by_area() -> None:
    model = Perfect()
    model.offset = 2.0
    found = judge(model)
    assert all(0 < found["worst"] < score < 1 for score in found["masks"].values())
    mean = sum(found["masks"].values()) / 3
    assert found["f1"] == pytest.approx(mean, abs=1e-4)


def test_f1() -> None:
    truth = torch.tensor([True, True, False, False])
    assert f1(torch.tensor([True, False, True, False]), truth) == pytest.approx(0.5)
    assert f1(truth, truth) == 1.0
    nothing = torch.zeros(4, dtype=torch.bool)
    assert f1(nothing, truth) == 0.0
    assert f1(nothing, nothing) == 1.0


@pytest.mark.parametrize("wrong", [{"every": 0}, {"masks": 0}, {"size": 60}, {"size": 32}])
def test_refuses_what_cannot_be_judged(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        JudgeConfig(**wrong)
