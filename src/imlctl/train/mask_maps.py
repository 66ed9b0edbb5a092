"""A numbered stream of masks and their edge maps: what LightVAE learns from, and is judged on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor

from imlctl.evaluate.metrics import pixel_f1
from imlctl.forge.shapes import EdgeKind, edge_map, random_mask

if TYPE_CHECKING:
    from imlctl.core.light_vae import LightVAE
    from imlctl.forge import Mask, Rng

_HELD_OUT = 1 << 40  # first number of the held-out masks; no run gets there


@dataclass(frozen=True, slots=True)
class MaskMaps:
    """Masks and edge maps by number, `size` pixels a side; a number is always the same pair."""

    size: int = 128
    seed: int = 0
    edges: EdgeKind = "canny"

    def __post_init__(self) -> None:
        if self.size < 64 or self.size % 8:
            raise ValueError(f"size must be a multiple of 8 and at least 64, not {self.size}")

    def __call__(self, number: int) -> tuple[Mask, Mask]:
        """Return mask `number` and its edge map, each (size, size)."""
        rng = np.random.default_rng((self.seed, number))
        mask = _KINDS[rng.choice(len(_KINDS), p=_SHARES)](rng, self.size)
        if rng.random() < 0.1:
            mask = ~mask  # what is kept instead of what is changed
        return mask, edge_map(mask, self.edges)

    def batch(self, first: int, count: int) -> Tensor:
        """Masks `first` and on, then their edge maps: (2 count, 1, size, size), -1 and +1."""
        pairs = [self(number) for number in range(first, first + count)]
        return as_maps([m for m, _ in pairs] + [e for _, e in pairs])


def held_out(kind: str, count: int, size: int, edges: EdgeKind) -> list[tuple[Mask, Mask]]:
    """Return masks of a kind (``shape``, ``thin``, ``small``) that no stream holds, with edges."""
    sources = (np.random.default_rng((_HELD_OUT, index)) for index in range(count))
    masks = (HELD_OUT[kind](rng, size) for rng in sources)
    return [(mask, edge_map(mask, edges)) for mask in masks]


def as_maps(masks: list[Mask]) -> Tensor:
    """Stack masks into (B, 1, H, W) float32, -1 outside and +1 inside."""
    return torch.from_numpy(np.stack(masks)[:, None]).float().mul_(2).sub_(1)


def _thin(rng: Rng, size: int) -> Mask:
    """One to three pen strokes, 2 to 6 pixels wide."""
    canvas = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(1, 4)):
        count = int(rng.integers(3, 9))
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.7, count))
        reach = rng.uniform(0.05, 0.25) * size
        steps = np.stack((np.cos(heading), np.sin(heading)), 1) * reach
        points = rng.uniform(0.1, 0.9, 2) * size + np.cumsum(steps, 0)
        thickness = int(rng.integers(2, 7))
        cv2.polylines(canvas, [np.round(points).astype(np.int32)], False, 1, thickness)
    return _never_empty(rng, canvas > 0)


def _scatter(rng: Rng, size: int, *, count: tuple[int, int], sides: tuple[int, int]) -> Mask:
    """Shapes, of `count` from and below, `sides` pixels across."""
    mask = np.zeros((size, size), bool)
    for _ in range(rng.integers(*count)):
        side = int(np.exp(rng.uniform(*np.log(sides))))
        patch = _patch(rng, side)
        y, x = rng.integers(size - side, size=2)
        mask[y : y + side, x : x + side] |= patch
    return _never_empty(rng, mask)


def _patch(rng: Rng, side: int) -> Mask:
    """A shape that fills most of its square, at least four pixels of it."""
    canvas = np.zeros((side, side), np.uint8)
    kind = rng.integers(3)
    if kind == 0:  # box
        high, wide = rng.integers(max(4, side // 2), side + 1, 2)
        canvas[:high, :wide] = 1
    elif kind == 1:  # ellipse
        axes = (int(rng.integers(side // 4, side // 2)), int(rng.integers(side // 4, side // 2)))
        cv2.ellipse(canvas, (side // 2, side // 2), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    else:  # polygon
        points = rng.uniform(0, side, (int(rng.integers(3, 8)), 2))
        cv2.fillPoly(canvas, [cv2.convexHull(np.round(points).astype(np.int32))], 1)
    return canvas > 0


def _ragged(rng: Rng, size: int) -> Mask:
    """An outline with detail at every scale, as an object's: noise of many octaves, cut."""
    field = np.zeros((size, size), np.float32)
    grid, fall = 3, rng.uniform(0.35, 0.6)
    for octave in range(5):
        if grid > size // 4:
            break
        noise = rng.standard_normal((grid, grid)).astype(np.float32) * np.float32(fall**octave)
        field += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
        grid *= 2
    return _never_empty(rng, np.asarray(field > np.quantile(field, rng.uniform(0.5, 0.97))))


