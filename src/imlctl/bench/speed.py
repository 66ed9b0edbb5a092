"""How fast a model is and what it costs, in each way it can be run and beside another network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from imlctl.bench import flops
from imlctl.bench.bars import BAR_SIZE, BAR_STEPS, judge, judge_sampling
from imlctl.bench.cells import time_cells, title_of
from imlctl.bench.passes import Draw, draws_of, noise_picture, one_pass
from imlctl.bench.speed_report import Rival, SpeedReport, exponents
from imlctl.bench.timing import Subject, take_turns, timer_for
from imlctl.core.mit import MixTransformer
from imlctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imlctl.bench.cells import Localizes, Plan

_SMALLEST = 64  # pixels a side that the model takes


@torch.inference_mode()
def measure(
    localizer: Localizes, plan: Plan, *, progress: Callable[[str], object] = lambda _: None
) -> SpeedReport:
    """Measure the model alone: no decoding, no writing.

    Args:
        localizer: Holds the model in the form that localizes.
        plan: What to measure.
        progress: Told what runs next.

    Raises:
        UsageError: A size does not suit the model.
    """
    model, device = localizer.model, localizer.device
    sizes = checked_sizes(plan.sizes, model.multiple)
    draws = draws_of(model, plan.steps, plan.members, plan.flips)
    main = draws[0]
    progress("counting operations")
    cost = flops.count_model(model, BAR_SIZE, steps=main.steps or 1, members=main.members or 1)
    rows, left_out = time_cells(localizer, sizes, draws, plan, progress)
    rival = None
    if plan.against_mit_b3:
        size = BAR_SIZE if BAR_SIZE in sizes else sizes[0]
        rival = _mit_b3(localizer, size, draws, plan, progress)
    if model.samples:
        bars = judge_sampling(rows, rival, device)
    else:
        bars = judge(cost, rows, rival, device)
    return SpeedReport(cost, rows, exponents(rows), rival, bars, left_out)


def checked_sizes(sizes: Sequence[int], multiple: int) -> tuple[int, ...]:
    """Return the sizes in order, once each.

    Raises:
        UsageError: One does not suit the model.
    """
    for size in sizes:
        if size < _SMALLEST or size % multiple:
            fitting = max(_SMALLEST, round(size / multiple) * multiple)
            raise UsageError(
                f"the model takes multiples of {multiple} from {_SMALLEST}, not {size}",
                source="--size",
                remedy=f"Use {fitting}, for instance.",
            )
    return tuple(sorted(set(sizes)))


def _mit_b3(
    localizer: Localizes,
    size: int,
    draws: Sequence[Draw],
    plan: Plan,
    progress: Callable[[str], object],
) -> Rival:
    """Time MiT-B3's encoder and the model in turns, in the ways that bars ask for."""
    name = "MiT-B3 encoder"
    progress(f"building {name}")
    device = localizer.device
    encoder = MixTransformer().eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = noise_picture(size, device)
    ways = [way for way in draws if not way.tta and way.steps in (None, BAR_STEPS)] or draws[:1]
    subjects = [
        *(Subject(title_of(size, w), one_pass(localizer.model, w, size, device)) for w in ways),
        Subject(f"{size} px, {name}", lambda: encoder(image)),
    ]
    *ours, theirs = take_turns(
        subjects, plan.runs, timed=timer_for(device), budget=plan.budget, progress=progress
    )
    shares = {
        (way.steps, way.members): timing.over(theirs)
        for way, timing in zip(ways, ours, strict=True)
    }
    # Counted without computing, which takes a while for this one.
    cost = flops.count(encoder.to("meta"), BAR_SIZE, flops.MIX_TRANSFORMER)
    return Rival(name, size, cost, theirs, shares)
