"""From numbered samples to batches: workers make them ahead, in order, from any step on."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing import get_all_start_methods
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imlctl.forge.synthesizer import Maker, Sample

_CPU = torch.device("cpu")


class _Samples(Dataset[tuple[Tensor, Tensor]]):
    """Numbered samples, as (3, S, S) uint8 pictures and (1, S, S) uint8 masks."""

    def __init__(self, make: Maker) -> None:
        self.make = make

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.make(index)
        pixels = torch.from_numpy(np.ascontiguousarray(sample.pixels.transpose(2, 0, 1)))
        return pixels, torch.from_numpy(sample.mask[None].astype(np.uint8))


class Turns:
    """Makers that take turns, one batch each: samples of one batch must have one size.

    Args:
        makers: Each is asked for its own samples by their numbers.
        batch: Samples of a global batch.
    """

    def __init__(self, makers: Sequence[Maker], batch: int) -> None:
        self.makers, self.batch = makers, batch

    def __call__(self, index: int) -> Sample:
        """Make sample `index`."""
        return self.makers[index // self.batch % len(self.makers)](index)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Which samples make which batch; each is a list of numbers.

    Attributes:
        start: First sample.
        stop: One past the last.
        batch: Samples of a global batch.
        micro: Of them, those that are handed out at once.
        rank: Which part of each global batch is handed out here.
        world: How many parts there are; each is contiguous.
    """

    start: int
    stop: int
    batch: int
    micro: int
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        part = self.batch // self.world
        for first in range(self.start, self.stop, self.batch):
            begin = first + self.rank * part
            end = min(begin + part, self.stop)
            for each in range(begin, end, self.micro):
                yield list(range(each, min(each + self.micro, end)))


def batches(
    make: Maker,
    *,
    start: int,
    stop: int,
    batch: int,
    workers: int,
    device: torch.device = _CPU,
    micro: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of samples `start` to `stop`: the same ones however many workers make them.

    Args:
        make: Makes a sample by its number.
        start: First sample.
        stop: One past the last.
        batch: Samples of a global batch.
        workers: Processes that make them.
        device: Where they go: as bytes, a quarter of what they are as numbers, and for a GPU from
            memory that it reads by itself while the loop goes on.
        micro: Samples handed out at once; all of this part of a batch unless given.
        rank: See `Numbers`.
        world: See `Numbers`.

    Yields:
        Pictures (B, 3, S, S) in [0, 1] and masks (B, 1, S, S), float32, on `device`.
    """
    loader = DataLoader(
        _Samples(make),
        batch_sampler=Numbers(start, stop, batch, micro or batch // world, rank, world),
        num_workers=workers,
        worker_init_fn=_quiet_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=device.type == "cuda",
        multiprocessing_context=_start_method() if workers else None,
    )
    for parts in loader:
        pixels, masks = (part.to(device, non_blocking=True).float() for part in parts)
        yield pixels.div_(255), masks


def _start_method() -> str | None:
    """Forking shares the decoded photographs; spawning, all that Windows has, copies them."""
    return "fork" if "fork" in get_all_start_methods() else None


def _quiet_worker(_: int) -> None:
    """One thread per worker: OpenCV's own pool would fight the training for the cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
