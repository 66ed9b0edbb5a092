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

from imlctl.core import layers
from imlctl.core import self_similarity as module
from imlctl.core.layers import box_mean
from imlctl.core.self_similarity import MIN_SHIFT, STRIDE, self_similarity


def textured(height: int, width: int, seed: int = 0) -> Tensor:
    """A picture of smoothed noise, (1, 3, H, W): nothing in it repeats."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 3, height, width, generator=rng)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    return (0.2 + 0.6 * (smooth - smooth.amin()) / (smooth.amax() - smooth.amin())).float()


def moved(image: Tensor, box: tuple[int, int, int], shift: tuple[int, int]) -> Tensor:
    """Copy a square (top, left, side) of a picture by (down, right)."""
    (top, left, side), (down, right) = box, shift
    out = image.clone()
    piece = image[..., top : top + side, left : left + side]
    out[..., top + down : top + down + side, left + right : left + right + side] = piece
    return out


class TestMaps:
    def test_copy_and_source_agree_and_nothing_else_does(self) -> None:
        image = moved(textured(192, 256), (16, 24, 64), (96, 120))
        agreement = self_similarity(image)[0, 0]
        marked = torch.zeros(48, 64, dtype=torch.bool)
        marked[4:20, 6:22] = marked[28:44, 36:52] = True
        inner = -torch.nn.functional.max_pool2d(-marked[None].float(), 7, 1, 3)[0] > 0
        outer = torch.nn.functional.max_pool2d(marked[None].float(), 9, 1, 4)[0] > 0
        assert agreement[inner].min() > 0.8
        assert agreement[~outer].max() < 0.5

    def test_recompression_does_not_hide_it(self) -> None:
        image = moved(textured(192, 256), (16, 24, 64), (97, 121))
        levels = (image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        _, data = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, 80])
        decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
        again = torch.from_numpy(decoded).permute(2, 0, 1)[None] / 255
        agreement = self_similarity(again)[0, 0]
        assert agreement[8:16, 10:18].min() > 0.6

    @pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
    def test_flat_pictures_hold_no_evidence(self, level: float) -> None:
        maps = self_similarity(torch.full((1, 3, 64, 96), level))
        assert torch.equal(maps[:, 0], torch.zeros(1, 16, 24))
        assert torch.isfinite(maps).all()

    @pytest.mark.parametrize("size", [(64, 64), (96, 160), (224, 32), (1, 1), (3, 90), (71, 130)])
    def test_shape_and_range(self, size: tuple[int, int]) -> None:
        maps = self_similarity(torch.rand(2, 3, *size))
        assert maps.shape == (2, 3, -(-size[0] // STRIDE), -(-size[1] // STRIDE))
        assert maps.dtype == torch.float32
        assert maps.min() >= 0
        assert maps.max() < 2

    def test_each_picture_of_a_batch_is_on_its_own(self) -> None:
        first = moved(textured(96, 128, 1), (8, 8, 40), (44, 64))
        both = torch.cat((first, textured(96, 128, 2)))
        torch.testing.assert_close(self_similarity(both)[:1], self_similarity(first))

    def test_large_pictures_are_searched_reduced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        image = moved(textured(384, 512), (32, 48, 160), (190, 256))
        monkeypatch.setattr(module, "MAX_AREA", 384 * 512 // 4)
        agreement = self_similarity(image)[0, 0]
        assert agreement.shape == (96, 128)
        assert agreement[20:36, 24:40].min() > 0.6
        assert agreement[:8, 100:].max() < 0.5

    def test_bands_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        image = moved(textured(98, 128), (8, 8, 40), (44, 64))
        whole = self_similarity(image)
        monkeypatch.setattr(layers, "_AREA", 3000)
        assert torch.equal(self_similarity(image), whole)

    def test_half_precision_of_the_network_does_not_reach_it(self) -> None:
        image = moved(textured(96, 128), (8, 8, 40), (44, 64))
        with torch.autocast("cpu", torch.bfloat16):
            inside = self_similarity(image)
        assert torch.equal(inside, self_similarity(image))


def textured_grey(height: int, width: int, seed: int = 0, spread: float = 40.0) -> Tensor:
    """Smoothed noise about grey, (1, H, W) in [0, 255]: nothing in it repeats."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), 1.0)
    levels = np.clip(np.rint(128 + spread * noise / noise.std()), 0, 255)
    return torch.from_numpy(levels.astype(np.float32))[None]


def find_shifts(grey: Tensor, count: int) -> tuple[Tensor, Tensor]:
    around = box_mean(grey, 17, 17)
    return module.find_shifts(grey - around, around, count)


def moved_grey(grey: Tensor, box: tuple[int, int, int], shift: tuple[int, int]) -> Tensor:
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
    grey = moved_grey(textured_grey(64, 96).double(), (4, 8, 24), (36, 52))
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
    grey = moved_grey(textured_grey(160, 192, seed), (10, 70, 48), (down, right))
    shifts, scores = find_shifts(grey, 6)
    assert tuple(shifts[0, 0].tolist()) == (down, right)
    assert scores[0, 0] > 10 * scores[0, 1]


@pytest.mark.parametrize("quality", [95, 80, 60])
def test_recompression_does_not_hide_it(quality: int) -> None:
    grey = recompressed(moved_grey(textured_grey(192, 256), (16, 24, 64), (97, 121)), quality)
    shifts, scores = find_shifts(grey, 6)
    assert tuple(shifts[0, 0].tolist()) == (97, 121)
    assert scores[0, 0] > 8


def test_a_copy_of_other_brightness_and_contrast() -> None:
    grey = textured_grey(192, 256)
    copy = moved_grey(0.7 * grey + 20, (16, 24, 64), (97, 121))
    grey[..., 113:177, 145:209] = copy[..., 113:177, 145:209]
    shifts, scores = find_shifts(grey, 6)
    assert tuple(shifts[0, 0].tolist()) == (97, 121)
    assert scores[0, 0] > 20


def test_a_small_copy_in_a_large_picture() -> None:
    """A thousandth of the picture: a correlation of the whole would not see it."""
    grey = moved_grey(textured_grey(768, 1024), (235, 688, 28), (1, 44))
    shifts, scores = find_shifts(grey, 6)
    assert tuple(shifts[0, 0].tolist()) == (1, 44)
    assert scores[0, 0] > 5


def test_the_noise_of_an_empty_wall_suffices() -> None:
    grey = moved_grey(textured_grey(512, 512, spread=2.0), (40, 60, 56), (217, -39))
    shifts, scores = find_shifts(grey, 6)
    assert tuple(shifts[0, 0].tolist()) == (217, -39)
    assert scores[0, 0] > 20


@pytest.mark.parametrize(("height", "width"), [(160, 192), (480, 640), (1024, 1024)])
def test_nothing_stands_out_of_a_picture_without_repetition(height: int, width: int) -> None:
    for seed in range(3):
        assert find_shifts(textured_grey(height, width, seed), 6)[1].max() < 3.5


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
    first = moved_grey(textured_grey(96, 128, 1), (8, 8, 40), (44, 64))
    both = torch.cat((first, textured_grey(96, 128, 2)))
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
