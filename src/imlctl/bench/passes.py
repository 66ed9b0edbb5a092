"""What is timed: one prediction of the model alone, in each of the ways it can be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch

from imlctl.core.diff_iml import MEMBERS
from imlctl.core.model import STEPS
from imlctl.core.sampler import fused, member_noise
from imlctl.inference import flips_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from imlctl.core.model import Model


@dataclass(frozen=True, slots=True)
class Draw:
    """How a prediction is drawn.

    Attributes:
        steps: Denoising steps; None for a model that does not sample.
        members: Of the ensemble; likewise.
        tta: Whether the mirrored picture is analysed too.
    """

    steps: int | None
    members: int | None
    tta: bool

    def __str__(self) -> str:
        parts = [] if self.steps is None else [f"N={self.members}", f"{self.steps} steps"]
        return ", ".join([*parts, *(["flips"] if self.tta else [])])


def draws_of(
    model: Model, steps: Sequence[int], members: Sequence[int], flips: Sequence[bool]
) -> tuple[Draw, ...]:
    """Every way that was asked for and that the model has, the main one first.

    The main one is what `localize` does if nothing else is said, as far as it was asked for.
    """
    if not model.samples:
        ways = [Draw(None, None, tta) for tta in flips]
    else:
        ways = [Draw(s, n, tta) for tta, n, s in product(flips, members, steps)]
    usual = (STEPS, MEMBERS)

    def unusual(way: Draw) -> tuple[bool, ...]:
        return way.tta, way.steps not in (None, usual[0]), way.members not in (None, usual[1])

    main = min(ways, key=unusual)
    return (main, *(way for way in dict.fromkeys(ways) if way != main))


def one_pass(
    model: Model, draw: Draw, size: int, device: torch.device, batch: int = 1
) -> Callable[[], object]:
    """Return what predicts one square picture of noise, which is on the device already.

    Args:
        model: In the form that localizes.
        draw: How.
        size: Side in pixels.
        device: Where the model is.
        batch: Pictures at once; more than one only for models that do not sample.
    """
    image = noise_picture(size, device, batch)
    shape = model.noise_shape(size, size)

    def once(view: Tensor) -> Tensor:
        noise = None
        if shape is not None:
            noise = member_noise(0, b"bench", draw.members or 1, shape).to(device)
        return torch.sigmoid(model(view, None, noise, draw.steps or STEPS).logits)

    if not draw.tta:
        return lambda: once(image)
    if batch == 1 and flips_at_once(model, image):
        both = torch.cat((image, image.flip(-1)))
        return lambda: fused(*(maps[None] for maps in once(both)))
    return lambda: fused(once(image), once(image.flip(-1)))


def noise_picture(size: int, device: torch.device, batch: int = 1) -> Tensor:
    """Return pictures (B, 3, size, size) of noise in [0, 1), as the model sees pictures."""
    image = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    return image.to(device, memory_format=torch.channels_last)
