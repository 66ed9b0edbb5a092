from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from imlctl.forge.synthesizer import Synthesizer
from imlctl.train import samples
from imlctl.train.samples import Turns, batches

if TYPE_CHECKING:
    from torch import Tensor

    from imlctl.forge.photos import PhotoPool


def collect(pool: PhotoPool, **settings: Any) -> list[tuple[Tensor, Tensor]]:
    wanted = {"start": 0, "stop": 10, "batch": 4, "workers": 0} | settings
    return list(batches(Synthesizer(pool, size=64), **wanted))


def same(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(image, other_image) and torch.equal(mask, other_mask)
        for (image, mask), (other_image, other_mask) in zip(a, b, strict=True)
    )


def test_layout_and_range(pool: PhotoPool) -> None:
    taken = collect(pool)
    assert [len(image) for image, _ in taken] == [4, 4, 2]
    for image, mask in taken:
        assert image.shape[1:] == (3, 64, 64)
        assert mask.shape == (len(image), 1, 64, 64)
        assert image.dtype == mask.dtype == torch.float32
        assert 0 <= float(image.min()) < float(image.max()) <= 1
        assert set(mask.flatten().tolist()) <= {0.0, 1.0}


def test_batches_are_the_numbered_samples(pool: PhotoPool) -> None:
    make = Synthesizer(pool, size=64)
    images = torch.cat([image for image, _ in collect(pool)])
    masks = torch.cat([mask for _, mask in collect(pool)])
    for index in range(10):
        sample = make(index)
        pixels = torch.from_numpy(sample.pixels.copy()).permute(2, 0, 1)
        assert torch.equal((images[index] * 255).round().to(torch.uint8), pixels)
        assert torch.equal(masks[index, 0] > 0, torch.from_numpy(sample.mask))


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
            return torch.full((1,), 51, dtype=torch.uint8)

    def loader(_: Any, **settings: Any) -> Any:
        asked.update(settings)
        return [(Bytes(), Bytes())]

    monkeypatch.setattr(samples, "DataLoader", loader)
    where = torch.device(device)
    wanted = {"start": 0, "stop": 4, "batch": 4, "workers": 3, "device": where}
    ((pixels, masks),) = batches(Synthesizer(pool, size=64), **wanted)
    assert sent == [(where, {"non_blocking": True})] * 2
    assert asked["pin_memory"] is pinned
    assert (asked["num_workers"], asked["prefetch_factor"]) == (3, 4)
    assert (pixels.item(), masks.item()) == (pytest.approx(0.2), 51)


def test_nothing_left_gives_nothing(pool: PhotoPool) -> None:
    assert collect(pool, start=10) == []


def test_batches_of_two_sizes_take_turns(pool: PhotoPool) -> None:
    made = Turns([Synthesizer(pool, size=size) for size in (64, 128)], 4)
    settings: dict[str, Any] = {"start": 4, "stop": 20, "batch": 4, "workers": 0}
    shapes = [tuple(pixels.shape) for pixels, _ in batches(made, **settings)]
    assert shapes == [(4, 3, s, s) for s in (128, 64, 128, 64)]
    alone = Synthesizer(pool, size=128)(5)
    assert np.array_equal(made(5).pixels, alone.pixels)
