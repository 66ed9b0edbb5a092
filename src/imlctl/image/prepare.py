"""A photograph as a tensor, and the exact way back from the map computed on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imlctl.image.decode import Photo


@dataclass(frozen=True, slots=True)
class Geometry:
    """Position of the tensor over the stored picture, and the turn that makes it upright.

    Attributes:
        height: Of the stored picture, in pixels.
        width: Of the stored picture, in pixels.
        orientation: EXIF orientation of the stored picture, 1 to 8.
    """

    height: int
    width: int
    orientation: int = 1

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"impossible geometry: {self}")
        if not 1 <= self.orientation <= 8:
            raise ValueError(f"orientation must be 1 to 8, not {self.orientation}")

    @property
    def upright_shape(self) -> tuple[int, int]:
        """Height and width of the picture turned upright."""
        turned = self.orientation >= 5
        return (self.width, self.height) if turned else (self.height, self.width)


def prepare(photo: Photo) -> tuple[Tensor, Geometry]:
    """Lay a photo out for a model, as stored: not turned, not padded.

    The samples stay integers, a quarter of the memory that floats need; `to_float` converts what
    a model is about to see.

    Returns:
        The tensor (3, H, W), uint8 or uint16, and what turns a map of it upright.
    """
    height, width, _ = photo.pixels.shape
    image = torch.from_numpy(np.array(np.moveaxis(photo.pixels, 2, 0), order="C", copy=True))
    return image, Geometry(height, width, photo.facts.orientation)


def pad(image: Tensor, *, multiple: int = 32, min_side: int = 64) -> Tensor:
    """Reflect a picture below and on the right, never above, where the JPEG grid begins.

    Args:
        image: (3, H, W), whose type stays.
        multiple: Height and width become multiples of this.
        min_side: Height and width become at least this.

    Returns:
        (3, H', W'), of the size that `padded_size` says.
    """
    if multiple < 1 or min_side < 1:
        raise ValueError("multiple and min_side must be positive")
    height, width = image.shape[1:]
    tall, wide = padded_size(height, width, multiple=multiple, min_side=min_side)
    below, right = tall - height, wide - width
    if not below and not right:
        return image
    # Numpy reflects as often as it takes, and repeats the edge where there is a single row.
    frame = ((0, 0), (0, below), (0, right))
    return torch.from_numpy(np.pad(image.numpy(), frame, mode="reflect"))


def padded_size(
    height: int, width: int, *, multiple: int = 32, min_side: int = 64
) -> tuple[int, int]:
    """Height and width of a picture of this size once it is padded."""
    tall, wide = (-(-max(side, min_side) // multiple) * multiple for side in (height, width))
    return tall, wide


def to_float(image: Tensor) -> Tensor:
    """Scale uint8 or uint16 samples to float32 in [0, 1] by the maximum of their type."""
    if image.is_floating_point():
        return image.to(torch.float32)
    return image.to(torch.float32).div_(torch.iinfo(image.dtype).max)


def restore(probability: Tensor | NDArray[Any], geometry: Geometry) -> NDArray[np.float32]:
    """Turn a map upright.

    Args:
        probability: (H, W), of the tensor that `prepare` returned.
        geometry: From the same call.

    Returns:
        The map of the upright picture, float32, of shape `Geometry.upright_shape`.

    Raises:
        ValueError: The map does not have the geometry's shape.
    """
    if isinstance(probability, Tensor):
        probability = probability.detach().to("cpu", torch.float32).numpy()
    shape = (geometry.height, geometry.width)
    if probability.shape != shape:
        raise ValueError(f"map of shape {probability.shape}, expected {shape}")
    return upright(probability.astype(np.float32, copy=False), geometry.orientation)


def stored(upright_map: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Turn a map of the upright picture back to lie over the stored one: undoes `upright`.

    Raises:
        ValueError: The map does not have the shape of the upright picture.
    """
    if upright_map.shape[:2] != geometry.upright_shape:
        raise ValueError(f"map of shape {upright_map.shape}, expected {geometry.upright_shape}")
    # Six and eight are quarter turns, each the other's inverse; the rest undo themselves.
    return upright(upright_map, {6: 8, 8: 6}.get(geometry.orientation, geometry.orientation))


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn a stored picture or map (H, W, ...) as its EXIF orientation says; returns a copy."""
    turned = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: np.swapaxes(a, 0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
        8: lambda a: np.rot90(a, 1),
    }[orientation](pixels)
    return np.array(turned, order="C", copy=True)
