from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from imlctl.core import layers
from imlctl.core.layers import ChannelNorm, ConvNorm, bands, block_mean, box_mean, fuse_all

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 1, 6), (3, 2, 1)])
def test_fused_convolution_equals_the_pair(
    kernel: int, stride: int, groups: int, randomise: Callable[[nn.Module], None]
) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(6, 6, kernel, stride, groups).eval()
    randomise(layer)
    x = torch.randn(2, 6, 9, 11)
    expected = layer(x)
    layer.fuse()
    assert isinstance(layer.norm, nn.Identity)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    layer.fuse()
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_odd_kernels_keep_the_size_and_strides_divide_it() -> None:
    x = torch.randn(2, 3, 10, 12)
    assert ConvNorm(3, 5, 3)(x).shape == (2, 5, 10, 12)
    assert ConvNorm(3, 5, 3, stride=2)(x).shape == (2, 5, 5, 6)


def test_zero_gain_starts_silent() -> None:
    assert not ConvNorm(3, 5, gain=0.0)(torch.randn(2, 3, 4, 4)).any()


def test_channel_norm_is_layer_norm_over_channels(randomise: Callable[[nn.Module], None]) -> None:
    norm = ChannelNorm(7)
    randomise(norm)
    x = torch.randn(2, 7, 3, 5)
    mean = x.mean(1, keepdim=True)
    spread = x.var(1, keepdim=True, correction=0).add(1e-5).sqrt()
    expected = (x - mean) / spread * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected, rtol=1e-5, atol=1e-5)


def test_channel_norm_keeps_small_variances_in_bfloat16() -> None:
    x = 1 + torch.linspace(-1, 1, 8).view(1, 8, 1, 1).bfloat16() / 64
    y = ChannelNorm(8)(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), ChannelNorm(8)(x.float()), rtol=1e-2, atol=1e-2)


def test_fuse_all_reaches_every_depth() -> None:
    model = nn.Sequential(ConvNorm(3, 4), nn.Sequential(nn.ReLU(), ConvNorm(4, 4, 3)))
    fuse_all(model)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in model.modules())


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (5, 9), (13, 13), (1, 17)])
@pytest.mark.parametrize("cached", [1, 200, 2**19])
def test_box_mean_equals_the_mean_of_what_lies_inside(
    cached: int, rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_AREA", cached)  # bands of a row, of five, and one alone
    values = torch.randn(2, 14, 20, dtype=torch.float64)
    means = box_mean(values, rows, columns)
    for y in range(14):
        for x in range(20):
            box = values[
                :,
                max(0, y - rows // 2) : y + rows // 2 + 1,
                max(0, x - columns // 2) : x + columns // 2 + 1,
            ]
            torch.testing.assert_close(means[:, y, x], box.mean((1, 2)))


@pytest.mark.parametrize(("height", "multiple"), [(1, 1), (40, 8), (43, 8), (64, 1)])
def test_bands_hold_each_row_once(
    height: int, multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_AREA", 400)
    values = torch.zeros(2, height, 10)
    parts = list(bands(values, multiple))
    assert [row for top, end in parts for row in range(top, end)] == list(range(height))
    assert all((end - top) % multiple == 0 for top, end in parts[:-1])
    assert max(end - top for top, end in parts) <= max(multiple, 20)


def test_block_mean_equals_pooling() -> None:
    values = torch.randn(2, 12, 20, dtype=torch.float64)
    expected = torch.nn.functional.avg_pool2d(values[:, None], 4)[:, 0]
    torch.testing.assert_close(block_mean(values, 4), expected)
