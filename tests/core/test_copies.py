from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from imlctl.core import copies as module
from imlctl.core.copies import CHANNELS, MEASURES, CopyEvidence, copies, find_copies
from imlctl.core.layers import grey_levels

Floats = NDArray[np.float64]


def scene(height: int = 320, width: int = 400, seed: int = 0) -> Floats:
    """Noise at several scales, in grey levels, (H, W): nothing in it recurs."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width))
    for sigma in (1.2, 2.5, 5.0, 10.0):
        total += sigma * cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), sigma)
    return np.clip(128 + 40 * total / (total.std() + 1e-9), 0, 255)


def pasted(grey: Floats, motion: Floats, radius: int = 45) -> tuple[Floats, Floats]:
    """Copy a disc around (110, 110) by a motion of rows and columns; the mask of both."""
    swapped = np.array([[0, 1], [1, 0]])
    warp = np.hstack((swapped @ motion[:, :2] @ swapped, swapped @ motion[:, 2:]))
    height, width = grey.shape
    row, column = np.mgrid[:height, :width]
    disc = ((row - 110) ** 2 + (column - 110) ** 2 <= radius**2).astype(np.float64)
    copy = cv2.warpAffine(grey, warp, (width, height), flags=cv2.INTER_CUBIC)
    there = cv2.warpAffine(disc, warp, (width, height), flags=cv2.INTER_NEAREST)
    return np.where(there > 0, copy, grey), np.maximum(disc, there)


def about(angle: float, scale: float, to: tuple[float, float], stretch: float = 1.0) -> Floats:
    """Motion that turns by radians, scales, and takes (110, 110) to a place."""
    c, s = math.cos(angle), math.sin(angle)
    linear = scale * np.array([[c, s], [-s, c]]) @ np.diag([1.0, stretch])
    return np.hstack((linear, (np.array(to) - linear @ np.array([110, 110]))[:, None]))


def tensor(grey: Floats) -> Tensor:
    return torch.from_numpy(np.clip(np.rint(grey), 0, 255)).float()


MOTIONS = {
    "moved": about(0, 1, (200.0, 285.0)),
    "between pixels": about(0, 1, (200.4, 285.7)),
    "turned": about(0.6, 1, (200.0, 285.0)),
    "upside down": about(math.pi, 1, (200.0, 285.0)),
    "enlarged": about(0, 1.25, (205.0, 285.0)),
    "reduced and turned": about(-0.4, 0.75, (200.0, 285.0)),
    "stretched": about(0, 1, (200.0, 285.0), stretch=0.8),
}


class TestFindCopies:
    @pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
    def test_a_copy_is_found_with_its_motion_and_outline(self, motion: Floats) -> None:
        forged, mask = pasted(scene(), motion)
        found = find_copies(tensor(forged))
        assert len(found) == 1
        ours = found[0].motion.double().numpy()
        grid = np.array([(r, c) for r in (80, 110, 140) for c in (80, 110, 140)], float).T
        there = motion[:, :2] @ grid + motion[:, 2:]
        ahead = np.abs(ours[:, :2] @ grid + ours[:, 2:] - there).max()
        back = np.abs(ours[:, :2] @ there + ours[:, 2:] - grid).max()
        assert min(ahead, back) < 0.7
        cells = cv2.resize(mask, found[0].region.shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
        region = found[0].region.numpy()
        assert (region & cells).sum() > 0.8 * cells.sum()
        assert (region & ~cells).sum() < 0.1 * cells.sum()
        assert found[0].measures[1] > 0.5  # most of it nearly equals the other

    def test_recompression_does_not_hide_it(self) -> None:
        forged, _ = pasted(scene(), MOTIONS["turned"])
        _, data = cv2.imencode(".jpg", forged, [cv2.IMWRITE_JPEG_QUALITY, 75])
        again = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
        assert again is not None
        assert len(find_copies(torch.from_numpy(again).float())) == 1

    @pytest.mark.parametrize("seed", range(3))
    def test_nothing_recurs_in_noise(self, seed: int) -> None:
        assert find_copies(tensor(scene(seed=seed))) == []

    @pytest.mark.parametrize("shape", [(1, 1), (20, 300), (33, 47), (64, 64)])
    def test_small_pictures_hold_none(self, shape: tuple[int, int]) -> None:
        assert find_copies(tensor(scene(*shape))) == []

    def test_two_copies_are_told_apart(self) -> None:
        first = about(0, 1, (110.0, 300.0))
        forged, _ = pasted(scene(440, 520), first, radius=35)
        second = about(0.3, 1, (330.0, 110.0))
        forged, _ = pasted(forged, second, radius=35)
        found = find_copies(tensor(forged))
        turns = sorted(abs(float(module._scale_and_turn(copy.motion)[1])) for copy in found)
        assert len(found) >= 2
        assert turns[0] < 0.02
        assert any(turn == pytest.approx(0.3, abs=0.03) for turn in turns)

    def test_a_large_picture_is_reduced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        large = cv2.resize(pasted(scene(), MOTIONS["turned"])[0], None, fx=3, fy=3)
        monkeypatch.setattr(module, "_MAX_AREA", 320 * 400)
        found = find_copies(tensor(large))
        assert len(found) == 1
        assert found[0].region.shape == (80, 100)


class TestMaps:
    def test_they_lie_over_the_picture(self) -> None:
        forged, mask = pasted(scene(321, 402), MOTIONS["turned"])
        picture = (tensor(forged) / 255).expand(1, 3, -1, -1)
        maps = copies(picture)
        assert maps.shape == (1, CHANNELS, 81, 101)
        inside = maps[0, 0] > 0
        assert set(maps[0, 0].unique().tolist()) == {0.0, 1.0}
        cells = cv2.resize(mask, (101, 81), interpolation=cv2.INTER_AREA) > 0.5
        assert (inside.numpy() & cells).sum() > 0.8 * cells.sum()
        assert maps[0, 1:, ~inside].abs().max() == 0
        measures = find_copies(grey_levels(picture)[0])[0].measures
        assert torch.equal(maps[0, 1:, inside], measures[:, None].expand(-1, int(inside.sum())))

    def test_each_picture_of_a_batch_has_its_own(self) -> None:
        forged, _ = pasted(scene(), MOTIONS["moved"])
        pictures = torch.stack([tensor(each).expand(3, -1, -1) / 255 for each in (scene(), forged)])
        maps = copies(pictures)
        assert maps[0].abs().max() == 0
        assert torch.equal(maps[1:], copies(pictures[1:]))

    def test_the_more_exact_of_two_counts_where_they_overlap(self) -> None:
        region = torch.zeros(10, 10, dtype=torch.bool)
        region[2:6, 2:6] = True
        vague, exact = torch.full((MEASURES,), 0.2), torch.full((MEASURES,), 0.8)
        motion = torch.eye(2, 3)
        both = [module.Copy(motion, region, exact), module.Copy(motion, region.roll(2, 0), vague)]
        maps = module._map(both, region.float(), (10, 10))
        assert torch.equal(maps[1:, 3, 3], exact)
        assert torch.equal(maps[1:, 7, 3], vague)


@pytest.mark.parametrize("side", [300, 60_000])  # of a thin picture
def test_those_most_alike_are_those_of_a_slow_search(side: int) -> None:
    some = torch.Generator().manual_seed(0)
    place = torch.rand(600, 2, generator=some) * torch.tensor([40.0, side])
    described = torch.rand(600, 4, generator=some)
    described /= described.norm(dim=1, keepdim=True)
    number, cosine, other = map(torch.cat, zip(*module._most_alike(place, described), strict=True))
    where, exact = place.double(), described.double()
    likeness = exact @ exact.T
    likeness[(where[:, None] - where).norm(dim=2) < module._APART] = -1
    best = likeness.topk(3, dim=1)
    near = best.values[:, 0] > 1 - module._ONE**2 / 2
    assert torch.equal(number, near.nonzero()[:, 0])
    assert torch.equal(other, best.indices[near])
    torch.testing.assert_close(cosine.double(), best.values[near], rtol=0, atol=1e-6)


class TestFitting:
    def test_it_is_exact_for_points_that_moved_so(self) -> None:
        here = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 300
        motion = torch.tensor([[0.9, 0.4, 30.0], [-0.4, 0.9, -12.0]])
        found = module._fitted(here, module._moved(motion, here))
        assert torch.allclose(found, motion, atol=1e-3)
        assert torch.allclose(
            module._moved(module._inverse(found), module._moved(found, here)), here, atol=1e-2
        )

    def test_points_in_a_row_do_not_make_up_a_stretch(self) -> None:
        rng = np.random.default_rng(1)
        row = np.stack((np.linspace(0, 200, 30), rng.normal(0, 0.5, 30)), 1)
        noisy = torch.from_numpy(row + rng.normal(0, 0.5, row.shape)).float()
        linear = module._fitted(torch.from_numpy(row).float(), noisy)[:, :2]
        assert torch.allclose(linear, torch.eye(2), atol=0.05)


class TestEvidence:
    def test_it_counts_inside_regions_alone_and_never_against_a_forgery(self) -> None:
        head = CopyEvidence()
        with torch.no_grad():
            head.out.weight.zero_()
            head.out.bias.fill_(3.0)
        maps = torch.zeros(1, CHANNELS, 4, 5)
        maps[0, 0, 1:3, 1:3] = 1
        assert torch.equal(head.map(maps), 3 * maps[:, :1])
        with torch.no_grad():
            head.out.bias.fill_(-3.0)
        assert head.map(maps).abs().max() == 0
