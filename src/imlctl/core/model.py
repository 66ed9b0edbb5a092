"""The questions that inference asks of a network, the same for both; neither is asked its name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core.layers import Spread, fuse_all

CELL = 8  # pixels a side of the cells that reliability and score are told by
CLUE_STRIDE = 4  # of the maps that `Model.clues` returns, against the picture
STEPS = 8  # denoising steps, the paper's choice: more change little (DiffIML, Table 6e)

# Named parts of a model, and the qualified names of the modules in each.
Parts = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer for a batch."""

    logits: Tensor  # of each pixel being manipulated, (B, 1, H, W)
    levels: tuple[Tensor, ...]  # those of coarser levels, finest first, each (B, 1, H / s, W / s)
    score_logits: Tensor  # of the picture holding any manipulation, (B,)
    # What the logits were read from, finest first, each (B, width, H / s, W / s), not negative.
    features: tuple[Tensor, ...] = ()
    cells: Tensor | None = None  # logits at the size of the finest features, before enlarging
    copied: Tensor | None = None  # what copies added to them


class Model(nn.Module):
    """A network that localizes."""

    config: Any  # its shape, a frozen dataclass with `to_dict`
    samples: bool = False  # it starts from noise, which `forward` must then be given
    scored: bool = False  # `judge` was trained on whole pictures; else the map tells the score

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Height and width that `forward` takes are multiples of this."""

    @abstractmethod
    def clues(self, image: Tensor, spread: Spread = map) -> Tensor | None:
        """Look for evidence that only a whole picture shows; nothing of it is learned.

        Args:
            image: (B, 3, H, W) in [0, 1], of any size: a picture's own pixels, never padding, whose
                mirrored edge would count as a copy.
            spread: How the kinds of evidence are gone through; another one may use threads.

        Returns:
            (B, C, ceil(H / 4), ceil(W / 4)) float32; None for a model that looks for none.
        """

    def noise_shape(self, height: int, width: int) -> tuple[int, int, int] | None:
        """Shape (C, h, w) of one member's noise for this size; None for a model without."""
        del height, width
        return None

    @abstractmethod
    def forward(
        self,
        image: Tensor,
        clues: Tensor | None = None,
        noise: Tensor | None = None,
        steps: int = STEPS,
    ) -> Prediction:
        """Localize.

        Args:
            image: (B, 3, H, W) in [0, 1]; H and W multiples of `multiple`, at least 64.
            clues: Of the picture, or of the whole picture that it is a tile of, (B, C, H / 4,
                W / 4); found in `image` when None.
            noise: One row for each member of the ensemble, (B * N, C, h, w), those of the next
                picture following; for a model that samples.
            steps: Denoising steps; likewise.

        Raises:
            ValueError: The size does not fit, or noise is missing.
        """

    def reliability(self, image: Tensor) -> Tensor | None:
        """Say where the map can be believed, (B, ceil(H / 8), ceil(W / 8)) in [0, 1].

        From a picture's own pixels (B, 3, H, W) in [0, 1], of any size; None if it cannot say.
        """
        del image
        return None

    def pool(self, prediction: Prediction, reliability: Tensor | None, inside: Tensor) -> Any:
        """Keep of a tile what the score of the whole picture is made of.

        Args:
            prediction: For the tile, (B, 3, H, W).
            reliability: Its part of what `reliability` says, (B, H / 8, W / 8).
            inside: 1 for its cells of 8x8 pixels in the picture, 0 for padding, (H / 8, W / 8).
        """
        del reliability, inside
        return prediction.score_logits

    def judge(self, tiles: Sequence[Any]) -> Tensor:
        """Log odds that each picture holds a manipulation, (B,), from `pool` of all its tiles."""
        return torch.stack(list(tiles)).amax(0)

    @abstractmethod
    def parts(self) -> Parts:
        """Name the parts whose cost is worth knowing, in the order in which they run."""

    def fuse(self) -> Self:
        """Fold every norm and shift into its convolution, for inference. Returns self."""
        fuse_all(self.eval())
        return self


def continued(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Repeat the last row and column of maps (B, C, h, w) up to (B, C, rows, columns)."""
    below, right = rows - maps.shape[2], columns - maps.shape[3]
    return F.pad(maps, (0, right, 0, below), mode="replicate") if below or right else maps
