"""The bars that the models are held to: the project's own, from section 6 of its design."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from imlctl.bench.flops import Cost
    from imlctl.bench.speed_report import Rival, Row

BAR_SIZE, BAR_LARGE_SIZE = 512, 2048  # sides in pixels
MOST_PARAMETERS = 5_000_000
MOST_MACS = 8_000_000_000
MOST_OF_MIT_B3 = 1 / 6  # of the encoder's time in the same run, on a CPU
MOST_GROWTH = 17.0  # of time, for 16 times the pixels
# The bar is "linear in pixels"; a tenth allows for what does not depend on them.
MOST_MEMORY_GROWTH = 1.1 * (BAR_LARGE_SIZE / BAR_SIZE) ** 2

# DiffIML, eight steps, by members of the ensemble: time over MiT-B3's encoder on a CPU, and the
# paper's own pictures per second, which a GPU has to be beyond.
BAR_STEPS = 8
MOST_OF_MIT_B3_BY_MEMBERS: Mapping[int, float] = {1: 1.0, 5: 1.5}
LEAST_FPS_BY_MEMBERS: Mapping[int, float] = {1: 69.48, 5: 37.28}
LEAST_SCAN_SHARE = 0.9  # of the bare model's pictures per second
MOST_HELP_SECONDS = 0.25
MOST_COLD_SECONDS = 1.5  # of a process for one photo of 512 x 512, over `import torch`
MOST_LARGE_BYTES = 2.5e9  # of a process, for 24 megapixels
LEAST_ROUND_TRIP_F1 = 0.997
MOST_OF_STABLE_DIFFUSION = 1 / 50  # of the time of its autoencoder in the same run


@dataclass(frozen=True, slots=True)
class Bar:
    """A promised number, and the measured one.

    Attributes:
        name: What is measured.
        measured: Here and now.
        limit: The most that passes, or the least.
        least: Whether `limit` is the least.
    """

    name: str
    measured: float
    limit: float
    least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the bar is met."""
        return self.measured >= self.limit if self.least else self.measured <= self.limit


def judge(
    cost: Cost, rows: Sequence[Row], rival: Rival | None, device: torch.device
) -> tuple[Bar, ...]:
    """Hold EfficientIML to its bars, as far as sizes and device allow.

    Args:
        cost: Of the model at `BAR_SIZE`.
        rows: At any sizes.
        rival: MiT-B3's encoder, if it was timed.
        device: Where all of it ran.
    """
    bars = [
        Bar("parameters", cost.parameters, MOST_PARAMETERS),
        Bar(f"multiply-accumulates at {BAR_SIZE}", cost.macs, MOST_MACS),
    ]
    plain = [row for row in rows if row.main]
    if rival is not None and rival.size == BAR_SIZE and device.type == "cpu":
        bars += [
            Bar(f"time at {BAR_SIZE} / {rival.name}", share, MOST_OF_MIT_B3)
            for share in rival.shares.values()
        ]
    whole = {row.size: row for row in plain if row.tiles == 1}
    if BAR_SIZE in whole and BAR_LARGE_SIZE in whole:
        small, large = whole[BAR_SIZE], whole[BAR_LARGE_SIZE]
        sizes = f"at {BAR_LARGE_SIZE} / at {BAR_SIZE}"
        bars.append(Bar(f"time {sizes}", large.timing.over(small.timing), MOST_GROWTH))
        if small.memory and large.memory:
            bars.append(Bar(f"memory {sizes}", large.memory / small.memory, MOST_MEMORY_GROWTH))
    return tuple(bars)


def judge_sampling(
    rows: Sequence[Row], rival: Rival | None, device: torch.device
) -> tuple[Bar, ...]:
    """Hold DiffIML to its bars, all eight steps counted, as far as sizes and device allow.

    Args:
        rows: At any sizes and settings.
        rival: MiT-B3's encoder, if it was timed.
        device: Where all of it ran.
    """
    bars = []
    for members, limit in MOST_OF_MIT_B3_BY_MEMBERS.items():
        what = f"N={members}, {BAR_STEPS} steps, at {BAR_SIZE}"
        share = rival.shares.get((BAR_STEPS, members)) if rival is not None else None
        if rival is not None and share and rival.size == BAR_SIZE and device.type == "cpu":
            bars.append(Bar(f"time, {what} / {rival.name}", share, limit))
        bars += [
            Bar(f"fps, {what}", row.fps, LEAST_FPS_BY_MEMBERS[members], least=True)
            for row in rows
            if device.type == "cuda"
            and (row.size, row.steps, row.members) == (BAR_SIZE, BAR_STEPS, members)
            and not row.tta
            and row.tiles == 1
        ]
    return tuple(bars)
