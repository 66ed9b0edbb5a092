from __future__ import annotations

import torch

from imlctl.bench.bars import BAR_SIZE, Bar, judge
from imlctl.bench.flops import EFFICIENT_IML, Cost, Part, count
from imlctl.bench.speed import Rival, Row
from imlctl.bench.timing import Timing
from imlctl.core.efficient_iml import EfficientIML

CPU, GPU = torch.device("cpu"), torch.device("cuda")
COST = Cost(BAR_SIZE, (Part("all", 5_000_000, 8_000_000_000),))


def row(size: int, seconds: float, memory: int | None, tiles: int = 1) -> Row:
    return Row(size, tiles, Timing(((seconds,),)), seconds, memory)


def rival(size: int, share: float) -> Rival:
    return Rival("MiT-B3 encoder", size, COST, Timing(((1.0,),)), share)


def test_a_bar_is_met_up_to_its_limit() -> None:
    assert Bar("x", 5.0, 5.0).passed
    assert not Bar("x", 5.01, 5.0).passed


def test_all_bars_are_judged() -> None:
    rows = [row(512, 1.0, 100), row(1024, 4.0, 400), row(2048, 16.9, 1600)]
    bars = judge(COST, rows, rival(512, 0.16), CPU)
    assert [bar.name for bar in bars] == [
        "parameters",
        "multiply-accumulates at 512",
        "time at 512 / MiT-B3 encoder",
        "time at 2048 / at 512",
        "memory at 2048 / at 512",
    ]
    assert all(bar.passed for bar in bars)


def test_each_bar_can_fail() -> None:
    cost = Cost(BAR_SIZE, (Part("all", 5_000_001, 8_000_000_001),))
    bars = judge(cost, [row(512, 1.0, 100), row(2048, 17.1, 1800)], rival(512, 0.17), CPU)
    assert len(bars) == 5
    assert not any(bar.passed for bar in bars)


def test_what_was_not_measured_is_not_judged() -> None:
    def names(*arguments: object) -> list[str]:
        return [bar.name for bar in judge(COST, *arguments)[2:]]  # type: ignore[arg-type]

    small, large = row(512, 1.0, 100), row(2048, 99.0, 9999, tiles=9)
    assert names([small], None, CPU) == []
    assert names([small, large], None, CPU) == []  # the bars are for one pass
    assert names([row(64, 1.0, 1)], rival(64, 9.0), CPU) == []
    assert names([small], rival(512, 9.0), GPU) == []  # a bar for CPUs
    unknown = [row(512, 1.0, None), row(2048, 16.0, None)]
    assert names(unknown, None, GPU) == ["time at 2048 / at 512"]


def test_the_default_model_meets_the_bars_of_cost() -> None:
    cost = count(EfficientIML().fuse().to("meta"), BAR_SIZE, EFFICIENT_IML)
    assert all(bar.passed for bar in judge(cost, [], None, CPU))
