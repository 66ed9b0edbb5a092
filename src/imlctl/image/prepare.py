"""A photograph as a padded tensor, and the exact way back from the map computed on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imlctl.image.photo import Photo


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the tensor lies over the stored picture, and how that is turned upright.

    Attributes:
        height: Of the stored picture, in pixels.
        width: Of the stored picture, in pixels.
        pad_bottom: Rows added below. None are added above, so that the JPEG grid stays in phase.
        pad_right: Columns added on the right.
        orientation: EXIF orientation of the stored picture, 1 to 8.
    """

    height: int
    width: int
    pad_bottom: int = 0
    pad_right: int = 0
    orientation: int = 1

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.pad_bottom < 0 or self.pad_right < 0:
            raise ValueError(f"impossible geometry: {self}")
        if not 1 <= self.orientation <= 8:
            raise ValueError(f"orientation must be 1 to 8, not {self.orientation}")

    @property
    def padded_shape(self) -> tuple[int, int]:
        """Height and width of the tensor."""
        return self.height + self.pad_bottom, self.width + self.pad_right

    @property
    def upright_shape(self) -> tuple[int, int]:
        """Height and width of the picture turned upright."""
        turned = self.orientation >= 5
        return (self.width, self.height) if turned else (self.height, self.width)


def prepare(photo: Photo, *, multiple: int = 32, min_side: int = 64) -> tuple[Tensor, Geometry]:
    """Pad a photo by reflection and lay it out for a model.

    The samples stay integers, a quarter of the memory that floats need; `to_float` converts what
    a model is about to see.

    Args:
        photo: The photo.
        multiple: Height and width become multiples of this.
        min_side: Height and width become at least this.

    Returns:
        The tensor (3, H', W'), uint8 or uint16, and the geometry that undoes the padding.
    """
    height, width, _ = photo.pixels.shape
    image = pad(photo.pixels, multiple=multiple, min_side=min_side)
    geometry = Geometry(
        height=height,
        width=width,
        pad_bottom=image.shape[1] - height,
        pad_right=image.shape[2] - width,
        orientation=photo.facts.orientation,
    )
    return image, geometry


def pad(pixels: NDArray[Any], *, multiple: int = 32, min_side: int = 64) -> Tensor:
    """Reflect pixels (H, W, 3) below and on the right, and lay them out as (3, H', W').

    Args:
        pixels: uint8 or uint16, whose type the tensor keeps.
        multiple: See `prepare`.
        min_side: See `prepare`.
    """
    if multiple < 1 or min_side < 1:
        raise ValueError("multiple and min_side must be positive")
    height, width = pixels.shape[:2]
    tall, wide = padded_size(height, width, multiple=multiple, min_side=min_side)
    below, right = tall - height, wide - width
    planes = np.moveaxis(pixels, 2, 0)  # (3, H, W)
    # Numpy reflects as often as it takes, and repeats the edge where there is a single row.
    return torch.from_numpy(np.pad(planes, ((0, 0), (0, below), (0, right)), mode="reflect"))


def padded_size(
    height: int, width: int, *, multiple: int = 32, min_side: int = 64
) -> tuple[int, int]:
    """Height and width of the tensor that `prepare` makes of a picture of this size."""
    tall, wide = (-(-max(side, min_side) // multiple) * multiple for side in (height, width))
    return tall, wide


def to_float(image: Tensor) -> Tensor:
    """Scale uint8 or uint16 samples to float32 in [0, 1] by the maximum of their type."""
    if image.is_floating_point():
        return image.to(torch.float32)
    return image.to(torch.float32).div_(torch.iinfo(image.dtype).max)


def restore(probability: Tensor | NDArray[Any], geometry: Geometry) -> NDArray[np.float32]:
    """Cut the padding off a map and turn it upright.

    Args:
        probability: (H', W') as the tensor that `prepare` returned.
        geometry: From the same call.

    Returns:
        The map of the upright picture, float32, of shape `Geometry.upright_shape`.

    Raises:
        ValueError: The map does not have the geometry's shape.
    """
    if isinstance(probability, Tensor):
        probability = probability.detach().to("cpu", torch.float32).numpy()
    if probability.shape != geometry.padded_shape:
        raise ValueError(f"map of shape {probability.shape}, expected {geometry.padded_shape}")
    whole = probability[: geometry.height, : geometry.width].astype(np.float32, copy=False)
    return upright(whole, geometry.orientation)


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
