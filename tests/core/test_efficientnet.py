"""EfficientNet-Lite0 against the public PyTorch implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torch.nn import functional as F

from imlctl.core.efficientnet import STRIDES, WIDTHS, EfficientNetLite
from imlctl.core.layers import fuse_all

if TYPE_CHECKING:
    from collections.abc import Callable

    Randomise = Callable[[nn.Module], None]


@pytest.fixture
def public(randomise: Randomise) -> Any:
    torch.manual_seed(0)
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    randomise(network)
    return network


@pytest.fixture
def ours(public: Any) -> EfficientNetLite:
    network = EfficientNetLite()
    network.load_public(public.state_dict())
    return network


def levels_of(network: Any, image: torch.Tensor) -> list[torch.Tensor]:
    """Last features of strides 4, 8 and 16, by the public code."""
    normalised = (image * 255 - 127) / 128
    x = F.relu6(network._bn0(network._conv_stem(normalised)))
    kept: dict[int, torch.Tensor] = {}
    for block in network._blocks:
        x = block(x)
        kept[image.shape[-1] // x.shape[-1]] = x
    return [kept[stride] for stride in STRIDES]


@pytest.mark.parametrize("size", [(32, 32), (64, 224)])
def test_equals_the_public_implementation(
    public: Any, ours: EfficientNetLite, size: tuple[int, int]
) -> None:
    image = torch.rand(2, 3, *size)
    with torch.no_grad():
        expected = levels_of(public, image)
    found = ours(image)
    assert tuple(x.shape[1] for x in found) == WIDTHS
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_fusing_changes_nothing_but_rounding(ours: EfficientNetLite) -> None:
    image = torch.rand(1, 3, 64, 64)
    before = ours(image)
    fuse_all(ours)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in ours.modules())
    for got, wanted in zip(ours(image), before, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_never_learns(ours: EfficientNetLite) -> None:
    around = nn.Sequential(ours)
    around.train()
    assert not any(part.training for part in ours.modules())
    state = {name: value.clone() for name, value in ours.state_dict().items()}
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not any(x.requires_grad for x in ours(image))
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in state.items())
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_refuses_weights_that_lack_something(public: Any) -> None:
    state = public.state_dict()
    del state["_blocks.10._project_conv.weight"]
    with pytest.raises(RuntimeError, match=r"blocks\.10\.narrow\.conv\.weight"):
        EfficientNetLite().load_public(state)
