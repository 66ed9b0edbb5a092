"""How fast a model is: passes timed in turns, what they cost, and the bars they are held to.

Speeds of a shared machine drift by more than what is to be told apart. So whatever is compared runs
in turns, A B A B, each round gives one ratio, and the median of the ratios is reported.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

import torch

from imlctl.bench import flops
from imlctl.bench.bars import BAR_SIZE, Bar, bars_of
from imlctl.bench.environment import Environment, observe
from imlctl.bench.memory import peak_memory
from imlctl.core.mit import MixTransformer
from imlctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from imlctl.core.efficient_iml import EfficientIML

_SMALLEST = 64  # pixels a side that the model takes
_WARM_PASSES, _WARM_SECONDS = 2, 0.2
_MOST_PASSES = 4  # of one turn


class Localizes(Protocol):
    """What is measured: the parts of a localizer that matter here."""

    @property
    def model(self) -> EfficientIML:
        """The model as it localizes: fused, on its device, in its memory format."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def predict(self, image: Tensor) -> object:
        """Run over a (3, H, W) uint8 picture, in tiles where it is larger than one."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to time.

    Attributes:
        run: One pass.
        passes: Timed passes of each turn. Of several, one more runs first and is not counted: it
            pays for what the others left in the caches.
        name: For progress.
    """

    run: Callable[[], object]
    passes: int = 1
    name: str = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each pass, by round; never empty."""

    rounds: tuple[tuple[float, ...], ...]

    @property
    def passes(self) -> list[float]:
        """Seconds of every pass, fastest first."""
        return sorted(seconds for turn in self.rounds for seconds in turn)

    @property
    def median(self) -> float:
        """Median seconds of a pass."""
        return median(self.passes)

    @property
    def p95(self) -> float:
        """Seconds that at least 95 % of the passes stayed within."""
        return self.passes[math.ceil(0.95 * len(self.passes)) - 1]

    def over(self, other: Timing) -> float:
        """How many times longer than `other`, timed in the same rounds: the median of the ratios."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return median(median(mine) / median(theirs) for mine, theirs in pairs)


@dataclass(frozen=True, slots=True)
class Row:
    """Speed at one size.

    Attributes:
        size: Side of the picture in pixels.
        tiles: Passes of the model per picture: 1, or as many tiles as `localize` would cut.
        timing: Of each picture.
        growth: How many times longer a picture takes than one of the first size.
        memory: Most bytes held at once besides weights and picture; None where torch cannot say.
    """

    size: int
    tiles: int
    timing: Timing
    growth: float
    memory: int | None

    @property
    def fps(self) -> float:
        """Pictures per second, one at a time."""
        return 1 / self.timing.median

    def to_json(self) -> dict[str, Any]:
        """Plain values; seconds and bytes."""
        return {
            "size": self.size,
            "tiles": self.tiles,
            "passes": len(self.timing.passes),
            "fps": self.fps,
            "median": self.timing.median,
            "p95": self.timing.p95,
            "growth": self.growth,
            "memory": self.memory,
        }


@dataclass(frozen=True, slots=True)
class Rival:
    """Another network, timed in turns with the model.

    Attributes:
        name: Of the network.
        size: Side of the picture in pixels.
        cost: Of the network, at `BAR_SIZE`.
        timing: Of the network.
        share: The model's time as a share of the network's.
    """

    name: str
    size: int
    cost: flops.Cost
    timing: Timing
    share: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; seconds."""
        return {
            "name": self.name,
            "size": self.size,
            "median": self.timing.median,
            "share": self.share,
            "cost": self.cost.to_json(),
        }


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """Everything that was measured, and under which conditions."""

    environment: Environment
    cost: flops.Cost
    rows: tuple[Row, ...]
    rival: Rival | None
    bars: tuple[Bar, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, free of NaN."""
        return {
            "environment": asdict(self.environment) | {"busy": self.environment.busy},
            "cost": self.cost.to_json(),
            "speed": [row.to_json() for row in self.rows],
            "against": self.rival.to_json() if self.rival else None,
            "bars": [bar.to_json() for bar in self.bars],
        }


def take_turns(
    subjects: Sequence[Subject],
    rounds: int,
    *,
    synchronize: Callable[[], object] = lambda: None,
    progress: Callable[[str], object] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Warm up all subjects, then time them in turns.

    Args:
        subjects: At least one.
        rounds: Turns of each, at least one.
        synchronize: Waits until the device has done what it was told.
        progress: Told the name of whatever runs next.
        clock: Seconds that only grow.

    Returns:
        One timing for each subject, in order.
    """

    def timed(run: Callable[[], object]) -> float:
        synchronize()
        start = clock()
        run()
        synchronize()
        return clock() - start

    for subject in subjects:
        progress(f"warming up {subject.name}")
        spent = [timed(subject.run) for _ in range(_WARM_PASSES)]
        while sum(spent) < _WARM_SECONDS:
            spent.append(timed(subject.run))
    turns: list[list[tuple[float, ...]]] = [[] for _ in subjects]
    for number in range(rounds):
        for subject, taken in zip(subjects, turns, strict=True):
            progress(f"{subject.name}, round {number + 1} of {rounds}")
            if subject.passes > 1:
                subject.run()
            taken.append(tuple(timed(subject.run) for _ in range(subject.passes)))
    return [Timing(tuple(taken)) for taken in turns]


@torch.inference_mode()
def measure(
    localizer: Localizes,
    *,
    sizes: Sequence[int],
    tile: int,
    runs: int,
    against_mit_b3: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> SpeedReport:
    """Measure the model alone: no decoding, no writing.

    Args:
        localizer: Holds the model in the form that localizes.
        sizes: Sides of square pictures in pixels. Each is run in one pass; one larger than `tile`
            also in tiles, as `localize` does.
        tile: Side of a tile.
        runs: Timed rounds.
        against_mit_b3: Time SegFormer's MiT-B3 encoder, too.
        progress: Told what runs next.

    Raises:
        UsageError: A size does not suit the model.
    """
    sizes = _checked(sizes, localizer.model.config.multiple)
    environment = observe(localizer.device)
    progress("counting operations")
    cost = flops.count(localizer.model, BAR_SIZE, flops.EFFICIENT_IML)
    rows = _rows(localizer, sizes, tile, runs, progress)
    rival = None
    if against_mit_b3:
        size = BAR_SIZE if BAR_SIZE in sizes else sizes[0]
        rival = _against_mit_b3(localizer, size, runs, progress)
    whole = {row.size: row for row in rows if row.tiles == 1}
    small, large = whole.get(BAR_SIZE), whole.get(LARGE_SIZE)
    bars = bars_of(cost)
    return SpeedReport(environment, cost, rows, rival, bars)
