from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from imlctl.forge.synthesizer import Synthesizer
from imlctl.image.prepare import pad
from imlctl.train import batches as module
from imlctl.train.batches import Batch, batches

if TYPE_CHECKING:
    from torch import Tensor

    from imlctl.forge.photos import PhotoPool


def collect(pool: PhotoPool, **settings: Any) -> list[Batch]:
    wanted = {"start": 0, "stop": 10, "batch": 4, "workers": 0} | settings
    return list(batches(Synthesizer(pool, size=64), **wanted))


def same(a: list[Batch], b: list[Batch]) -> bool:
    def tensors(batch: Batch) -> list[Tensor]:
        found = (batch.image, batch.mask, batch.valid, batch.clues)
        return [part for part in found if part is not None]

    return len(a) == len(b) and all(
        len(tensors(x)) == len(tensors(y)) and all(map(torch.equal, tensors(x), tensors(y)))
        for x, y in zip(a, b, strict=True)
    )


def some_clues(image: Tensor) -> Tensor:
    """Mean and size of what it is given, at a quarter of its resolution."""
    height, width = image.shape[-2:]
    cells = torch.nn.functional.avg_pool2d(image.mean(1, keepdim=True), 4, ceil_mode=True)
    return torch.cat((cells, torch.full_like(cells, height * 1000 + width)), 1)


def test_layout_and_range(pool: PhotoPool) -> None:
    taken = collect(pool)
    assert [len(batch) for batch in taken] == [4, 4, 2]
    for batch in taken:
        image, mask = batch.image, batch.mask
        assert image.shape[1:] == (3, 64, 64)
        assert mask.shape == batch.valid.shape == (len(batch), 1, 64, 64)
        assert image.dtype == mask.dtype == batch.valid.dtype == torch.float32
        assert 0 <= float(image.min()) < float(image.max()) <= 1
        assert set(mask.flatten().tolist()) <= {0.0, 1.0}
        assert batch.clues is None


def test_batches_are_the_numbered_samples_padded_as_for_inference(pool: PhotoPool) -> None:
    make = Synthesizer(pool, size=64)
    taken = collect(pool, stop=40)
    images, masks, valid = (
        torch.cat([getattr(batch, name) for batch in taken]) for name in ("image", "mask", "valid")
    )
    small = 0
    for index in range(40):
        sample = make(index)
        inside = (slice(0, sample.mask.shape[0]), slice(0, sample.mask.shape[1]))
        small += sample.mask.shape[0] < 64 and sample.mask.shape[1] < 64
        own = torch.from_numpy(np.moveaxis(sample.pixels, 2, 0).copy())
        expected = pad(own, multiple=64)
        assert torch.equal((images[index] * 255).round().to(torch.uint8), expected)
        assert torch.equal(masks[index, 0][inside] > 0, torch.from_numpy(sample.mask))
        assert valid[index, 0][inside].all()
        assert valid[index].sum() == sample.mask.shape[0] * sample.mask.shape[1]
    assert small > 2


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_clues_are_of_a_sample_s_own_pixels(workers: int, pool: PhotoPool) -> None:
    make = Synthesizer(pool, size=64)
    for first, batch in enumerate(collect(pool, stop=12, clues=some_clues, workers=workers)):
        assert batch.clues is not None
        assert batch.clues.shape == (len(batch), 2, 16, 16)
        for place, clues in enumerate(batch.clues):
            sample = make(4 * first + place)
            assert (clues[1] == sample.mask.shape[0] * 1000 + sample.mask.shape[1]).all()
            rows, columns = -(-sample.mask.shape[0] // 4), -(-sample.mask.shape[1] // 4)
            assert (clues[0, rows - 1 :] == clues[0, rows - 1]).all()  # its edge repeated
            assert (clues[0, :, columns - 1 :] == clues[0, :, columns - 1 : columns]).all()


# Python 3.12 warns of any fork beside threads, and torch has threads.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_workers_change_nothing(pool: PhotoPool) -> None:
    assert same(collect(pool, workers=2), collect(pool, workers=0))


def test_a_later_start_gives_the_later_batches(pool: PhotoPool) -> None:
    assert same(collect(pool, start=4), collect(pool)[1:])


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cpu", False), ("mps", False)])
def test_a_gpu_fetches_bytes_made_ahead(
    device: str, pinned: bool, pool: PhotoPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a loader and a GPU that only note what they are asked."""
    asked: dict[str, Any] = {}
    sent: list[Any] = []

    class Bytes:
        def to(self, *where: Any, **how: Any) -> Tensor:
            sent.append((*where, how))
            return torch.full((1, 2), 51, dtype=torch.uint8)

    def loader(_: Any, **settings: Any) -> Any:
        asked.update(settings)
        return [(Bytes(), Bytes(), Bytes())]

    monkeypatch.setattr(module, "DataLoader", loader)
    where = torch.device(device)
    wanted = {"start": 0, "stop": 4, "batch": 4, "workers": 3, "device": where}
    (batch,) = batches(Synthesizer(pool, size=64), **wanted)
    assert sent == [(where, {"non_blocking": True})] * 3
    assert asked["pin_memory"] is pinned
    assert (asked["num_workers"], asked["prefetch_factor"]) == (3, 4)
    assert (batch.image[0, 0].item(), batch.mask[0, 0].item()) == (pytest.approx(0.2), 51)


def test_nothing_left_gives_nothing(pool: PhotoPool) -> None:
    assert collect(pool, start=10) == []
