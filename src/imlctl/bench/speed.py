"""How fast a model is and what it costs, at several sizes and beside another network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from imlctl.bench import flops
from imlctl.bench.bars import BAR_SIZE, Bar, judge
from imlctl.bench.environment import Environment, observe
from imlctl.bench.memory import peak_memory
from imlctl.bench.timing import Subject, Timing, take_turns, waits_for
from imlctl.core.mit import MixTransformer
from imlctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from imlctl.core.efficient_iml import EfficientIML

_SMALLEST = 64  # pixels a side that the model takes
_MOST_PASSES = 4  # of one turn


class Localizes(Protocol):
    """What is measured: the parts of a `Localizer` that matter here."""

    @property
    def model(self) -> EfficientIML:
        """The model in the form that localizes: fused, on its device, in its memory format."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def predict(self, image: Tensor) -> object:
        """Run over a (3, H, W) uint8 picture, in tiles where it is larger than one."""


@dataclass(frozen=True, slots=True)
class Row:
    """Speed at one size.

    Attributes:
        size: Side of the picture in pixels.
        tiles: Passes of the model per picture: 1, or as many tiles as `localize` cuts.
        timing: Of each picture.
        growth: How many times longer a picture takes than one of the first row.
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
    """Everything that was measured, and under which conditions.

    Attributes:
        environment: As it was before.
        cost: Of the model at `BAR_SIZE`.
        rows: One for each size in one pass, smallest first, then those in tiles.
        rival: MiT-B3's encoder, if it was asked for.
        bars: Those that the sizes and the device allow to judge.
    """

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
            "bars": [asdict(bar) | {"passed": bar.passed} for bar in self.bars],
        }


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
            also in tiles, as `localize` does it.
        tile: Side of a tile.
        runs: Timed rounds, at least one.
        against_mit_b3: Time SegFormer's MiT-B3 encoder, too, with random weights.
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
        rival = _mit_b3(localizer, size, runs, progress)
    bars = judge(cost, rows, rival, localizer.device)
    return SpeedReport(environment, cost, rows, rival, bars)


def _checked(sizes: Sequence[int], multiple: int) -> tuple[int, ...]:
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
    tile: int,
    runs: int,
    progress: Callable[[str], object],
) -> tuple[Row, ...]:
    """Time all sizes in turns; a smaller one more often, since it takes less."""
    device, whole = localizer.device, [(size, _one_pass(localizer, size)) for size in sizes]
    tiled = [(size, _in_tiles(localizer, size)) for size in sizes if size > tile]
    runs_at = [*whole, *tiled]
    subjects = [
        Subject(f"{size} px", run, passes=min(_MOST_PASSES, max(1, sizes[-1] // size)))
        for size, run in runs_at
    ]
    timings = take_turns(subjects, runs, synchronize=waits_for(device), progress=progress)
    rows = []
    for (size, run), timing in zip(runs_at, timings, strict=True):
        progress(f"memory: {size} px")
        tiles, memory = _tiles_and_memory(localizer.model, run, device)
        rows.append(Row(size, tiles, timing, timing.over(timings[0]), memory))
    return tuple(rows)


def _mit_b3(localizer: Localizes, size: int, runs: int, progress: Callable[[str], object]) -> Rival:
    """Time MiT-B3's encoder and the model in turns."""
    name = "MiT-B3 encoder"
    progress(f"building {name}")
    device = localizer.device
    encoder = MixTransformer().eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = _noise(size, device)
    subjects = [
        Subject(f"{size} px", _one_pass(localizer, size)),
        Subject(f"{size} px, {name}", lambda: encoder(image)),
    ]
    ours, theirs = take_turns(subjects, runs, synchronize=waits_for(device), progress=progress)
    # Counted without computing, which takes a while for this one.
    cost = flops.count(encoder.to("meta"), BAR_SIZE, flops.MIX_TRANSFORMER)
    return Rival(name, size, cost, theirs, ours.over(theirs))


def _one_pass(localizer: Localizes, size: int) -> Callable[[], object]:
    image = _noise(size, localizer.device)
    return lambda: localizer.model(image)


def _in_tiles(localizer: Localizes, size: int) -> Callable[[], object]:
    image = (_noise(size, torch.device("cpu"))[0] * 255).to(torch.uint8)
    return lambda: localizer.predict(image)


def _noise(size: int, device: torch.device) -> Tensor:
    """Return a picture (1, 3, size, size) of noise in [0, 1), as the model sees pictures."""
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return image.to(device, memory_format=torch.channels_last)


def _tiles_and_memory(
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
