"""How fast a model is and what it costs, in each way it can be run and beside another network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from imlctl.bench import flops
from imlctl.bench.bars import BAR_SIZE, BAR_STEPS, judge, judge_sampling
from imlctl.bench.memory import peak_memory
from imlctl.bench.passes import Draw, draws_of, noise_picture, one_pass
from imlctl.bench.speed_report import Rival, Row, SpeedReport, exponents
from imlctl.bench.timing import Subject, take_turns, waits_for
from imlctl.core.diff_iml import MEMBERS, STEPS, DiffIML
from imlctl.core.mit import MixTransformer
from imlctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from imlctl.inference import Model

_SMALLEST = 64  # pixels a side that the model takes
_MOST_PASSES = 4  # of one turn


class Localizes(Protocol):
    """What is measured: the parts of a `Localizer` that matter here."""

    @property
    def model(self) -> Model:
        """The model in the form that localizes: fused, on its device, in its memory format."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def predict(self, image: Tensor) -> object:
        """Run over a (3, H, W) uint8 picture, in tiles where it is larger than one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured.

    Attributes:
        sizes: Sides of square pictures in pixels. Each is run in one pass; one larger than `tile`
            also in tiles, as `localize` does it.
        tile: Side of a tile.
        runs: Timed rounds, at least one.
        steps: Denoising steps, for models that sample; all of them at the smallest size.
        members: Of the ensemble, likewise.
        flips: Without and with the mirrored picture, likewise.
        batches: Pictures at once, at the smallest size, for models that take several.
        against_mit_b3: Time SegFormer's MiT-B3 encoder, too, with random weights.
    """

    sizes: Sequence[int]
    tile: int
    runs: int
    steps: Sequence[int] = (1, STEPS)
    members: Sequence[int] = (1, MEMBERS)
    flips: Sequence[bool] = (False, True)
    batches: Sequence[int] = ()
    against_mit_b3: bool = False


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
    sizes = checked_sizes(plan.sizes, model.config.multiple)
    draws = draws_of(model, plan.steps, plan.members, plan.flips)
    main = draws[0]
    progress("counting operations")
    cost = flops.count_model(model, BAR_SIZE, steps=main.steps or 1, members=main.members or 1)
    rows = _rows(localizer, sizes, draws, plan, progress)
    rival = None
    if plan.against_mit_b3:
        size = BAR_SIZE if BAR_SIZE in sizes else sizes[0]
        rival = _mit_b3(localizer, size, draws, plan.runs, progress)
    if isinstance(model, DiffIML):
        bars = judge_sampling(rows, rival, device)
    else:
        bars = judge(cost, rows, rival, device)
    return SpeedReport(cost, rows, exponents(rows), rival, bars)


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


def _rows(
    localizer: Localizes,
    sizes: Sequence[int],
    draws: Sequence[Draw],
    plan: Plan,
    progress: Callable[[str], object],
) -> tuple[Row, ...]:
    """Time everything in turns; a smaller size more often, since it takes less."""
    model, device, main = localizer.model, localizer.device, draws[0]
    wanted = [(size, main, 1, one_pass(model, main, size, device)) for size in sizes]
    wanted += [(size, main, 1, _in_tiles(localizer, size)) for size in sizes if size > plan.tile]
    wanted += [(sizes[0], way, 1, one_pass(model, way, sizes[0], device)) for way in draws[1:]]
    if not isinstance(model, DiffIML):
        wanted += [
            (sizes[0], main, batch, one_pass(model, main, sizes[0], device, batch))
            for batch in plan.batches
        ]
    subjects = [
        Subject(_title(size, way, batch), run, passes=_passes(sizes[-1], size))
        for size, way, batch, run in wanted
    ]
    timings = take_turns(subjects, plan.runs, synchronize=waits_for(device), progress=progress)
    rows = []
    for (size, way, batch, run), timing in zip(wanted, timings, strict=True):
        progress(f"memory: {_title(size, way, batch)}")
        passes, memory = _passes_and_memory(model, run, device)
        views = 2 if way.tta else 1
        growth = timing.over(timings[0]) / batch
        plain = way == main and batch == 1
        rows.append(Row(size, passes // views, timing, growth, memory, way, batch, plain))
    return tuple(rows)


def _passes(largest: int, size: int) -> int:
    return min(_MOST_PASSES, max(1, largest // size))


def _title(size: int, way: Draw, batch: int) -> str:
    parts = [f"{size} px", str(way), f"{batch} at once" if batch > 1 else ""]
    return ", ".join(filter(None, parts))


def _mit_b3(
    localizer: Localizes,
    size: int,
    draws: Sequence[Draw],
    runs: int,
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
        *(Subject(_title(size, w, 1), one_pass(localizer.model, w, size, device)) for w in ways),
        Subject(f"{size} px, {name}", lambda: encoder(image)),
    ]
    *ours, theirs = take_turns(subjects, runs, synchronize=waits_for(device), progress=progress)
    shares = {
        (way.steps, way.members): timing.over(theirs)
        for way, timing in zip(ways, ours, strict=True)
    }
    # Counted without computing, which takes a while for this one.
    cost = flops.count(encoder.to("meta"), BAR_SIZE, flops.MIX_TRANSFORMER)
    return Rival(name, size, cost, theirs, shares)


def _in_tiles(localizer: Localizes, size: int) -> Callable[[], object]:
    image = (noise_picture(size, torch.device("cpu"))[0] * 255).to(torch.uint8)
    return lambda: localizer.predict(image)


def _passes_and_memory(
    model: torch.nn.Module, run: Callable[[], object], device: torch.device
) -> tuple[int, int | None]:
    """Return how often `run` calls the model, and its peak memory in bytes."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = model.register_forward_pre_hook(count)
    try:
        memory = peak_memory(run, device)
    finally:
        handle.remove()
    return calls, memory
