from __future__ import annotations

from collections import Counter
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from imlctl.core import block_matching as module
from imlctl.core.block_matching import MIN_SHIFT
from imlctl.core.windows import box_mean


def textured(height: int, width: int, seed: int = 0, spread: float = 40.0) -> Tensor:
    """Smoothed noise about grey, (1, H, W) in [0, 255]: nothing in it repeats."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), 1.0)
    levels = np.clip(np.rint(128 + spread * noise / noise.std()), 0, 255)
    return torch.from_numpy(levels.astype(np.float32))[None]


def find_shifts(grey: Tensor, count: int) -> tuple[Tensor, Tensor]:
    around = box_mean(grey, 17, 17)
    return module.find_shifts(grey - around, around, count)


def moved(grey: Tensor, box: tuple[int, int, int], shift: tuple[int, int]) -> Tensor:
    """Copy a square (top, left, side) by (down, right)."""
    (top, left, side), (down, right) = box, shift
    out = grey.clone()
    piece = grey[..., top : top + side, left : left + side]
    out[..., top + down : top + down + side, left + right : left + right + side] = piece
    return out


def recompressed(grey: Tensor, quality: int) -> Tensor:
    levels = grey[0].numpy().astype(np.uint8)
    _, data = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return torch.from_numpy(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE).astype(np.float32))[None]


def test_equals_the_obvious_computation() -> None:
    grey = moved(textured(64, 96).double(), (4, 8, 24), (36, 52))
    shifts, scores = find_shifts(grey, 3)
    votes = slow_votes(grey[0].numpy())
    best: dict[tuple[int, int], tuple[float, tuple[int, int]]] = {}
    blocks: Counter[tuple[int, int]] = Counter()
    for (down, right), count in votes.items():
        blocks[down // 8, (right + 96) // 8] += count
    for (down, right), count in votes.items():
        block = down // 8, (right + 96) // 8
        chance = (blocks[block] - count) / 63
        score = (count - chance) / np.sqrt(chance + 1)
        best[block] = max(best.get(block, (0.0, (0, 0))), (score, (down, right)))
    expected = sorted(best.values(), reverse=True)
    assert tuple(shifts[0, 0].tolist()) == expected[0][1] == (36, 52)
    for found, (score, _) in zip(scores[0].tolist(), expected, strict=False):
        assert found == pytest.approx(score, abs=1 / 256)


@settings(deadline=None, max_examples=25)
@given(st.integers(-60, 60), st.integers(40, 70), st.integers(0, 99))
def test_finds_any_translation(right: int, down: int, seed: int) -> None:
    grey = moved(textured(160, 192, seed), (10, 70, 48), (down, right))
    shifts, scores = find_shifts(grey, 6)
    assert tuple(shifts[0, 0].tolist()) == (down, right)
    assert scores[0, 0] > 10 * scores[0, 1]


@pytest.mark.parametrize("quality", [95, 80, 60])
def test_recompression_does_not_hide_it(quality: int) -> None:
    grey = recompressed(moved(textured(192, 256), (16, 24, 64), (97, 121)), quality)
    shifts, scores = find_shifts(grey, 6)
    assert tuple(shifts[0, 0].tolist()) == (97, 121)
    assert scores[0, 0] > 8


def test_a_copy_of_other_brightness_and_contrast() -> None:
    grey = textured(192, 256)
    copy = moved(0.7 * grey + 20, (16, 24, 64), (97, 121))
    grey[..., 113:177, 145:209] = copy[..., 113:177, 145:209]
    shifts, scores = find_shifts(grey, 6)
    assert tuple(shifts[0, 0].tolist()) == (97, 121)
    assert scores[0, 0] > 20


def test_a_small_copy_in_a_large_picture() -> None:
    """A thousandth of the picture: a correlation of the whole would not see it."""
    grey = moved(textured(768, 1024), (235, 688, 28), (1, 44))
    shifts, scores = find_shifts(grey, 6)
    assert tuple(shifts[0, 0].tolist()) == (1, 44)
    assert scores[0, 0] > 5


def test_the_noise_of_an_empty_wall_suffices() -> None:
    grey = moved(textured(512, 512, spread=2.0), (40, 60, 56), (217, -39))
    shifts, scores = find_shifts(grey, 6)
    assert tuple(shifts[0, 0].tolist()) == (217, -39)
    assert scores[0, 0] > 20


@pytest.mark.parametrize(("height", "width"), [(160, 192), (480, 640), (1024, 1024)])
def test_nothing_stands_out_of_a_picture_without_repetition(height: int, width: int) -> None:
    for seed in range(3):
        assert find_shifts(textured(height, width, seed), 6)[1].max() < 3.5


def test_a_picture_of_no_texture_has_no_shifts() -> None:
    shifts, scores = find_shifts(torch.full((1, 64, 96), 128.0), 6)
    assert not shifts.any()
    assert not scores.any()


def test_near_shifts_are_left_out() -> None:
    stripes = torch.sin(torch.arange(256) * 2 * torch.pi / 8).expand(1, 128, 256) * 60 + 128
    shifts, scores = find_shifts(stripes.contiguous(), 6)
    found = shifts[scores > 0].double()
    assert len(found)
    assert found.norm(dim=1).min() >= MIN_SHIFT


def test_each_picture_of_a_batch_is_on_its_own() -> None:
    first = moved(textured(96, 128, 1), (8, 8, 40), (44, 64))
    both = torch.cat((first, textured(96, 128, 2)))
    for together, alone in zip(find_shifts(both, 6), find_shifts(first, 6), strict=True):
        torch.testing.assert_close(together[:1], alone)


def slow_votes(grey: np.ndarray) -> Counter[tuple[int, int]]:
    """Votes for each shift, one place at a time."""
    height, width = grey.shape
    around = mean_around(grey, 17)
    band = mean_around(grey - around, 3)
    framed = np.pad(band, 6, mode="edge")
    places = []
    for y in range(0, height, 2):
        for x in range(0, width, 2):
            cell = band[y : y + 2, x : x + 2]
            extremes = int(cell.argmax()), int(cell.argmin())
            places += [(y + flat // 2, x + flat % 2) for flat in extremes]
    coded = []
    for y, x in places:
        ring = [framed[y + 6 + dy, x + 6 + dx] for dy, dx in module._RING]
        if max(ring) - min(ring) <= 0.75:
            continue
        bits = tuple(ring[i] > ring[(i + apart) % 12] for apart in (1, 5) for i in range(12))
        coded.append((*bits, int(around[y, x]), y, x))
    coded.sort()
    votes: Counter[tuple[int, int]] = Counter()
    for (*code, _, y, x), (*other, _, v, u) in pairwise(coded):
        if code == other and (v - y) ** 2 + (u - x) ** 2 >= MIN_SHIFT**2:
            votes[max((v - y, u - x), (y - v, x - u))] += 1
    return votes


def mean_around(values: np.ndarray, side: int) -> np.ndarray:
    """Mean over a square, of what lies inside."""
    out = np.empty_like(values)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            box = values[
                max(0, y - side // 2) : y + side // 2 + 1, max(0, x - side // 2) : x + side // 2 + 1
            ]
            out[y, x] = box.mean()
    return out
