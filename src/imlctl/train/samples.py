"""From numbered samples to batches: workers make them ahead, in order, from any step on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imlctl.train.synthesis import Synthesizer


class _Samples(Dataset[tuple[Tensor, Tensor]]):
    """Numbered samples `start` to `stop`, as (3, S, S) uint8 pictures and (1, S, S) uint8 masks."""

    def __init__(self, synthesizer: Synthesizer, start: int, stop: int) -> None:
        self.synthesizer, self.start, self.stop = synthesizer, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.synthesizer(self.start + index)
        pixels = torch.from_numpy(np.ascontiguousarray(sample.pixels.transpose(2, 0, 1)))
        return pixels, torch.from_numpy(sample.mask[None].astype(np.uint8))


def batches(
    synthesizer: Synthesizer, *, start: int, stop: int, batch: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of samples `start` to `stop`: the same ones however many workers make them.

    Yields:
        Pictures (B, 3, S, S) in [0, 1] and masks (B, 1, S, S), float32.
    """
    loader = DataLoader(
        _Samples(synthesizer, start, stop),
        batch_size=batch,
        num_workers=workers,
        worker_init_fn=_quiet_worker,
        prefetch_factor=4 if workers else None,
        # Forking shares the decoded photographs; a spawned worker would copy them all.
        multiprocessing_context="fork" if workers else None,
    )
    for pixels, masks in loader:
        yield pixels.float().div_(255), masks.float()


def _quiet_worker(_: int) -> None:
    """One thread per worker: OpenCV's own pool would fight the training for the cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
