from __future__ import annotations

import pytest
import torch

from imlctl.bench import machine
from imlctl.bench.machine import Timer, Timing, Work, take_turns, timer_for, waits_for

CPU = torch.device("cpu")


class Bench:
    """Two subjects on a clock of their own: every pass of `name` takes `cost[name]` seconds."""

    def __init__(self, **cost: float) -> None:
        self.cost = cost
        self.now = 0.0
        self.log: list[str] = []

    def subject(self, name: str) -> tuple[str, Work]:
        def run() -> None:
            self.now += self.cost[name]
            self.log.append(name)

        return name, run

    def clock(self) -> float:
        return self.now

    @property
    def timer(self) -> Timer:
        return timer_for(CPU, self.clock)


def test_subjects_take_turns_after_warming_up() -> None:
    bench = Bench(a=1.0, b=3.0)
    a, b = take_turns([bench.subject("a"), bench.subject("b")], 3, timed=bench.timer)
    assert "".join(bench.log) == "aabb" + "ababab"
    assert a.passes == (1.0,) * 3
    assert b.over(a) == 3.0
    assert (b.median, b.p95) == (3.0, 3.0)


def test_quick_passes_warm_up_longer() -> None:
    bench = Bench(a=0.01)
    take_turns([bench.subject("a")], 1, timed=bench.timer)
    assert len(bench.log) - 2 == pytest.approx(20, abs=1)


def test_a_quick_one_runs_once_more_for_the_caches_and_that_is_not_counted() -> None:
    bench = Bench(a=0.5, b=2.0)
    a, b = take_turns([bench.subject("a"), bench.subject("b")], 2, timed=bench.timer)
    assert "".join(bench.log) == "aabb" + "aabaab"
    assert len(a.passes) == len(b.passes) == 2


def test_a_pass_lasts_until_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(a=0.0)

    def synchronize() -> None:  # the device works on after the call returned
        if bench.log[-1:] == ["a"]:
            bench.now += 2.0
            bench.log.append("synchronized")

    monkeypatch.setattr(machine, "waits_for", lambda _: synchronize)
    (a,) = take_turns([bench.subject("a")], 2, timed=timer_for(CPU, bench.clock))
    assert a.passes == (2.0, 2.0)


def test_progress_names_what_runs() -> None:
    bench, told = Bench(a=1.0), list[str]()
    take_turns([bench.subject("a")], 2, timed=bench.timer, progress=told.append)
    assert told == ["warming up: a", "round 1 of 2: a", "round 2 of 2: a"]


def test_a_ratio_pairs_the_rounds_so_that_drift_cancels() -> None:
    slowing, twice = Timing((1.0, 2.0, 4.0)), Timing((2.0, 4.0, 8.0))
    assert twice.over(slowing) == 2.0
    assert slowing.over(twice) == 0.5


def test_rounds_that_only_one_of_them_had_are_left_out() -> None:
    assert Timing((2.0,)).over(Timing((1.0, 50.0))) == 2.0


def test_what_is_slow_has_fewer_rounds() -> None:
    bench = Bench(a=1.0, b=6.0, c=30.0)
    subjects = [bench.subject("a"), bench.subject("b"), bench.subject("c")]
    a, b, c = take_turns(subjects, 5, budget=14.0, timed=bench.timer)
    assert [len(each.passes) for each in (a, b, c)] == [5, 2, 1]
    assert bench.log.count("c") == 1  # its first pass is all there is of it
    assert c.passes == (30.0,)


def test_median_and_95th_percentile() -> None:
    ranked = Timing(tuple(map(float, range(20, 0, -1))))
    assert (ranked.median, ranked.p95) == (10.5, 19.0)
    assert Timing((3.0, 1.0)).p95 == 3.0


def test_waiting_reaches_the_device_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[tuple[object, ...]] = []
    for backend in (torch.cuda, torch.mps):
        monkeypatch.setattr(backend, "synchronize", lambda *device: waited.append(device))
    for name in ("cpu", "cuda:1", "mps"):
        waits_for(torch.device(name))()
    assert waited == [(torch.device("cuda:1"),), ()]
