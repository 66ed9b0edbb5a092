from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from imlctl.core import keypoints as module
from imlctl.core.keypoints import DIMENSIONS, LEAST_SIDE, find_keypoints


def blobs(height: int, width: int, seed: int = 0) -> Tensor:
    """Noise at several scales, in grey levels, (H, W): full of places that stand out."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width))
    for sigma in (1.5, 3.0, 6.0):
        total += sigma * cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), sigma)
    return torch.from_numpy(128 + 40 * total / (total.std() + 1e-9)).float().clamp(0, 255)


def test_a_blob_is_found_at_its_place_and_size() -> None:
    row, column = np.mgrid[:96, :128]
    sigma, place = 4.0, (40.3, 70.6)
    bump = np.exp(-((row - place[0]) ** 2 + (column - place[1]) ** 2) / (2 * sigma**2))
    found = find_keypoints(torch.from_numpy(60 + 120 * bump).float())
    assert found.place[0] == pytest.approx(place, abs=0.3)
    # A difference of Gaussians of k sigma and sigma answers most where the blob has this size.
    assert float(found.size[0]) == pytest.approx(sigma / 2 ** (1 / 6), rel=0.15)


def test_keypoints_are_those_of_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 10000)
    monkeypatch.setattr(module, "_LEAST_CONTRAST", 0.1)
    grey = blobs(240, 320)
    ours = find_keypoints(grey)
    sift = cv2.SIFT_create(contrastThreshold=0.03, edgeThreshold=10)  # type: ignore[attr-defined]
    theirs = sift.detect(grey.round().numpy().astype(np.uint8), None)
    clear = sorted((k for k in theirs if k.size / 2 > 2), key=lambda k: -k.response)[:150]
    large = np.array([(k.pt[1], k.pt[0], k.size / 2) for k in clear])
    apart = np.linalg.norm(ours.place.numpy()[None] - large[:, None, :2], axis=2)  # (N, K)
    ratio = np.abs(np.log(ours.size.numpy()[None] / large[:, None, 2]))
    assert len(large) == 150
    assert np.mean(((apart < 2) & (ratio < 0.4)).any(1)) > 0.8


@pytest.mark.parametrize(
    ("angle", "scale"), [(0, 1.0), (37, 1.0), (180, 1.0), (0, 1.4), (-70, 0.7)]
)
def test_most_come_back_turned_and_scaled_with_the_picture(angle: float, scale: float) -> None:
    grey = blobs(256, 256)
    turn = cv2.getRotationMatrix2D((127.5, 127.5), angle, scale)
    turned = cv2.warpAffine(grey.numpy(), turn, (256, 256), flags=cv2.INTER_CUBIC)
    before, after = find_keypoints(grey), find_keypoints(torch.from_numpy(turned))
    expected = before.place.flip(1).double() @ torch.from_numpy(turn[:, :2]).T
    expected = (expected + torch.from_numpy(turn[:, 2])).flip(1)
    inside = ((expected > 40) & (expected < 215)).all(1) & (before.size * scale > 1.6)
    inside &= (before.size > 1.6) & ((before.place > 40) & (before.place < 215)).all(1)
    near = torch.cdist(expected.float(), after.place)
    closest, partner = near.min(1)
    back = inside & (closest < 2)
    assert back.sum() > 0.6 * inside.sum()
    ratio = torch.log(after.size[partner] / before.size / scale)[back]
    assert ratio.abs().median() < 0.1
    # OpenCV turns anticlockwise, where a direction from columns to rows goes clockwise.
    turned_by = after.turn[partner] - before.turn + math.radians(angle)
    off = torch.remainder(turned_by + math.pi, 2 * math.pi) - math.pi
    assert off[back].abs().median() < 0.15
    alike = (before.described * after.described[partner]).sum(1)[back]
    others = (before.described * after.described[partner.roll(1)]).sum(1)[back]
    assert alike.median() > 0.85
    assert (alike > others).float().mean() > 0.8


def test_descriptors_are_those_of_a_slow_reference() -> None:
    grey = blobs(80, 96)
    found = find_keypoints(grey)
    assert torch.allclose(found.described.norm(dim=1), torch.ones(len(found.described)), atol=1e-5)
    first = [n for n in range(len(found.size)) if float(found.size[n]) < 1.2][:5]
    assert first
    for n in first:
        expected = slow_descriptor(grey, found, n)
        assert float(torch.dot(expected, found.described[n].double())) > 0.995


def slow_descriptor(grey: Tensor, found: module.Keypoints, n: int) -> Tensor:
    """One descriptor of the finest octave in float64, sample by sample."""
    sigma = float(found.size[n])
    step = round(math.log2(sigma / module._SIGMA) * 3)
    scale = module._SIGMA * 2 ** (min(max(step, 1), 3) / 3)
    blur = math.sqrt(scale**2 - module._BEGUN**2)
    level = cv2.GaussianBlur(grey.double().numpy(), (0, 0), blur, borderType=cv2.BORDER_REPLICATE)
    theta = float(found.turn[n])
    bins = np.zeros((8, 4, 4))
    for i in range(10):
        for j in range(10):
            down, across = ((k - 4.5) * 1.2 * sigma for k in (i, j))
            row = float(found.place[n, 0]) + math.cos(theta) * down + math.sin(theta) * across
            column = float(found.place[n, 1]) - math.sin(theta) * down + math.cos(theta) * across
            y, x = min(max(round(row), 0), 79), min(max(round(column), 0), 95)
            dy = level[min(y + 1, 79), x] - level[max(y - 1, 0), x]
            dx = level[y, min(x + 1, 95)] - level[y, max(x - 1, 0)]
            weight = math.exp(-(((i - 4.5) / 5) ** 2 + ((j - 4.5) / 5) ** 2) / 2)
            for bin_ in range(8):
                away = math.atan2(dy, dx) - theta - bin_ * math.pi / 4
                part = max(0, math.cos(away) - math.cos(math.pi / 4))
                for a in range(4):
                    for b in range(4):
                        near = max(0, 1 - abs((i + 0.5) / 2.5 - 0.5 - a))
                        near *= max(0, 1 - abs((j + 0.5) / 2.5 - 0.5 - b))
                        bins[bin_, a, b] += math.hypot(dy, dx) * weight * part * near
    unit = np.minimum(bins.ravel() / np.linalg.norm(bins), 0.2)
    return torch.from_numpy(np.sqrt(unit / unit.sum()))


@pytest.mark.parametrize("shape", [(1, 1), (LEAST_SIDE - 1, 400), (LEAST_SIDE, LEAST_SIDE)])
def test_a_small_picture_has_few_or_none(shape: tuple[int, int]) -> None:
    found = find_keypoints(blobs(*shape))
    assert found.described.shape == (len(found.place), DIMENSIONS)
    assert len(found.place) == len(found.size) == len(found.turn)


@pytest.mark.parametrize("level", [0.0, 127.0, 255.0])
def test_a_flat_picture_has_none(level: float) -> None:
    assert len(find_keypoints(torch.full((120, 90), level)).place) == 0


def test_the_clearest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = blobs(200, 200)
    monkeypatch.setattr(module, "_MOST", 50)
    kept = find_keypoints(grey)
    monkeypatch.setattr(module, "_LEAST_CONTRAST", 12)
    clearest = find_keypoints(grey)
    monkeypatch.undo()
    every = find_keypoints(grey)
    assert len(every.place) > len(kept.place) == 50 > len(clearest.place) > 10
    most, least, all_ = (
        {tuple(place) for place in found.place.tolist()} for found in (kept, clearest, every)
    )
    assert least < most < all_
