"""What this machine could do at best, and how far from that a model is.

Two ceilings, measured on the spot: multiply-accumulates per second of a large matrix product, and
bytes per second of a copy. A model cannot be faster than its operations at the one, nor than its
weights, picture and map at the other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from imlctl.bench.timing import waits_for

if TYPE_CHECKING:
    from collections.abc import Callable

_RUNS = 7
_SIDES = {"cpu": 1024, "cuda": 8192}  # of the matrices
_BYTES = {"cpu": 2**26, "cuda": 2**29}  # copied


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The best of a few runs, in float32.

    Attributes:
        macs: Multiply-accumulates per second.
        bandwidth: Bytes read and written per second.
    """

    macs: float
    bandwidth: float

    def __post_init__(self) -> None:
        if not (self.macs > 0 and self.bandwidth > 0):
            raise ValueError("ceilings are positive")

    def floor(self, macs: float, moved: float) -> float:
        """Seconds that so many multiply-accumulates and bytes take at the least."""
        return max(macs / self.macs, moved / self.bandwidth)


@torch.inference_mode()
def measure_ceilings(
    device: torch.device,
    *,
    side: int = 0,
    size: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Ceilings:
    """Measure both ceilings.

    Args:
        device: Where.
        side: Of the square matrices; 0 for one that suits the device.
        size: Bytes to copy; 0 likewise.
        clock: Seconds that only grow.
    """
    side = side or _SIDES.get(device.type, 4096)
    size = size or _BYTES.get(device.type, 2**28)
    left, right = (torch.ones(side, side, device=device) for _ in range(2))
    source = torch.zeros(size // 4, device=device)
    target = torch.empty_like(source)
    product = _best(lambda: left @ right, device, clock)
    copied = _best(lambda: target.copy_(source), device, clock)
    return Ceilings(side**3 / product, 2 * 4 * len(source) / copied)


def _best(run: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    wait = waits_for(device)
    spent = []
    for _ in range(_RUNS):
        wait()
        start = clock()
        run()
        wait()
        spent.append(clock() - start)
    return min(spent)
