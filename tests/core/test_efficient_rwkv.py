from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F

from imlctl.core.efficient_rwkv import (
    SIZES,
    EfficientRWKV,
    EfficientRWKVConfig,
    ParallelMixer,
)

if TYPE_CHECKING:
    from torch import Tensor


from imlctl.core.efficient_rwkv import ResidualInput

TINY = SIZES["tiny"]


class TestConfig:
    @pytest.mark.parametrize("size", sorted(SIZES))
    def test_sizes_are_valid_and_ordered(self, size: str) -> None:
        config = SIZES[size]
        assert list(config.dims) == sorted(config.dims)
        assert EfficientRWKVConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

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
        ],
    )
    def test_refuses_what_cannot_be_built(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            EfficientRWKVConfig(**change)


class TestBackbone:
    @pytest.mark.parametrize("size", [(64, 64), (96, 160), (72, 104)])
    def test_features_lie_at_the_strides(self, size: tuple[int, int]) -> None:
        height, width = size
        features = EfficientRWKV(TINY)(torch.rand(1, 3, height, width))
        dims = (TINY.dims[0], *TINY.dims)
        for x, s, dim in zip(features, (8, 8, 16, 32), dims, strict=True):
            assert x.shape == (1, dim, -(-height // s), -(-width // s))

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

    def test_the_stem_sees_every_pixel(self) -> None:
        torch.manual_seed(0)
        image = torch.rand(1, 3, 64, 64, requires_grad=True)
        stem = EfficientRWKV(TINY).stem
        out = stem(image, torch.zeros(1, 3, 16, 16))
        (reached,) = torch.autograd.grad(F.softplus(out).sum(), image)
        assert bool((reached.abs().sum(1) > 0).all())


class TestSemantics:
    @staticmethod
    def pair() -> tuple[EfficientRWKV, EfficientRWKV]:
        """A backbone, and the same with an ImageNet network of random weights."""
        torch.manual_seed(0)
        without = EfficientRWKV(SIZES["tiny"]).eval()
        having = EfficientRWKV(replace(SIZES["tiny"], semantics=True)).eval()
        having.load_state_dict(without.state_dict(), strict=False)
        return without, having

    def test_start_silent_so_that_trained_weights_may_be_given_them(self) -> None:
        without, having = self.pair()
        image = torch.rand(1, 3, 96, 64)
        with torch.no_grad():
            for got, wanted in zip(having(image), without(image), strict=True):
                assert torch.equal(got, wanted)

    def test_reach_every_stage_once_they_speak(self) -> None:
        without, having = self.pair()
        assert having.semantics is not None
        for level in having.semantics.levels:
            torch.nn.init.ones_(level.norm.weight)  # type: ignore[union-attr,arg-type]
        image = torch.rand(1, 3, 96, 64)
        with torch.no_grad():
            features = zip(having(image), without(image), strict=True)
            same = [torch.equal(got, wanted) for got, wanted in features]
        assert same == [True, False, False, False]  # the stem sees residuals alone

    def test_what_reads_them_learns_and_the_network_does_not(self) -> None:
        having = self.pair()[1].train()
        assert having.semantics is not None
        sum(x.square().mean() for x in having(torch.rand(2, 3, 64, 64))).backward()  # type: ignore[union-attr]
        for level in having.semantics.levels:
            assert level.norm.weight.grad.abs().sum() > 0  # type: ignore[union-attr,operator]
        assert all(p.grad is None for p in having.semantics.network.parameters())


@pytest.mark.parametrize("size", [(5, 7), (64, 96)])
def test_residuals_keep_the_size_and_saturate(size: tuple[int, int]) -> None:
    out = ResidualInput()(torch.rand(2, 3, *size))
    assert out.shape == (2, 9, *size)
    assert float(out.abs().max()) <= 1


def test_constant_picture_leaves_no_residual() -> None:
    torch.manual_seed(0)
    image = torch.tensor([0.9, 0.4, 0.1]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    residual = ResidualInput()(image)
    torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-4)


def test_srm_filters_sum_to_zero() -> None:
    filters = ResidualInput().filters
    assert filters.shape == (9, 3, 5, 5)
    total = filters.sum((1, 2, 3)) / filters.abs().sum((1, 2, 3))
    torch.testing.assert_close(total, torch.zeros(9), rtol=0, atol=1e-6)
    assert (filters[range(9), [0, 0, 0, 1, 1, 1, 2, 2, 2], 2, 2] < 0).all()


def test_srm_looks_at_each_colour_alone() -> None:
    image = torch.full((1, 3, 16, 16), 0.5)
    image[:, 1] = torch.rand(16, 16)
    residual = ResidualInput()(image)[0].abs().amax((1, 2))
    assert [bool(r > 1e-3) for r in residual] == [False] * 3 + [True] * 3 + [False] * 3


def test_a_grey_level_of_noise_shows() -> None:
    torch.manual_seed(0)
    image = torch.full((1, 3, 16, 16), 0.5)
    image[:, :, 8, 8] += 1 / 255
    residual = ResidualInput()(image)[:, :, 8, 8]
    assert (residual.abs() > 0.04).all()
    assert (residual.abs() < 0.9).all()


def test_edges_saturate() -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:, 8:] = 1
    # Right at the corner each filter sees it, and tells it from no other edge.
    corner = ResidualInput()(image)[:, :, 6:10, 6:10]
    assert float(corner.abs().amax((0, 2, 3)).min()) > 0.999
