"""What conditions a picture gives, against pixels counted one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from imlctl.core import layers
from imlctl.core.reliability import CONDITIONS, Reliability, conditions


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    some = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, height, width), generator=some).float() / 255


def test_conditions_are_what_they_say() -> None:
    height, width = 40, 51
    image = picture(height, width)
    red, green, blue = (255 * image[0]).double().numpy()
    grey = 0.299 * red + 0.587 * green + 0.114 * blue

    def at(y: int, x: int) -> float:
        return float(grey[min(max(y, 0), height - 1), min(max(x, 0), width - 1)])

    rows, columns = -(-height // 8), -(-width // 8)
    cells = np.zeros((5, rows, columns))
    for y in range(8 * rows):
        for x in range(8 * columns):
            # The frame repeats the edge, for a residual at the edge as for the last cells.
            here = at(y, x)
            one = [at(y - 1, x), at(y + 1, x), at(y, x - 1), at(y, x + 1)]
            two = [at(y - 2, x), at(y + 2, x), at(y, x - 2), at(y, x + 2)]
            values = (
                here,
                here < 1.5 or here > 253.5,
                (4 * here - sum(one)) ** 2,
                (one[1] - one[0]) ** 2 + (one[3] - one[2]) ** 2,
                (4 * here - sum(two)) ** 2,
            )
            cells[:, y // 8, x // 8] += np.array(values) / 64
    around = np.zeros_like(cells)
    for i in range(rows):
        for j in range(columns):
            window = cells[:, max(0, i - 3) : i + 4, max(0, j - 3) : j + 4]
            around[:, i, j] = window.mean((1, 2))
    energies = np.log(around[2:] + 1e-2) / 4
    wanted = [around[0] / 255, around[1], *energies, energies[0] - energies[2]]
    found = conditions(image)[0].double().numpy()
    assert found.shape == (CONDITIONS, rows, columns)
    np.testing.assert_allclose(found[:6], np.stack(wanted), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[6:10, 0, 0], found[2:6].mean((1, 2)), rtol=1e-4)
    assert found[10, 0, 0] == pytest.approx(np.log(height * width) / 16, rel=1e-5)


def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(200, 90)
    whole = conditions(image)
    monkeypatch.setattr(layers, "_AREA", 3000)
    torch.testing.assert_close(conditions(image), whole)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (8, 8), (33, 70)])
def test_any_size(size: tuple[int, int]) -> None:
    found = Reliability().eval().map(picture(*size))
    assert found.shape == (1, -(-size[0] // 8), -(-size[1] // 8))
    assert ((found > 0) & (found < 1)).all()


def test_flat_dark_and_saturated_places_differ_from_textured_ones() -> None:
    image = picture(128, 192)
    image[..., 64:128] = 0.5
    image[..., 128:] = 1.0
    found = conditions(image)[0, :, 8]
    textured, flat, white = found[:, 2], found[:, 12], found[:, 20]
    assert textured[2] > flat[2] + 1
    assert white[1] > 0.9 > flat[1] + 0.8
