"""The clue of foreign noise, against a slow and obvious one in float64."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from imlctl.core import layers
from imlctl.core import residual_outliers as module
from imlctl.core.layers import grey_levels
from imlctl.core.residual_outliers import residual_outliers

Floats = NDArray[np.float64]


def class_of(row: tuple[int, ...]) -> tuple[int, ...]:
    """One name for a row of residuals, its negative, and both of them reversed."""
    negative = tuple(-value for value in row)
    return max(row, negative, row[::-1], negative[::-1])


CLASSES = sorted({class_of(row) for row in itertools.product((-1, 0, 1), repeat=4)})


def slow_histograms(grey: Floats) -> Floats:
    """Counts of rows along and across both derivatives, of each square of 16, (h, w, 2, 25)."""
    height, width = grey.shape
    counts = np.zeros((height // 16, width // 16, 2, len(CLASSES)))
    for turned in (False, True):
        g = grey.T if turned else grey  # derivative along the columns
        third = g[:, 3:] - 3 * g[:, 2:-1] + 3 * g[:, 1:-2] - g[:, :-3]
        level = np.clip(np.rint(third / 4), -1, 1).astype(int)
        for across in (False, True):
            rows = level.T if across else level
            for i, j in itertools.product(range(rows.shape[0]), range(rows.shape[1] - 3)):
                row = tuple(int(v) for v in rows[i, j : j + 4])
                # the middle of the four residuals, as close as whole pixels come to it
                y, x = (j + 1, i + 1) if across else (i, j + 3)
                y, x = (x, y) if turned else (y, x)
                counts[y // 16, x // 16, int(across), CLASSES.index(class_of(row))] += 1
    return counts


def slow_outliers(image: Tensor) -> Floats:
    """Logarithm of 1 + squared distance of each window, less its mean, (h, w)."""
    grey = grey_levels(image)[0].double().numpy()  # ties of rounding are not the matter
    cells = slow_histograms(grey).reshape(grey.shape[0] // 16, grey.shape[1] // 16, -1)
    rows, columns, size = cells.shape
    windows = np.zeros_like(cells)
    for y, x in itertools.product(range(rows), range(columns)):
        around = cells[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].sum((0, 1))
        windows[y, x] = np.sqrt(around / around.sum())
    points = windows.reshape(-1, size)
    weight = np.ones(len(points))
    for _ in range(5):
        mean = np.average(points, axis=0, weights=weight)
        apart = points - mean
        scatter = np.einsum("n,ni,nj->ij", weight, apart, apart) / weight.sum()
        precision = np.linalg.inv(scatter + 2e-4 * np.eye(size))
        distance = np.einsum("ni,ij,nj->n", apart, precision, apart)
        weight = (4 + size) / (4 + size * distance / max(distance.mean(), 1))
    far = np.log1p(distance).reshape(rows, columns)
    return far - far.mean()


def noisy(seed: int, height: int, width: int, sigma: float = 1.0) -> Tensor:
    """A smooth scene under noise, in whole grey levels, (1, 3, H, W)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 200, (height // 32, width // 32, 3)).astype(np.float32)
    scene = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    levels = np.clip(np.rint(scene + rng.normal(0, sigma, scene.shape)), 0, 255)
    return torch.from_numpy(levels.transpose(2, 0, 1)).float()[None] / 255


@pytest.mark.parametrize("size", [(64, 64), (112, 176)])
def test_agrees_with_the_slow_form(size: tuple[int, int]) -> None:
    image = noisy(1, *size)
    image[..., :48, :32] = noisy(2, *size, 3.0)[..., :48, :32]
    got = residual_outliers(image)
    assert got.shape == (1, 2, size[0] // 4, size[1] // 4)
    cells = size[0] * size[1] / 256
    torch.testing.assert_close(got[:, 1:], got[:, :1] * cells / (cells + 8000))
    wanted = torch.from_numpy(slow_outliers(image))[None, None]
    shape = (size[0] // 4, size[1] // 4)
    wanted = torch.nn.functional.interpolate(wanted, shape, mode="bilinear", align_corners=False)
    torch.testing.assert_close(got[:, :1], wanted.float(), rtol=0, atol=5e-3)


@pytest.mark.parametrize("what", ["noisier", "smoother", "enlarged", "recompressed"])
def test_foreign_pixels_stand_out(what: str) -> None:
    image = noisy(3, 512, 640)
    pixels = np.rint(255 * image[0].numpy().transpose(1, 2, 0)).astype(np.uint8)
    if what == "noisier":
        other = np.rint(255 * noisy(3, 512, 640, 2.0)[0].numpy().transpose(1, 2, 0))
    elif what == "smoother":
        other = cv2.GaussianBlur(pixels, (0, 0), 0.8)
    elif what == "enlarged":
        small = cv2.resize(pixels, (320, 256), interpolation=cv2.INTER_AREA)
        other = cv2.resize(small, (640, 512), interpolation=cv2.INTER_CUBIC)
    else:
        data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
        other = cv2.imdecode(data, cv2.IMREAD_COLOR)
    forged = pixels.copy()
    forged[160:320, 240:400] = other[160:320, 240:400].astype(np.uint8)
    clue = residual_outliers(torch.from_numpy(forged.transpose(2, 0, 1)).float()[None] / 255)[0, 0]
    inside = torch.zeros_like(clue, dtype=torch.bool)
    inside[44:76, 64:96] = True  # but for the windows that look over its border
    assert clue[inside].mean() > clue[~inside].mean() + 1
    assert clue[inside].quantile(0.2) > clue[~inside].quantile(0.95)


def test_an_even_picture_has_no_outliers() -> None:
    clue = residual_outliers(noisy(4, 512, 512))[:, 0]
    assert clue.mean().abs() < 0.02
    assert clue.std() < 0.4
    assert clue.max() < 1.6


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_pictures_are_alike_everywhere(value: float) -> None:
    clue = residual_outliers(torch.full((1, 3, 64, 96), value))
    assert torch.isfinite(clue).all()
    torch.testing.assert_close(clue, torch.zeros_like(clue), rtol=0, atol=0.1)


def test_a_mirrored_picture_has_the_mirrored_clue() -> None:
    """Up to the rounding of a window's middle to whole pixels; noise alone spreads by 0.3."""
    image = noisy(5, 512, 512)
    image[..., 64:144, 64:144] = noisy(6, 512, 512, 3.0)[..., 64:144, 64:144]
    for flipped in ((-1,), (-2,)):
        there = residual_outliers(image.flip(flipped)).flip(flipped)
        apart = (there - residual_outliers(image)).abs()
        assert apart.mean() < 0.05
        assert apart.max() < 0.5


@pytest.mark.parametrize("area", [1, 96 * 40])
def test_bands_change_nothing(area: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = noisy(9, 112, 96)
    whole = residual_outliers(image)
    monkeypatch.setattr(layers, "_AREA", area)  # bands of 16 and of 32 pixels
    assert torch.equal(residual_outliers(image), whole)


def test_every_bin_of_a_very_wide_picture_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A band of it has more bins than a float32 can number, as one of these small cells has."""
    grey = grey_levels(noisy(10, 320, 352))
    monkeypatch.setattr(module, "_CELL", 1)
    in_one_band = module._histograms(grey)
    monkeypatch.setattr(layers, "_AREA", 1)
    assert torch.equal(in_one_band, module._histograms(grey))


def test_pictures_of_a_batch_do_not_meet() -> None:
    images = torch.cat([noisy(7, 96, 128), noisy(8, 96, 128, 2.0)])
    apart = torch.cat([residual_outliers(each[None]) for each in images])
    torch.testing.assert_close(residual_outliers(images), apart, rtol=0, atol=1e-4)
