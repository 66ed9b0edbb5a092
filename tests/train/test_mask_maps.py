from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.forge.shapes import edge_map
from imlctl.train.mask_maps import (
    HELD_OUT,
    JudgeConfig,
    MaskMaps,
    as_maps,
    held_out,
    round_trip,
)


def test_a_number_is_always_the_same_pair() -> None:
    stream = MaskMaps(size=64, seed=3)
    for number in (0, 7, 1_000_000):
        for first, second in zip(stream(number), MaskMaps(64, 3)(number), strict=True):
            assert np.array_equal(first, second)
    assert any(not np.array_equal(stream(n)[0], MaskMaps(64, 4)(n)[0]) for n in range(5))


def test_pairs_are_a_mask_and_its_edges() -> None:
    stream = MaskMaps(size=64, edges="band")
    for number in range(20):
        mask, edges = stream(number)
        assert mask.shape == edges.shape == (64, 64)
        assert mask.dtype == edges.dtype == np.bool_
        assert np.array_equal(edges, edge_map(mask, "band"))


def test_the_stream_is_varied() -> None:
    shares = np.array([MaskMaps(size=64)(n)[0].mean() for n in range(300)])
    assert (shares == 0).any()  # authentic
    assert ((shares > 0) & (shares < 0.02)).any()
    assert (shares > 0.6).any()
    assert 0.1 < shares.mean() < 0.5


def test_a_batch_is_masks_then_edges() -> None:
    stream = MaskMaps(size=64)
    maps = stream.batch(10, 3)
    assert maps.shape == (6, 1, 64, 64)
    assert set(maps.flatten().tolist()) == {-1.0, 1.0}
    for offset in range(3):
        mask, edges = stream(10 + offset)
        assert torch.equal(maps[offset] > 0, torch.from_numpy(mask[None]))
        assert torch.equal(maps[3 + offset] > 0, torch.from_numpy(edges[None]))


def test_as_maps() -> None:
    mask: Any = np.array([[True, False]])
    assert as_maps([mask]).tolist() == [[[[1.0, -1.0]]]]


@pytest.mark.parametrize("kind", HELD_OUT)
@pytest.mark.parametrize("size", [64, 256])
def test_held_out_masks_are_never_empty(kind: str, size: int) -> None:
    pairs = held_out(kind, 40, size, "canny")
    assert len(pairs) == 40
    assert all(mask.any() and not mask.all() for mask, _ in pairs)
    again = held_out(kind, 2, size, "canny")
    assert np.array_equal(pairs[1][0], again[1][0])


def test_thin_and_small_are_what_they_say() -> None:
    for mask, _ in held_out("thin", 20, 256, "canny"):
        inner = mask.copy()
        for _ in range(4):  # peel off a pixel all round
            grown = np.pad(inner, 1)
            inner &= grown[:-2, 1:-1] & grown[2:, 1:-1] & grown[1:-1, :-2] & grown[1:-1, 2:]
        assert inner.mean() < 0.002  # only where strokes cross
    assert all(mask.sum() <= 4 * 33 * 33 for mask, _ in held_out("small", 20, 256, "canny"))


@pytest.mark.parametrize("size", [0, 32, 100])
def test_refuses_other_sizes(size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8 and at least 64"):
        MaskMaps(size=size)


def test_refuses_other_edges() -> None:
    wrong: Any = "sobel"
    with pytest.raises(ValueError, match="unknown edge map 'sobel'"):
        MaskMaps(edges=wrong)(0)


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


def test_a_model_that_marks_everything_scores_by_area() -> None:
    model = Perfect()
    model.offset = 2.0
    found = judge(model)
    assert all(0 < found["worst"] < score < 1 for score in found["masks"].values())
    mean = sum(found["masks"].values()) / 3
    assert found["f1"] == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"masks": 0}, {"size": 60}, {"size": 32}])
def test_refuses_what_cannot_be_judged(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        JudgeConfig(**wrong)
