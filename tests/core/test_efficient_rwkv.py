from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F

from imlctl.core.efficient_rwkv import (
    SIZES,
    EfficientRWKV,
    EfficientRWKVConfig,
    OmniShift,
    ParallelMixer,
    SpatialMixV4,
    SpatialMixV6,
    WindowAttention,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

TINY = replace(SIZES["tiny"], stem_stride=4, local="window")


class TestConfig:
    @pytest.mark.parametrize("size", sorted(SIZES))
    def test_sizes_are_valid_and_ordered(self, size: str) -> None:
        config = SIZES[size]
        assert list(config.dims) == sorted(config.dims)
        assert replace(config, stem_stride=4).strides == (4, 8, 16)
        assert replace(config, stem_stride=8).strides == (8, 16, 32)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"dims": (32, 64)}, "dims needs one value for each"),
            ({"depths": (1, 1, 1, 1)}, "depths needs one value for each"),
            ({"global_share": ()}, "global_share needs one value for each"),
            ({"dims": (32, 64, 100)}, "multiples of 16"),
            ({"dims": (0, 64, 128)}, "multiples of 16"),
            ({"depths": (1, 0, 1)}, "depths at least 1"),
            ({"window": 1}, "window at least 2"),
            ({"global_share": (0.0, 0.5, 0.5)}, "global share above 0"),
            ({"local_share": (-0.1, 0.25, 0.25)}, "global share above 0"),
            ({"local_share": (0.5, 0.6, 0.25)}, "sum to at most 1"),
            ({"mixing": "v5"}, "unknown mixing 'v5'; known: v4, v6"),
            ({"local": "dense"}, "unknown local 'dense'; known: window, depthwise"),
            ({"high_pass": "sobel"}, "unknown high_pass 'sobel'; known: srm, bayar, none"),
            ({"stem_stride": 2}, "unknown stem_stride 2; known: 4, 8"),
        ],
    )
    def test_refuses_what_cannot_be_built(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            EfficientRWKVConfig(**change)


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


class TestBackbone:
    @pytest.mark.parametrize("stride", [4, 8])
    @pytest.mark.parametrize("size", [(64, 64), (96, 160)])
    def test_features_lie_at_the_strides(self, stride: Any, size: tuple[int, int]) -> None:
        config = replace(TINY, stem_stride=stride)
        height, width = size
        features = EfficientRWKV(config)(torch.rand(1, 3, height, width))
        strides = (config.strides[0], *config.strides)
        dims = (config.dims[0], *config.dims)
        for x, s, dim in zip(features, strides, dims, strict=True):
            assert x.shape == (1, dim, height // s, width // s)

    @pytest.mark.parametrize(("wide", "near"), [(1.0, 0.0), (0.5, 0.5), (0.5, 0.0), (0.01, 0.01)])
    def test_splits_may_be_empty_but_sum_to_all_channels(self, wide: float, near: float) -> None:
        config = EfficientRWKVConfig(
            dims=(32, 64, 128), global_share=(wide,) * 3, local_share=(near,) * 3
        )
        mixer = ParallelMixer(config, 0)
        assert sum(mixer.split) == 32
        assert mixer.split[0] >= 8
        assert mixer(torch.randn(2, 32, 8, 8)).shape == (2, 32, 8, 8)

    def test_identity_channels_pass_unmixed(self) -> None:
        """The projection sees the last channels as they came."""
        torch.manual_seed(0)
        mixer = ParallelMixer(TINY, 0)
        seen: list[Tensor] = []
        mixer.project.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        x = torch.randn(1, 32, 8, 8)
        mixer(x)
        same = mixer.split[2]
        assert same == 8
        assert torch.equal(seen[0][:, -same:], x[:, -same:])
        assert not torch.equal(seen[0][:, :-same], x[:, :-same])

    def test_blocks_start_as_the_identity(self) -> None:
        """So that depth costs nothing at the start of training."""
        torch.manual_seed(0)
        backbone = EfficientRWKV(TINY)
        x = torch.randn(1, 32, 16, 16)
        assert torch.equal(backbone.stages[0](x), x)

    def test_stem_of_stride_4_sees_every_pixel(self) -> None:
        torch.manual_seed(0)
        image = torch.rand(1, 3, 64, 64, requires_grad=True)
        stem = EfficientRWKV(TINY).stem
        (reached,) = torch.autograd.grad(F.softplus(stem(image)).sum(), image)
        assert bool((reached.abs().sum(1) > 0).all())
