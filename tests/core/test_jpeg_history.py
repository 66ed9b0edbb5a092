"""JPEG history, against a slow and obvious float64 reference, and on controlled splices."""

from __future__ import annotations

import io
import itertools
import math

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from sklearn.metrics import roc_auc_score
from torch import Tensor

from imlctl.core import jpeg_history as module
from imlctl.core import layers
from imlctl.core.jpeg_history import CHANNELS, find_grid, jpeg_history
from imlctl.core.layers import grey_levels

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

SIZE = 256
SQUARE = (slice(72, 184), slice(88, 200))  # what is pasted; begins on the grid of the host


def scene(seed: int, height: int = SIZE, width: int = SIZE) -> Pixels:
    """Draw a picture never compressed: soft shapes, texture and noise, (H, W, 3)."""
    rng = np.random.default_rng(seed)
    layers = []
    for cell, contrast in ((64, 40), (16, 16), (6, 8), (2, 4)):
        coarse = rng.normal(0, contrast, (height // cell + 2, width // cell + 2, 3))
        layers.append(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    levels = 120 + np.sum(layers, 0) + rng.normal(0, 1.5, (height, width, 3))
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def saved(pixels: Pixels, quality: int) -> Pixels:
    """Compress as JPEG and decode again."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(buffer).convert(Image.fromarray(pixels).mode))


def tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float() / 255


def splice(seed: int, first: int | None, last: int | None) -> Pixels:
    """Paste uncompressed pixels into a picture saved once, and save the whole."""
    host = scene(seed)
    forged = saved(host, first).copy() if first else host.copy()
    forged[SQUARE] = scene(seed + 100)[SQUARE]
    return saved(forged, last) if last else forged


def separation(pixels: Pixels) -> float:
    """AUC of the finer map for the pasted square."""
    truth = np.zeros(pixels.shape[:2], bool)
    truth[SQUARE] = True
    clue = jpeg_history(tensor(pixels))[0, 0].numpy()
    return float(roc_auc_score(truth[::4, ::4].ravel(), clue.ravel()))


# The slow one: loops over blocks, frequencies, steps and values, in float64.


def slow_grid(grey: Floats) -> tuple[int, int] | None:
    """Offset of the JPEG grid by votes of all pixels, None where it is no better than chance."""
    height, width = grey.shape
    zeros = np.zeros((height - 7, width - 7), int)
    for y, x in itertools.product(range(height - 7), range(width - 7)):
        zeros[y, x] = np.sum(np.abs(dctn(grey[y : y + 8, x : x + 8], norm="ortho")) < 0.5)
    votes = np.zeros((8, 8))
    for y, x in itertools.product(range(7, height - 7), range(7, width - 7)):
        over = zeros[y - 7 : y + 1, x - 7 : x + 1]
        best = over.max()
        if np.sum(over == best) == 1 and best < 63:
            row, column = np.unravel_index(over.argmax(), over.shape)
            votes[(y - 7 + row) % 8, (x - 7 + column) % 8] += 1
    count = votes.sum() / 64
    z = (votes.max() / 64 - count / 64) / math.sqrt(max(count / 64 * (1 - 1 / 64), 1e-12))
    row, column = np.unravel_index(votes.argmax(), votes.shape)
    return (int(row), int(column)) if z > 8 else None


def below(x: float, value: int, sigma: float) -> float:
    """Probability that |value + noise| <= x; a value that lies at x without noise counts half."""

    def cumulative(z: float) -> float:
        if sigma == 0:
            return 0.5 + 0.5 * float(np.sign(z))
        return 0.5 * math.erfc(-z / sigma / math.sqrt(2))

    return cumulative(x - value) - cumulative(-x - value)


def slow_requantised(masses: dict[int, float], step: int, sigma: float, bins: int) -> Floats:
    reached = [
        sum(m * below((u + 0.5) * step, v, sigma) for v, m in masses.items()) for u in range(bins)
    ]
    return np.maximum(np.diff(reached, prepend=0), 1e-9)


def slow_density(values: list[float]) -> Floats:
    """Smoothed histogram of |c|, 0 to N."""
    largest = module._LARGEST
    counts = np.zeros(largest + 1)
    for value in values:
        if round(abs(value)) < largest:
            counts[round(abs(value))] += 1
    smooth = np.zeros_like(counts)
    for n in range(largest + 1):
        radius = max(1, int(0.12 * n)) if n >= 3 else 0
        window = counts[max(0, n - radius) : n + radius + 1]
        smooth[n] = max(window.mean(), 1e-4 * len(values) / (n + 2) ** 2)
    return smooth / smooth.sum()


def slow_evidence(
    coefficients: Floats, density: Floats, step: int
) -> tuple[Floats, dict[int, float]]:
    """Evidence of each coefficient of one frequency, and the gain of each first step."""
    largest = module._LARGEST
    bins = largest + 1
    u = np.minimum(np.abs(np.rint(coefficients / step)).astype(int), largest)
    counts = np.array([np.sum(u == k) if k < largest else 0 for k in range(bins)])
    single = slow_requantised(dict(enumerate(density)), step, 0.0, bins)
    gains, doubles = [0.0], [single]
    for first in module._STEPS:
        if step % first == 0:
            continue
        masses: dict[int, float] = {}
        for n, mass in enumerate(density):
            at = (n + first // 2) // first * first
            masses[at] = masses.get(at, 0.0) + mass
        double = 0.98 * slow_requantised(masses, step, 0.45, bins) + 0.02 * single
        gains.append(
            max(float(np.sum(counts * np.log(1 - a + a * double / single))) for a in module._SHARES)
        )
        doubles.append(double)
    weights = np.exp((np.array(gains) - max(gains)) / 4)
    mixed = np.einsum("q,qu->u", weights / weights.sum(), np.array(doubles))
    speaks = np.clip(np.log(single / mixed), -4, 4)
    known = [q for q in module._STEPS if step % q]
    return speaks[u], dict(zip(known, gains[1:], strict=True))


@pytest.mark.parametrize(("first", "last"), [(70, 90), (60, None)])
def test_evidence_is_that_of_the_slow_one(first: int, last: int | None) -> None:
    grey = grey_levels(tensor(splice(3, first, last)[:128, :128]))[0]
    offset, found = find_grid(grey)
    assert found
    assert slow_grid(grey.double().numpy()) == tuple(offset.tolist())
    blocks, valid = module._coefficients(grey, offset)
    shifted, there = module._coefficients(grey, (offset + 4) % 8)
    plain = module._plain_densities(shifted, there)
    ones = torch.ones(module._FREQUENCIES, dtype=torch.long)
    quantised = module._quantised(plain)
    ours, steps, gain = module._evidence(blocks, valid, plain, quantised, ones)
    again, _, _ = module._evidence(blocks, valid, plain, quantised, steps)

    slow = np.zeros(valid.shape)
    slow_again = np.zeros(valid.shape)
    gains = []
    pixels = grey.double().numpy()
    for k, place in enumerate(module._by_diagonal()):
        row, column = divmod(place, 8)

        def coefficients(dy: int, dx: int, row: int = row, column: int = column) -> Floats:
            high, wide = (128 - dy) // 8, (128 - dx) // 8
            return np.array(
                [
                    [
                        dctn(pixels[dy + 8 * i :, dx + 8 * j :][:8, :8], norm="ortho")[row, column]
                        for j in range(wide)
                    ]
                    for i in range(high)
                ]
            )

        y, x = offset.tolist()
        density = slow_density(list(coefficients((y + 4) % 8, (x + 4) % 8).ravel()))
        np.testing.assert_allclose(plain[k].numpy(), density, rtol=1e-4, atol=1e-7)
        values = coefficients(y, x)
        evidence, won = slow_evidence(values, density, 1)
        slow += evidence
        best, step = max(won.values()), int(steps[k])
        gains.append(max(best, 0))
        if best > max(10, 0.01 * values.size) + 0.01:  # of steps that explain as much, either
            assert won[step] == pytest.approx(best, abs=0.01)
        elif best < max(10, 0.01 * values.size) - 0.01:
            assert step == 1
        slow_again += slow_evidence(values, density, step)[0]
    # A coefficient next to the limit of a bin may fall on either side of it in float32.
    assert np.quantile(np.abs(ours.numpy() - slow), 0.98) < 0.02
    assert np.quantile(np.abs(again.numpy() - slow_again), 0.98) < 0.02
    assert float(gain) == pytest.approx(np.mean(gains) / 256, rel=1e-2)


@pytest.mark.parametrize("first", module._STEPS[::9])
@pytest.mark.parametrize("last", [1, 2, 5, 8])
def test_densities_are_those_of_the_slow_one(first: int, last: int) -> None:
    rng = np.random.default_rng(first)
    masses = np.zeros(module._LARGEST + max(module._STEPS) // 2 + 1)
    masses[: module._LARGEST : first] = rng.random(len(masses[: module._LARGEST : first]))
    masses /= masses.sum()
    steps = torch.full((1,), last)
    ours = module._requantised(torch.from_numpy(masses)[None, None], steps, module._SIGMA)
    bins = module._LARGEST + 1
    slow = slow_requantised(dict(enumerate(masses)), last, module._SIGMA, bins)
    bound = (2 * np.arange(bins) + 1) * last < 2 * len(masses) - 1  # beyond, there is no mass
    np.testing.assert_allclose(ours[0, 0].numpy()[bound], slow[bound], atol=3e-6)


@pytest.mark.parametrize(("first", "last"), [(70, 90), (80, 95), (60, 75), (70, None)], ids=str)
def test_what_was_not_compressed_like_the_rest_stands_out(first: int, last: int | None) -> None:
    assert separation(splice(1, first, last)) > 0.93


def test_a_low_last_quality_takes_the_evidence_away() -> None:
    assert 0.25 < separation(splice(1, 95, 75)) < 0.75


def test_a_picture_without_a_grid_says_nothing() -> None:
    assert jpeg_history(tensor(scene(2))).count_nonzero() == 0


def test_resizing_takes_the_grid_away() -> None:
    large = cv2.resize(splice(1, 70, 90), None, fx=1.37, fy=1.37, interpolation=cv2.INTER_CUBIC)
    assert jpeg_history(tensor(large)).count_nonzero() == 0


@pytest.mark.parametrize("corner", [(0, 0), (3, 5), (7, 1), (4, 4)])
def test_a_crop_moves_the_grid_and_the_map_with_it(corner: tuple[int, int]) -> None:
    pixels = splice(1, 70, 90)
    y, x = corner
    offset, found = find_grid(grey_levels(tensor(pixels[y:, x:]))[0])
    assert found
    assert offset.tolist() == [-y % 8, -x % 8]
    clue = jpeg_history(tensor(pixels[y:, x:]))[0, 1]
    truth = np.zeros((SIZE, SIZE), bool)
    truth[SQUARE] = True
    assert roc_auc_score(truth[y:, x:][::4, ::4].ravel(), clue.numpy().ravel()) > 0.9


def test_greyscale() -> None:
    grey = saved(splice(1, 70, None)[..., 1], 90)
    assert separation(np.repeat(grey[..., None], 3, axis=2)) > 0.9


@pytest.mark.parametrize("size", [(1, 1), (7, 250), (39, 39), (40, 40), (131, 97), (250, 255)])
def test_any_size(size: tuple[int, int]) -> None:
    height, width = size
    clue = jpeg_history(tensor(splice(1, 70, 90)[:height, :width]))
    assert clue.shape == (1, CHANNELS, -(-height // 4), -(-width // 4))
    assert clue.isfinite().all()


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("noise", [0, 1])
def test_flat_pictures_say_nothing(level: int, noise: int) -> None:
    bits = np.random.default_rng(0).integers(0, 1 + noise, (SIZE, SIZE, 3))
    pixels = np.abs(level - bits).astype(np.uint8)
    assert jpeg_history(tensor(pixels)).count_nonzero() == 0


def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image = tensor(splice(11, 70, 90)[:250, 3:])
    whole = jpeg_history(image)
    assert whole.abs().max() > 0
    monkeypatch.setattr(layers, "_AREA", 3000)
    torch.testing.assert_close(jpeg_history(image), whole)


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    several = torch.cat([tensor(splice(1, 70, 90)), tensor(scene(2)), tensor(splice(4, 60, None))])
    alone = torch.cat([jpeg_history(each[None]) for each in several])
    assert torch.equal(jpeg_history(several), alone)
    assert several.std() > 0
    assert alone[1].count_nonzero() == 0
    assert alone[0].count_nonzero() > 0


def test_the_gain_says_how_much_there_is_to_see() -> None:
    plain, faint = (
        float(jpeg_history(tensor(splice(1, *q)))[0, 2, 0, 0]) for q in ((70, 90), (95, 75))
    )
    assert 0 <= faint < 0.4 < plain <= 1.2
