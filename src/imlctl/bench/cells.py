"""The cells of a table of speed: each size and way a model is run in, timed in turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from imlctl.bench.memory import free_memory, peak_memory
from imlctl.bench.page import megabytes
from imlctl.bench.passes import noise_picture, one_pass
from imlctl.bench.speed_report import Row
from imlctl.bench.timing import Subject, take_turns, timer_for
from imlctl.core.diff_iml import MEMBERS
from imlctl.core.model import STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from imlctl.bench.passes import Draw
    from imlctl.core.model import Model

BUDGET = 20.0  # seconds
_MOST_PASSES = 4  # of one turn
_MOST_MEMORY = 0.6  # of what is free: an estimate may be off, and others need some


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
        sizes: Sides of square pictures in pixels. Each is run in one pass, as far as memory allows;
            one larger than `tile` also in tiles, as `localize` does it.
        tile: Side of a tile.
        runs: Timed rounds, at least one.
        steps: Denoising steps, for models that sample; all of them at the smallest size.
        members: Of the ensemble, likewise.
        flips: Without and with the mirrored picture, likewise.
        batches: Pictures at once, at the smallest size, for models that take several.
        against_mit_b3: Time SegFormer's MiT-B3 encoder, too, with random weights.
        full: Steps, members and flips at every size.
        budget: Seconds for the timed passes of each cell; see `take_turns`.
    """

    sizes: Sequence[int]
    tile: int
    runs: int
    steps: Sequence[int] = (1, STEPS)
    members: Sequence[int] = (1, MEMBERS)
    flips: Sequence[bool] = (False, True)
    batches: Sequence[int] = ()
    against_mit_b3: bool = False
    full: bool = False
    budget: float = BUDGET


@dataclass(frozen=True, slots=True)
class _Cell:
    """One row before it is timed."""

    size: int
    draw: Draw
    run: _Counted
    batch: int = 1

    @property
    def title(self) -> str:
        return title_of(self.size, self.draw, self.batch)


class _Counted:
    """A pass that counts how many pictures and tiles it gives the model."""

    def __init__(self, model: torch.nn.Module, run: Callable[[], object]) -> None:
        self.model, self.run, self.given = model, run, 0

    def __call__(self) -> None:
        self.given = 0
        handle = self.model.register_forward_pre_hook(self._note)
        try:
            self.run()
        finally:
            handle.remove()

    def _note(self, _: object, inputs: tuple[Tensor, ...]) -> None:
        self.given += len(inputs[0])


def title_of(size: int, way: Draw, batch: int = 1) -> str:
    """A cell in words."""
    parts = [f"{size} px", str(way), f"{batch} at once" if batch > 1 else ""]
    return ", ".join(filter(None, parts))


def time_cells(
    localizer: Localizes,
    sizes: Sequence[int],
    draws: Sequence[Draw],
    plan: Plan,
    progress: Callable[[str], object],
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Time everything in turns; a smaller size more often, since it takes less.

    Args:
        localizer: Holds the model.
        sizes: Checked, in order.
        draws: Ways to draw, the main one first.
        plan: What to measure.
        progress: Told what runs next.

    Returns:
        The main way at each size, then in tiles, then the other ways, then batches; and a sentence
        for each cell that was left out.
    """
    whole, left_out = _that_fit(localizer, sizes, draws[0], plan)
    cells = _cells(localizer, sizes, whole, draws, plan)
    subjects = [
        Subject(cell.title, cell.run, passes=_passes(sizes[-1], cell.size)) for cell in cells
    ]
    timings = take_turns(
        subjects,
        plan.runs,
        timed=timer_for(localizer.device),
        budget=plan.budget,
        progress=progress,
    )
    rows = []
    for cell, timing in zip(cells, timings, strict=True):
        memory = None
        if timing.median <= plan.budget:  # watching memory takes another pass
            progress(f"memory: {cell.title}")
            memory = peak_memory(cell.run, localizer.device)
        row = Row(
            size=cell.size,
            tiles=cell.run.given // cell.batch // (2 if cell.draw.tta else 1),
            timing=timing,
            growth=timing.over(timings[0]) / cell.batch,
            memory=memory,
            draw=cell.draw,
            batch=cell.batch,
            main=cell.draw == draws[0] and cell.batch == 1,
            short=len(timing.rounds) < plan.runs,
        )
        rows.append(row)
    return tuple(rows), left_out


def _that_fit(
    localizer: Localizes, sizes: Sequence[int], way: Draw, plan: Plan
) -> tuple[list[int], tuple[str, ...]]:
    """Sizes that memory holds in one pass, as far as the smallest one tells; and the others."""
    free = free_memory(localizer.device)
    large = [size for size in sizes if size > max(plan.tile, sizes[0])]
    if free is None or not large:
        return list(sizes), ()
    run = one_pass(localizer.model, way, sizes[0], localizer.device)
    run()  # what is allocated once does not count
    smallest = peak_memory(run, localizer.device) or 0
    needed = {size: smallest * size**2 / sizes[0] ** 2 for size in large}
    too_large = [size for size in large if needed[size] > _MOST_MEMORY * free]
    return [size for size in sizes if size not in too_large], tuple(
        f"{size} x {size} in one pass needs about {megabytes(needed[size])}, and"
        f" {megabytes(free)} are free: in tiles only."
        for size in too_large
    )


def _cells(
    localizer: Localizes,
    sizes: Sequence[int],
    whole: Sequence[int],
    draws: Sequence[Draw],
    plan: Plan,
) -> list[_Cell]:
    model, device, main = localizer.model, localizer.device, draws[0]

    def cell(size: int, way: Draw, batch: int = 1) -> _Cell:
        return _Cell(size, way, _Counted(model, one_pass(model, way, size, device, batch)), batch)

    cells = [cell(size, main) for size in whole]
    cells += [
        _Cell(size, main, _Counted(model, _in_tiles(localizer, size)))
        for size in sizes
        if size > plan.tile
    ]
    cells += [cell(size, way) for size in (whole if plan.full else sizes[:1]) for way in draws[1:]]
    if not model.samples:
        cells += [cell(sizes[0], main, batch) for batch in plan.batches]
    return cells


def _passes(largest: int, size: int) -> int:
    return min(_MOST_PASSES, max(1, largest // size))


def _in_tiles(localizer: Localizes, size: int) -> Callable[[], object]:
    image = (noise_picture(size, torch.device("cpu"))[0] * 255).to(torch.uint8)
    return lambda: localizer.predict(image)
