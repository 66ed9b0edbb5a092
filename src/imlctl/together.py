"""Several pictures in one forward pass, where that changes no bit of any of them.

A small picture leaves most of a graphics card idle; a batch of them does not. But a map must not
depend on which other pictures there were (forensic rule 7), and a kernel may round in another way
for another number of pictures, or for another place among them. So a pass always has the same
number of entries; and before the first pass of any size one picture goes into all its places, and
must come out of each the same, bit for bit. Pictures of a size for which that does not hold go
alone.

On CPUs (torch 2.13) these were found to depend on the place: convolutions and matrix products that
several threads share, matrix products of few rows, and `exp` and its kin, which take another path
for the last values of each thread. The latter concerns so few values that a trial could miss it, so
a CPU is given no batches unless it computes with one thread, and only of small pictures.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from imlctl.core.mixers import SpatialMixV6
from imlctl.inference import predict, predict_alike

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from imlctl.inference import Model, Sampling

_MOST_ON_CPU = 2**20  # pixels of a pass; in larger ones pictures gain nothing from each other


class Together:
    """Runs a model over any number of prepared pictures.

    Args:
        model: In evaluation mode, on `device`.
        size: Entries of a pass; with 1, every picture goes alone.
        device: Where to compute.
        tile: See `inference.predict`; larger pictures go alone.
        overlap: Likewise.
        sampling: Likewise.
    """

    def __init__(
        self,
        model: Model,
        size: int,
        *,
        device: torch.device,
        tile: int,
        overlap: int,
        sampling: Sampling,
    ) -> None:
        self.size = size
        self._device = device
        self._tile = tile
        self._alone = partial(
            predict, model, device=device, tile=tile, overlap=overlap, sampling=sampling
        )
        self._pass = partial(predict_alike, model, size=size, device=device, sampling=sampling)
        # It chooses between two formulas by what all pictures of a batch hold.
        self._mingles = any(isinstance(part, SpatialMixV6) for part in model.modules())
        self._steady: dict[tuple[int, int], bool] = {}

    def may_share(self, height: int, width: int) -> bool:
        """Whether prepared pictures of this size could go together, if a trial does not object."""
        if self.size == 1 or self._mingles or max(height, width) > self._tile:
            return False
        if self._device.type != "cpu":
            return True
        return torch.get_num_threads() == 1 and self.size * height * width <= _MOST_ON_CPU

    def __call__(
        self, images: Sequence[Tensor], keys: Sequence[bytes]
    ) -> list[tuple[Tensor, float]]:
        """Return for each picture what `inference.predict` returns.

        What it is depends on the picture, its key and the arguments of this class, and on nothing
        else: not on the other pictures, their number or their order.

        Args:
            images: Each (3, H', W') integer, of any size.
            keys: What the noise of each is drawn for.

        Raises:
            NumericalError: The map or the score of any of them is NaN or infinite.
        """
        places: dict[tuple[int, int], list[int]] = {}
        for place, image in enumerate(images):
            places.setdefault((image.shape[1], image.shape[2]), []).append(place)
        found: dict[int, tuple[Tensor, float]] = {}
        for shape, like in places.items():
            if not self._shares(*shape):
                found |= {place: self._alone(images[place], key=keys[place]) for place in like}
                continue
            for start in range(0, len(like), self.size):
                some = like[start : start + self.size]
                answers = self._pass([images[p] for p in some], keys=[keys[p] for p in some])
                found |= zip(some, answers, strict=True)
        return [found[place] for place in range(len(images))]

    def _shares(self, height: int, width: int) -> bool:
        if not self.may_share(height, width):
            return False
        if (height, width) not in self._steady:
            # The same for whoever tries it, since the answer decides how pictures are analysed.
            noise = torch.Generator().manual_seed(0)
            image = torch.randint(256, (3, height, width), generator=noise, dtype=torch.uint8)
            first, *rest = self._pass([image] * self.size, keys=[b""] * self.size)
            self._steady[height, width] = all(
                torch.equal(probability, first[0]) and score == first[1]
                for probability, score in rest
            )
        return self._steady[height, width]
