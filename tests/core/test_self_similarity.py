from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from imlctl.core import self_similarity as module
from imlctl.core.self_similarity import STRIDE, self_similarity


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

    def test_half_precision_of_the_network_does_not_reach_it(self) -> None:
        image = moved(textured(96, 128), (8, 8, 40), (44, 64))
        with torch.autocast("cpu", torch.bfloat16):
            inside = self_similarity(image)
        assert torch.equal(inside, self_similarity(image))
