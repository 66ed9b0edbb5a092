"""What was measured of a model's speed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imlctl.bench.bars import Bar
    from imlctl.bench.flops import Cost
    from imlctl.bench.passes import Draw
    from imlctl.bench.timing import Timing


@dataclass(frozen=True, slots=True)
class Row:
    """Speed at one size, in one way.

    Attributes:
        size: Side of the picture in pixels.
        tiles: Passes of the model per view of the picture: 1, or as many tiles as `localize` cuts.
        timing: Of each pass, over `batch` pictures.
        growth: How many times longer a picture takes than one of the first row.
        memory: Most bytes held at once besides weights and picture; None where torch cannot say.
        draw: How the prediction was drawn.
        batch: Pictures at once.
        main: Whether this is how `localize` runs if nothing else is said.
        short: Whether it had fewer rounds than were asked for, since it takes long.
    """

    size: int
    tiles: int
    timing: Timing
    growth: float
    memory: int | None
    draw: Draw
    batch: int = 1
    main: bool = True
    short: bool = False

    @property
    def fps(self) -> float:
        """Pictures per second."""
        return self.batch / self.timing.median

    @property
    def steps(self) -> int | None:
        """Denoising steps."""
        return self.draw.steps

    @property
    def members(self) -> int | None:
        """Of the ensemble."""
        return self.draw.members

    @property
    def tta(self) -> bool:
        """Whether the mirrored picture was analysed too."""
        return self.draw.tta

    def to_json(self) -> dict[str, Any]:
        """Plain values; seconds and bytes."""
        return {
            "size": self.size,
            "tiles": self.tiles,
            **asdict(self.draw),
            "batch": self.batch,
            "main": self.main,
            "short": self.short,
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
        shares: The model's time as a share of the network's, by steps and members.
    """

    name: str
    size: int
    cost: Cost
    timing: Timing
    shares: dict[tuple[int | None, int | None], float]

    def to_json(self) -> dict[str, Any]:
        """Plain values; seconds."""
        return {
            "name": self.name,
            "size": self.size,
            "median": self.timing.median,
            "shares": [
                {"steps": steps, "members": members, "share": share}
                for (steps, members), share in self.shares.items()
            ],
            "cost": self.cost.to_json(),
        }


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """Everything that was measured of one model.

    Attributes:
        cost: Of the model at `BAR_SIZE`, in its main way.
        rows: The main way at each size, then in tiles, then the other ways, then batches.
        exponents: Of time and memory against pixels, in the main way; those that could be fitted.
        rival: MiT-B3's encoder, if it was asked for.
        bars: Those that the sizes and the device allow to judge.
        left_out: A sentence for each cell that could not be run.
    """

    cost: Cost
    rows: tuple[Row, ...]
    exponents: dict[str, float]
    rival: Rival | None
    bars: tuple[Bar, ...]
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, free of NaN."""
        return {
            "cost": self.cost.to_json(),
            "speed": [row.to_json() for row in self.rows],
            "exponents": self.exponents,
            "against": self.rival.to_json() if self.rival else None,
            "left_out": list(self.left_out),
            "bars": [asdict(bar) | {"passed": bar.passed} for bar in self.bars],
        }


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Fit values = a * pixels ** exponent by least squares of logarithms, over two sizes or more.

    Args:
        sizes: Sides in pixels, not all the same.
        values: Positive.
    """
    x = [2 * math.log(size) for size in sizes]
    y = [math.log(value) for value in values]
    centre, level = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - centre) * (b - level) for a, b in zip(x, y, strict=True))
    return rise / sum((a - centre) ** 2 for a in x)


def exponents(rows: Sequence[Row]) -> dict[str, float]:
    """Fit the exponents of time and memory of the main way; none over a single size."""
    whole = [row for row in rows if row.main and row.tiles == 1 and row.batch == 1]
    sizes = [row.size for row in whole]
    if len(whole) < 2:
        return {}
    fitted = {"time": exponent(sizes, [row.timing.median for row in whole])}
    memory = [row.memory for row in whole if row.memory]
    if len(memory) == len(whole):
        fitted["memory"] = exponent(sizes, memory)
    return fitted
