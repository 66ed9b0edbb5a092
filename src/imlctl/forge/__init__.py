"""Forgeries and the photographs they are made from: how pictures come to be what they are."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)
Shape = tuple[int, int]  # height, width
Rng = np.random.Generator
