from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from imlctl.bench import cells, speed
from imlctl.bench.bars import BAR_SIZE
from imlctl.bench.cells import Plan
from imlctl.bench.passes import Draw, draws_of, one_pass
from imlctl.bench.speed import measure
from imlctl.bench.speed_report import exponent
from imlctl.core.denoiser import DenoiserConfig
from imlctl.core.diff_iml import DiffIML, DiffIMLConfig
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
        image, *_ = inputs
        channels_last = image.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((image.shape, image.dtype, channels_last))

    def predict(self, image: Tensor) -> Tensor:
        def forward(tile: Tensor, _: Tile) -> Tensor:
            return torch.sigmoid(self.model(tile).logits)

        return run_tiled(forward, image[None], tile=TILE, overlap=64, multiple=16)


@pytest.fixture
def localizer() -> Localizer:
    return Localizer()


ONCE = (False,)  # no flips


def test_every_size_is_measured_whole_and_larger_ones_in_tiles_too(localizer: Localizer) -> None:
    report = measure(localizer, Plan((192, 64, 128, 64), TILE, 2, flips=ONCE))
    assert [(row.size, row.tiles) for row in report.rows] == [(64, 1), (128, 1), (192, 1), (192, 4)]
    assert report.rows[0].growth == 1.0
    for row in report.rows:
        assert row.fps == pytest.approx(1 / row.timing.median)
        assert 0 < row.timing.median <= row.timing.p95
    assert [len(row.timing.passes) for row in report.rows] == [2 * 3, 2, 2, 2]
    assert report.cost.size == BAR_SIZE
    assert report.rival is None


def test_memory_is_linear_in_pixels_and_bounded_by_tiles(localizer: Localizer) -> None:
    report = measure(localizer, Plan((128, 256), TILE, 1, flips=ONCE))
    rows = report.rows
    one_tile, whole, tiled = (row.memory for row in rows)
    assert one_tile is not None
    assert whole is not None
    assert tiled is not None
    assert whole / one_tile == pytest.approx(4, rel=0.1)
    assert tiled < 0.75 * whole
    assert report.exponents["memory"] == pytest.approx(1, abs=0.1)


def test_the_model_sees_pictures_as_when_localizing(localizer: Localizer) -> None:
    measure(localizer, Plan((64,), TILE, 1))
    timed = [seen for seen in localizer.seen if seen[0][-1] == 64]
    # Alone, and as one batch with its mirror image.
    sizes = [torch.Size((views, 3, 64, 64)) for views in (1, 2)]
    assert set(timed) == {(size, torch.float32, True) for size in sizes}


def test_mit_b3_takes_turns_with_the_model(
    localizer: Localizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "MixTransformer", lambda: MixTransformer(SIZES["b0"]))
    told: list[str] = []
    plan = Plan((64,), TILE, 3, flips=ONCE, against_mit_b3=True)
    report = measure(localizer, plan, progress=told.append)
    turns = [text for text in told if text.startswith("round")]
    assert turns[3:] == [
        f"round {n} of 3: {name}" for n in (1, 2, 3) for name in ("64 px", "64 px, MiT-B3 encoder")
    ]
    assert report.rival is not None
    assert report.rival.size == 64
    assert report.rival.shares[None, None] > 0
    assert report.rival.cost.parameters == pytest.approx(3.3e6, rel=0.05)  # b0's here


def test_a_report_is_json(localizer: Localizer) -> None:
    report = measure(localizer, Plan((64,), TILE, 1))
    values = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert values["speed"][0]["size"] == 64
    assert values["cost"]["macs"] == report.cost.macs
    assert [bar["passed"] for bar in values["bars"]] == [True, True]
    assert values["against"] is None


@pytest.mark.parametrize(("size", "instead"), [(0, 64), (32, 64), (100, 96), (511, 512)])
def test_sizes_that_do_not_fit_are_refused(localizer: Localizer, size: int, instead: int) -> None:
    with pytest.raises(UsageError, match=f"Use {instead},"):
        measure(localizer, Plan((64, size), TILE, 1))
    assert not localizer.seen  # before anything runs