def _mixture(rng: Rng, size: int) -> Mask:
    """Two of the others."""
    first, second = rng.integers(4, size=2)
    return np.asarray(_KINDS[first](rng, size) | _KINDS[second](rng, size))


def _never_empty(rng: Rng, mask: Mask) -> Mask:
    if not mask.any():  # a stroke can leave the frame before it begins
        y, x = rng.integers(len(mask) - 8, size=2)
        mask[y : y + 8, x : x + 8] = True
    return mask


HELD_OUT: dict[str, Callable[[Rng, int], Mask]] = {
    "shape": lambda rng, size: random_mask(rng, size, size),
    "thin": _thin,
    "small": partial(_scatter, count=(1, 5), sides=(6, 32)),
}
_KINDS: tuple[Callable[[Rng, int], Mask], ...] = (
    *HELD_OUT.values(),
    _ragged,
    _mixture,
    # Small things are the hardest to give back; and an authentic picture has nothing.
    partial(_scatter, count=(4, 13), sides=(4, 16)),
    lambda _, size: np.zeros((size, size), bool),
)
_SHARES = (0.2, 0.15, 0.15, 0.1, 0.15, 0.2, 0.05)

_NOISE = 0.2  # standard deviation in scaled latents for the figure `f1_noisy`


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """Schedule and data of validation."""

    every: int = 500  # steps between looks; also between checkpoints
    masks: int = 32  # held-out masks of each kind: shapes, thin strokes, small shapes
    size: int = 512  # their side in pixels

    def __post_init__(self) -> None:
        if min(self.every, self.masks) < 1:
            raise ValueError("every and masks must be positive")
        if self.size < 64 or self.size % 8:
            raise ValueError(f"size must be a multiple of 8 and at least 64, not {self.size}")


@torch.inference_mode()
def round_trip(
    model: LightVAE, judge: JudgeConfig, edges: EdgeKind, device: torch.device
) -> dict[str, Any]:
    """Encode and decode held-out masks and their edge maps.

    Returned are ``f1`` at 0.5, the mean over all masks, ``f1_noisy`` with noise on the latents,
    ``worst`` of any mask, and by kind ``masks`` and ``edges``.
    """
    model.eval()
    scores: dict[str, dict[str, float]] = {"masks": {}, "edges": {}}
    every, noisy, chance = [], [], torch.Generator().manual_seed(0)
    for kind in HELD_OUT:
        pairs = held_out(kind, judge.masks, judge.size, edges)
        for what, masks in zip(scores, zip(*pairs, strict=True), strict=True):
            found = []
            for mask in masks:
                z = model.encode(as_maps([mask]).to(device))
                found.append(_f1(model.decode(z), mask))
                if what == "masks":
                    noise = torch.randn(z.shape, generator=chance).to(device) * _NOISE
                    noisy.append(_f1(model.decode(z + noise), mask))
            scores[what][kind] = _mean(found)
            every += found if what == "masks" else []
    return {"f1": _mean(every), "f1_noisy": _mean(noisy), "worst": round(min(every), 5), **scores}


def _f1(logits: Tensor, mask: Mask) -> float:
    return pixel_f1((logits[0, 0] > 0).cpu().numpy(), mask)


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 5)
