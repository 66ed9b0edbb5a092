"""Small parts that the networks and the clues share: configurations, norms that fold, box means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, is_dataclass
from functools import reduce
from typing import Any, Self, TypeVar, cast, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Finder = Callable[[Tensor], Tensor]
# `map`, or a like function that works in threads.
Spread = Callable[[Callable[[Finder], Tensor], Sequence[Finder]], Iterable[Tensor]]

C = TypeVar("C")

_AREA = 2**19  # pixels of a band on a CPU; a GPU is better at few large steps than at many


class Config:
    """A configuration as values that a checkpoint's metadata can hold, and back.

    For dataclasses of numbers, names, tuples of them, and further such dataclasses.
    """

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON knows."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]  # is mixed into dataclasses

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`, also after a trip through JSON; what is missing has its default.

        Raises:
            ValueError: A value is out of range.
            TypeError: A key is unknown, or a value of another type.
        """
        return _read(cls, values)


def _read(kind: type[C], values: dict[str, Any]) -> C:
    kinds = get_type_hints(kind)
    read = {}
    for name, value in values.items():
        if is_dataclass(kinds.get(name)):
            if not isinstance(value, dict):
                raise TypeError(f"{name} must be a table, not {value!r}")
            read[name] = _read(kinds[name], value)
        else:
            read[name] = tuple(value) if isinstance(value, list) else value
    return kind(**read)


LEAST_SIDE = 64  # pixels; smaller pictures are padded


def check_sides(image: Tensor, multiple: int) -> None:
    """Raise ValueError unless H and W of images are multiples, and at least `LEAST_SIDE`."""
    height, width = image.shape[-2:]
    if height % multiple or width % multiple or min(height, width) < LEAST_SIDE:
        takes = f"multiples of {multiple} and at least {LEAST_SIDE}"
        raise ValueError(f"height and width must be {takes}, not {height}x{width}")


def check_choice(what: str, value: str, known: Iterable[str]) -> None:
    """Raise ValueError for a value that is none of those known."""
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; known: {', '.join(known)}")


class Normed(nn.Module):
    """Part with a convolution without bias, and a norm after it that can be folded into it."""

    conv: nn.Conv2d | nn.ConvTranspose2d
    norm: nn.Module

    def fuse(self) -> None:
        """Fold the norm into the convolution; does nothing when done."""
        self.norm = fold(self.conv, self.norm)


class ConvNorm(Normed):
    """Convolution without bias, then batch norm; one convolution once fused.

    The kernel is odd, and padding keeps the size at stride 1. The norm's weight starts as `gain`: 0
    makes a residual branch start silent.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(outputs)
        nn.init.constant_(self.norm.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return cast("Tensor", self.norm(self.conv(x)))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each position, for (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape; computed in float32, since bfloat16 loses small variances."""
        y = x.permute(0, 2, 3, 1).float()  # (B, H, W, C)
        y = F.layer_norm(y, y.shape[-1:], self.weight.float(), self.bias.float())
        return y.permute(0, 3, 1, 2).to(x.dtype)


class OddsHead(nn.Module):
    """Two small layers from measures, in spreads from their mean, to log odds."""

    mean: Tensor
    spread: Tensor

    def __init__(self, measures: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(measures))
        self.register_buffer("spread", torch.ones(measures))
        self.hidden = nn.Linear(measures, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, measured: Tensor) -> Tensor:
        """(..., measures) to (...)."""
        x = (measured - self.mean) / self.spread
        return cast("Tensor", self.out(torch.tanh(self.hidden(x))).squeeze(-1))


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast, where the device has it, changes no dtype."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@torch.no_grad()
def fold(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.Module) -> nn.Module:
    """Fold a batch norm's running statistics into the convolution before it, in place.

    Returns what takes the norm's place: anything but a batch norm stays, as when folded before.
    """
    if not isinstance(norm, nn.BatchNorm2d):
        return norm
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    scale = norm.weight / torch.sqrt(variance + norm.eps)
    transposed = isinstance(conv, nn.ConvTranspose2d)  # then the outputs come second
    conv.weight.mul_(scale.view((1, -1, 1, 1) if transposed else (-1, 1, 1, 1)))
    conv.bias = nn.Parameter(norm.bias - mean * scale)
    return nn.Identity()


def fuse_all(model: nn.Module) -> None:
    """Call `fuse` on every part of `model` that has one, innermost parts first."""
    for part in reversed(list(model.modules())):
        fuse = getattr(part, "fuse", None)
        if part is not model and callable(fuse):
            fuse()


def grey_levels(image: Tensor) -> Tensor:
    """Luma of colours in [0, 1], (B, 3, H, W), in grey levels of 0 to 255, (B, H, W)."""
    red, green, blue = (255 * weight for weight in (0.299, 0.587, 0.114))
    return red * image[:, 0] + green * image[:, 1] + blue * image[:, 2]


def bands(values: Tensor, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Yield first row and end of bands of (B, H, W): worked on in turn, they take less memory.

    The height of all but the last is a multiple of `multiple`.
    """
    batch, height, width = values.shape
    area = _AREA if values.device.type == "cpu" else _AREA << 4
    step = max(1, area // (batch * width * multiple)) * multiple
    for top in range(0, height, step):
        yield top, min(top + step, height)


def box_mean(values: Tensor, rows: int, columns: int) -> Tensor:
    """Mean over a box around each place of (B, H, W); odd sides, only what lies inside counts."""
    height, reach = values.shape[1], rows // 2
    parts = []
    for top, end in bands(values):
        first, last = max(0, top - reach), min(height, end + reach)
        means = _mean_along(_mean_along(values[:, first:last], rows, 1), columns, 2)
        parts.append(means[:, top - first : end - first])
    return torch.cat(parts, dim=1)


def block_mean(values: Tensor, side: int) -> Tensor:
    """Mean of each block of `side` x `side`, (B, H / side, W / side); H and W are multiples."""
    rows = reduce(torch.add, (values[:, start::side] for start in range(side)))
    return reduce(torch.add, (rows[:, :, start::side] for start in range(side))) / side**2


def _mean_along(values: Tensor, side: int, dim: int) -> Tensor:
    length, half = values.shape[dim], side // 2
    frame = (0, 0, half, half) if dim == 1 else (half, half)
    total = _running_sum(F.pad(values, frame), side, dim)
    place = torch.arange(length, device=values.device)
    inside = (place + half).clamp_max(length - 1) - (place - half).clamp_min(0) + 1
    return total / (inside[:, None] if dim == 1 else inside)


def _running_sum(values: Tensor, side: int, dim: int) -> Tensor:
    """Sum of `side` neighbours from each place on, by sums of 1, 2, 4, ... of them."""
    length = values.shape[dim] - side + 1
    total = values.narrow(dim, 0, length)  # `side` is odd
    power, reach, done = values, 1, 1  # sums of `reach` neighbours
    while done < side:
        count = power.shape[dim] - reach
        power = power.narrow(dim, 0, count) + power.narrow(dim, reach, count)
        reach *= 2
        if side & reach:
            total = total + power.narrow(dim, done, length)
            done += reach
    return total
