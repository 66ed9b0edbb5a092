from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from imlctl.bench import speed
from imlctl.bench.bars import BAR_SIZE
from imlctl.bench.speed import measure
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.core.mit import SIZES, MixTransformer
from imlctl.errors import UsageError
from imlctl.image.tiles import Tile, run_tiled

if TYPE_CHECKING:
    from torch import Tensor

TILE = 128
TINY = EfficientIMLConfig(EfficientRWKVConfig(dims=(16, 16, 16), depths=(1, 1, 1)), width=16)


class Localizer:
    """What `pipeline.Localizer` is to a benchmark."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = EfficientIML(TINY).fuse()
        self.device = torch.device("cpu")
        self.seen: list[tuple[torch.Size, torch.dtype, bool]] = []
        self.model.register_forward_pre_hook(self.note)

    def note(self, _: object, inputs: tuple[Tensor]) -> None:
        (image,) = inputs
        channels_last = image.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((image.shape, image.dtype, channels_last))

    def predict(self, image: Tensor) -> Tensor:
        def forward(tile: Tensor, _: Tile) -> Tensor:
            return torch.sigmoid(self.model(tile).logits)

        return run_tiled(forward, image, tile=TILE, overlap=64, multiple=16)


@pytest.fixture
def localizer() -> Localizer:
    return Localizer()


def test_every_size_is_measured_whole_and_larger_ones_in_tiles_too(localizer: Localizer) -> None:
    report = measure(localizer, sizes=(192, 64, 128, 64), tile=TILE, runs=2)
    assert [(row.size, row.tiles) for row in report.rows] == [(64, 1), (128, 1), (192, 1), (192, 4)]
    assert report.rows[0].growth == 1.0
    for row in report.rows:
        assert row.fps == pytest.approx(1 / row.timing.median)
        assert 0 < row.timing.median <= row.timing.p95
    assert [len(row.timing.passes) for row in report.rows] == [2 * 3, 2, 2, 2]
    assert report.cost.size == BAR_SIZE
    assert report.rival is None


def test_memory_is_linear_in_pixels_and_bounded_by_tiles(localizer: Localizer) -> None:
    rows = measure(localizer, sizes=(128, 256), tile=TILE, runs=1).rows
    one_tile, whole, tiled = (row.memory for row in rows)
    assert one_tile is not None
    assert whole is not None
    assert tiled is not None
    assert whole / one_tile == pytest.approx(4, rel=0.1)
    assert tiled < 0.75 * whole


def test_the_model_sees_pictures_as_when_localizing(localizer: Localizer) -> None:
    measure(localizer, sizes=(64,), tile=TILE, runs=1)
    timed = [seen for seen in localizer.seen if seen[0][-1] == 64]
    assert set(timed) == {(torch.Size((1, 3, 64, 64)), torch.float32, True)}


def test_mit_b3_takes_turns_with_the_model(
    localizer: Localizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "MixTransformer", lambda: MixTransformer(SIZES["b0"]))
    told: list[str] = []
    report = measure(
        localizer, sizes=(64,), tile=TILE, runs=3, against_mit_b3=True, progress=told.append
    )
    turns = [text for text in told if text.startswith("round")]
    assert turns[3:] == [
        f"round {n} of 3: {name}" for n in (1, 2, 3) for name in ("64 px", "64 px, MiT-B3 encoder")
    ]
    assert report.rival is not None
    assert report.rival.size == 64
    assert report.rival.share > 0
    assert report.rival.cost.parameters == pytest.approx(3.3e6, rel=0.05)  # b0's here


def test_a_report_is_json(localizer: Localizer) -> None:
    report = measure(localizer, sizes=(64,), tile=TILE, runs=1)
    values = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert values["speed"][0]["size"] == 64
    assert values["cost"]["macs"] == report.cost.macs
    assert values["environment"]["busy"] in (True, False)
    assert [bar["passed"] for bar in values["bars"]] == [True, True]
    assert values["against"] is None


@pytest.mark.parametrize(("size", "instead"), [(0, 64), (32, 64), (100, 96), (511, 512)])
def test_sizes_that_do_not_fit_are_refused(localizer: Localizer, size: int, instead: int) -> None:
    with pytest.raises(UsageError, match=f"Use {instead},"):
        measure(localizer, sizes=(64, size), tile=TILE, runs=1)
    assert not localizer.seen  # before anything runs