def test_flips_and_batches_are_rows_of_their_own(localizer: Localizer) -> None:
    rows = measure(localizer, Plan((64,), TILE, 1, batches=(3,))).rows
    assert [(row.tta, row.batch, row.main, row.tiles) for row in rows] == [
        (False, 1, True, 1),
        (True, 1, False, 1),
        (False, 3, False, 1),
    ]
    assert rows[2].fps == pytest.approx(3 / rows[2].timing.median)


def test_a_budget_leaves_the_slow_fewer_rounds(localizer: Localizer) -> None:
    rows = measure(localizer, Plan((64, 128), TILE, 5, flips=ONCE, budget=1e-9)).rows
    assert [(len(row.timing.passes), row.short, row.memory) for row in rows] == [
        (1, True, None)
    ] * 2
    assert [row.tiles for row in rows] == [1, 1]
    assert not measure(localizer, Plan((64,), TILE, 1, flips=ONCE)).rows[0].short


def test_what_memory_does_not_hold_is_run_in_tiles_only(
    localizer: Localizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_tile = measure(localizer, Plan((128,), TILE, 1, flips=ONCE)).rows[0].memory
    assert one_tile is not None
    monkeypatch.setattr(cells, "free_memory", lambda _: 5 * one_tile)
    report = measure(localizer, Plan((128, 192, 256), TILE, 1, flips=ONCE))
    assert [(row.size, row.tiles) for row in report.rows] == [
        (128, 1),
        (192, 1),
        (192, 4),
        (256, 9),
    ]
    (sentence,) = report.left_out
    assert sentence.startswith("256 x 256 in one pass needs about")


SAMPLING = DiffIMLConfig("efficient-rwkv-tiny", DenoiserConfig(channels=32, condition=32))


class Sampler(Localizer):
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = DiffIML(SAMPLING).fuse()  # type: ignore[assignment]
        self.device = torch.device("cpu")


def test_a_sampling_model_is_measured_in_every_way_at_one_size() -> None:
    report = measure(Sampler(), Plan((96, 64), TILE, 1, (1, 8), (1, 5)))
    ways = [(row.size, row.members, row.steps, row.tta) for row in report.rows]
    assert ways[:3] == [(64, 5, 8, False), (96, 5, 8, False), (64, 1, 1, False)]
    assert len(set(ways)) == len(ways) == 2 * 2 * 2 + 1
    assert [row.main for row in report.rows] == [True, True] + [False] * 7
    by_way = {way: row.timing.median for way, row in zip(ways, report.rows, strict=True)}
    assert by_way[64, 5, 8, False] > by_way[64, 1, 1, False]
    assert set(report.exponents) == {"time", "memory"}
    assert report.bars == ()  # of another size


def test_every_way_can_be_measured_at_every_size() -> None:
    rows = measure(Sampler(), Plan((96, 64), TILE, 1, (1, 8), (1,), ONCE, full=True)).rows
    assert [(row.size, row.steps) for row in rows] == [(64, 8), (96, 8), (64, 1), (96, 1)]


def test_only_what_was_asked_for_is_drawn() -> None:
    model = Sampler().model
    assert draws_of(model, (3,), (2,), (True,)) == (Draw(3, 2, True),)
    assert draws_of(model, (1, 4), (5,), (False,))[0] == Draw(1, 5, False)
    assert draws_of(EfficientIML(TINY), (1, 8), (1, 5), (False, True)) == (
        Draw(None, None, False),
        Draw(None, None, True),
    )
    assert [str(d) for d in (Draw(8, 5, True), Draw(None, None, False))] == [
        "N=5, 8 steps, flips",
        "",
    ]


@torch.inference_mode()
def test_a_pass_does_what_it_is_called() -> None:
    model = Sampler().model
    calls: list[int] = []
    model.denoiser.register_forward_pre_hook(  # type: ignore[attr-defined]
        lambda _, inputs: calls.append(len(inputs[0]))
    )
    one_pass(model, Draw(3, 2, False), 64, torch.device("cpu"))()
    assert calls == [2, 2, 2]
    one_pass(model, Draw(1, 4, True), 64, torch.device("cpu"))()
    assert calls[3:] == [4, 4]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_exponents_are_fitted(power: float) -> None:
    sizes = (64, 128, 512)
    assert exponent(sizes, [3 * (s * s) ** power for s in sizes]) == pytest.approx(power)
