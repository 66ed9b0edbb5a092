"""From numbered samples to batches: workers make them ahead, in order, from any step on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_all_start_methods
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from imlctl.core.model import CLUE_STRIDE, continued
from imlctl.image.prepare import pad, to_float
from imlctl.train.distributed import Process

if TYPE_CHECKING:
    from imlctl.forge.synthesizer import Maker

# (1, 3, h, w) in [0, 1] to (1, C, h / 4, w / 4), rounded up; see `Model.clues`.
Clues = Callable[[Tensor], Tensor]

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures and truth that one step, or a part of one, learns from."""

    image: Tensor  # (B, 3, S, S) in [0, 1], float32, padded below and on the right as for inference
    mask: Tensor  # (B, 1, S, S), 0 or 1, float32, padded in the same way
    valid: Tensor  # (B, 1, S, S), 1 on a sample's own pixels and 0 on its padding, float32
    # (B, C, S / 4, S / 4) of each sample's own pixels, their edge repeated over the padding; None
    # where the workers were not asked for them
    clues: Tensor | None = None
    first: int = 0  # place of the first picture in the batch of all processes
    total: int = 0  # pictures in that batch; 0 for those at hand

    def __len__(self) -> int:
        return len(self.image)


class _Samples(Dataset[tuple[Tensor, ...]]):
    """Numbered samples: (3, S, S) and (1, S, S) uint8, own height and width, and clues."""

    def __init__(self, make: Maker, clues: Clues | None) -> None:
        self.make, self.clues = make, clues

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        sample = self.make(index)
        side = sample.side or max(sample.mask.shape)
        own = torch.from_numpy(np.moveaxis(sample.pixels, 2, 0).copy())  # (3, h, w)
        mask = torch.from_numpy(sample.mask[None].astype(np.uint8))
        image, padded = (pad(part, multiple=1, min_side=side) for part in (own, mask))
        parts = (image, padded, torch.tensor(sample.mask.shape))
        if self.clues is None:
            return parts
        with torch.no_grad():
            found = self.clues(to_float(own)[None])  # (1, C, ceil(h / 4), ceil(w / 4))
        cells = side // CLUE_STRIDE
        return (*parts, continued(found[..., :cells, :cells], cells, cells)[0])


def batches(
    make: Maker,
    *,
    start: int,
    stop: int,
    batch: int,
    workers: int,
    device: torch.device = _CPU,
    parts: int = 1,
    process: Process | None = None,
    clues: Clues | None = None,
) -> Iterator[Batch]:
    """Yield batches of samples `start` to `stop`: the same ones however many workers make them.

    Of each batch this process takes its share, and hands it out in so many parts. They go to the
    device as bytes, a quarter of what they are as numbers, from memory that a GPU reads by itself.
    `clues` is called in the worker, on a sample's own pixels.
    """
    place = process or Process()
    share = batch // place.world
    shares = (
        range(begin, min(begin + share, stop))
        for begin in range(start + place.rank * share, stop, batch)
    )
    size = share // parts
    numbers = (list(each[at : at + size]) for each in shares for at in range(0, len(each), size))
    loader = DataLoader(
        _Samples(make, clues),
        batch_sampler=numbers,
        num_workers=workers,
        worker_init_fn=_quiet_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=device.type == "cuda",
        multiprocessing_context=_start_method() if workers else None,
    )
    for made in loader:
        pixels, masks, sizes, *found = (part.to(device, non_blocking=True) for part in made)
        image, mask = pixels.float().div_(255), masks.float()
        yield Batch(image, mask, _valid(sizes, mask.shape[-1]), found[0] if found else None)


def _valid(sizes: Tensor, side: int) -> Tensor:
    """1 within each height and width (B, 2), 0 beyond: (B, 1, side, side)."""
    places = torch.arange(side, device=sizes.device)
    down, across = (places < sizes[:, k, None] for k in (0, 1))  # (B, side)
    return (down[:, None, :, None] & across[:, None, None, :]).float()


def _start_method() -> str | None:
    """Forking shares the decoded photographs; spawning, all that Windows has, copies them."""
    return "fork" if "fork" in get_all_start_methods() else None


def _quiet_worker(_: int) -> None:
    """One thread per worker, for pools would fight for the cores; signals are not its to answer.

    A terminal and a batch system send them to all processes, of which the first one saves, and then
    dismisses the others.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
