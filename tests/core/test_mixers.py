from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from imlctl.core.mixers import (
    OmniShift,
    SpatialMixV4,
    SpatialMixV6,
    WindowAttention,
)
from imlctl.core.wkv import bi_wkv

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


class TestOmniShift:
    def test_is_the_input_plus_its_neighbourhood(self) -> None:
        torch.manual_seed(0)
        shift = OmniShift(5)
        torch.nn.init.normal_(shift.point)
        x = torch.randn(2, 5, 7, 9)
        expected = x + shift.point.view(1, 5, 1, 1) * x + shift.conv(x)
        torch.testing.assert_close(shift(x), expected, rtol=1e-5, atol=1e-5)

    def test_fused_is_one_convolution_and_stays_so(self) -> None:
        torch.manual_seed(0)
        shift = OmniShift(5)
        torch.nn.init.normal_(shift.point)
        x = torch.randn(2, 5, 7, 9)
        expected = shift(x)
        for _ in range(2):
            shift.fuse()
            torch.testing.assert_close(shift.conv(x), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(shift(x), expected, rtol=1e-5, atol=1e-5)


class TestSpatialMix:
    @pytest.mark.parametrize("mix", [SpatialMixV4, SpatialMixV6])
    @pytest.mark.parametrize("size", [(1, 1), (3, 8), (7, 5)])
    def test_keeps_the_shape(self, mix: type[nn.Module], size: tuple[int, int]) -> None:
        x = torch.randn(2, 24, *size)
        assert mix(24)(x).shape == x.shape

    def test_v4_mixes_along_rows_then_along_columns(
        self, randomise: Callable[[nn.Module], None]
    ) -> None:
        torch.manual_seed(0)
        mix = SpatialMixV4(8)
        randomise(mix)
        picture = torch.randn(2, 8, 3, 5)
        r, k, v = mix.project(mix.shift(picture)).chunk(3, dim=1)
        by_row = [(y, x) for y in range(3) for x in range(5)]
        by_column = [(y, x) for x in range(5) for y in range(3)]
        for order, decay, bonus in zip((by_row, by_column), mix.decay, mix.bonus, strict=True):
            mixed = bi_wkv(decay, bonus, self.read(k, order), self.read(v, order))
            v = torch.stack([mixed[..., order.index(at)] for at in by_row], -1).view_as(v)
        torch.testing.assert_close(mix(picture), mix.norm(v) * torch.sigmoid(r))

    def test_v6_gives_half_the_heads_to_each_order(
        self, randomise: Callable[[nn.Module], None]
    ) -> None:
        """Turning the picture swaps the two halves of the heads, once their parameters match."""
        torch.manual_seed(0)
        mix = SpatialMixV6(16)
        randomise(mix)
        shift, norm = mix.shift, mix.norm
        halved = [mix.decay_out.weight, mix.decay_out.bias, mix.bonus, norm.weight, norm.bias]
        with torch.no_grad():
            for value in (*mix.project.weight.chunk(4), *halved, shift.point, shift.conv.weight):
                assert value is not None
                first, second = value.chunk(2)
                second.copy_(first)
            shift.conv.weight.add_(shift.conv.weight.mT.clone())
        x = torch.randn(1, 8, 4, 6).repeat(1, 2, 1, 1)
        rows, columns = mix(x).chunk(2, dim=1)
        turned_rows, turned_columns = mix(x.mT).chunk(2, dim=1)
        torch.testing.assert_close(turned_rows, columns.mT, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(turned_columns, rows.mT, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(rows, columns, atol=1e-3)

    @staticmethod
    def read(picture: Tensor, order: list[tuple[int, int]]) -> Tensor:
        """The positions of a map as tokens, in the order given."""
        return torch.stack([picture[..., y, x] for y, x in order], -1)

    @pytest.mark.parametrize("mix", [SpatialMixV4, SpatialMixV6])
    def test_half_a_turn_of_the_picture_turns_the_answer(
        self, mix: type[nn.Module], randomise: Callable[[nn.Module], None]
    ) -> None:
        """Rows and columns both run both ways, so the raster has no beginning."""
        torch.manual_seed(0)
        layer = mix(16)
        randomise(layer)
        x = torch.randn(1, 16, 6, 9)
        expected = layer(x).flip(-1, -2)
        with torch.no_grad():
            kernel = layer.get_parameter("shift.conv.weight")
            kernel.copy_(kernel.flip(-1, -2).clone())
        torch.testing.assert_close(layer(x.flip(-1, -2)), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("mix", [SpatialMixV4, SpatialMixV6])
    def test_every_position_reaches_every_other(self, mix: type[nn.Module]) -> None:
        torch.manual_seed(0)
        layer = mix(16)
        x = torch.randn(1, 16, 9, 9, requires_grad=True)
        (reached,) = torch.autograd.grad(layer(x)[:, :, 0, 0].square().sum(), x)
        seen = reached.abs().sum(1)[0] > 0
        assert bool(seen.all())

    def test_single_head_of_v6_runs_in_row_order(self) -> None:
        x = torch.randn(1, 8, 5, 6)
        assert SpatialMixV6(8)(x).shape == x.shape


class TestWindowAttention:
    @pytest.mark.parametrize(
        ("size", "window"), [((8, 8), 4), ((7, 10), 4), ((3, 5), 8), ((9, 4), 3)]
    )
    def test_equals_attention_on_each_cropped_window(
        self, size: tuple[int, int], window: int
    ) -> None:
        torch.manual_seed(0)
        layer = WindowAttention(48, window)
        torch.nn.init.normal_(layer.bias)
        assert layer.heads == 2
        x = torch.randn(2, 48, *size)
        out = layer(x)
        for top in range(0, size[0], window):
            for left in range(0, size[1], window):
                here = (..., slice(top, top + window), slice(left, left + window))
                expected = self.attend(layer, x[here])
                torch.testing.assert_close(out[here], expected, rtol=1e-5, atol=1e-5)

    @staticmethod
    def attend(layer: WindowAttention, x: Tensor) -> Tensor:
        """Self-attention over all positions of one window, in the words of Swin's equation 4."""
        batch, channels, height, width = x.shape
        side = layer.window
        qkv = torch.unflatten(layer.project(x), 1, (3, layer.heads, -1))
        q, k, v = qkv.flatten(-2).unbind(1)  # each (B, h, d, T)
        at = [(y, x) for y in range(height) for x in range(width)]
        index = [
            [(y - b + side - 1) * (2 * side - 1) + (x - a + side - 1) for b, a in at] for y, x in at
        ]
        bias = layer.bias[torch.tensor(index)].permute(2, 0, 1)  # (h, T, T)
        scores = q.mT @ k / math.sqrt(channels // layer.heads) + bias  # (B, h, T, T)
        out = (scores.softmax(-1) @ v.mT).mT  # (B, h, d, T)
        return torch.reshape(out, (batch, channels, height, width))

    def test_windows_do_not_see_each_other(self) -> None:
        torch.manual_seed(0)
        layer = WindowAttention(24, 4)
        x = torch.randn(1, 24, 6, 6)
        changed = x.clone()
        changed[..., 4:, 4:] = 9
        assert torch.equal(layer(changed)[..., :4, :4], layer(x)[..., :4, :4])

    @pytest.mark.parametrize("channels", [8, 40, 72])
    def test_heads_divide_the_channels(self, channels: int) -> None:
        layer = WindowAttention(channels, 4)
        assert channels % layer.heads == 0
        assert layer(torch.randn(1, channels, 4, 4)).shape == (1, channels, 4, 4)
