from __future__ import annotations

import torch

from imlctl.bench.bars import BAR_SIZE, Bar, judge, judge_sampling
from imlctl.bench.flops import Cost, Part, count_model
from imlctl.bench.passes import Draw
from imlctl.bench.speed_report import Rival, Row
from imlctl.bench.timing import Timing
from imlctl.core.efficient_iml import EfficientIML

CPU, GPU = torch.device("cpu"), torch.device("cuda")
COST = Cost(BAR_SIZE, (Part("all", 5_000_000, 8_000_000_000),))


def row(size: int, seconds: float, memory: int | None, tiles: int = 1) -> Row:
    return Row(size, tiles, Timing(((seconds,),)), seconds, memory, Draw(None, None, False))


def rival(size: int, share: float) -> Rival:
    shares: dict[tuple[int | None, int | None], float] = {(None, None): share}
    return Rival("MiT-B3 encoder", size, COST, Timing(((1.0,),)), shares)


def sampled(members: int, seconds: float, *, steps: int = 8, tta: bool = False) -> Row:
    return Row(512, 1, Timing(((seconds,),)), 1.0, None, Draw(steps, members, tta))


def test_a_bar_is_met_up_to_its_limit() -> None:
    assert Bar("x", 5.0, 5.0).passed
    assert not Bar("x", 5.01, 5.0).passed
    assert Bar("x", 5.0, 5.0, least=True).passed
    assert not Bar("x", 4.99, 5.0, least=True).passed


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
    cost = count_model(EfficientIML().fuse(), BAR_SIZE, steps=1, members=1)
    assert all(bar.passed for bar in judge(cost, [], None, CPU))


def test_a_sampling_model_is_held_to_mit_b3_on_a_cpu() -> None:
    shares: dict[tuple[int | None, int | None], float] = {(8, 1): 0.99, (8, 5): 1.51, (1, 1): 0.1}
    beside = Rival("MiT-B3 encoder", 512, COST, Timing(((1.0,),)), shares)
    one, five = judge_sampling([sampled(1, 9.0)], beside, CPU)
    assert (one.name, one.limit, one.passed) == (
        "time, N=1, 8 steps, at 512 / MiT-B3 encoder",
        1.0,
        True,
    )
    assert (five.limit, five.passed) == (1.5, False)
    elsewhere = Rival("MiT-B3 encoder", 256, COST, Timing(((1.0,),)), shares)
    assert judge_sampling([], elsewhere, CPU) == ()
    assert judge_sampling([], None, CPU) == ()


def test_a_sampling_model_is_held_to_the_paper_on_a_gpu() -> None:
    rows = [sampled(1, 1 / 70), sampled(5, 1 / 37), sampled(5, 1e-6, steps=1)]
    one, five = judge_sampling([*rows, sampled(1, 1.0, tta=True)], None, GPU)
    assert (one.limit, one.least, one.passed) == (69.48, True, True)
    assert (five.limit, five.passed) == (37.28, False)
    assert judge_sampling(rows, None, CPU) == ()


def test_only_the_main_way_is_judged_by_its_growth() -> None:
    small, large = row(512, 1.0, None), row(2048, 99.0, None)
    flipped = Row(2048, 1, large.timing, 99.0, None, Draw(None, None, True), main=False)
    assert len(judge(COST, [small, flipped], None, CPU)) == 2
