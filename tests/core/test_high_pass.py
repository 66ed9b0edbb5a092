from __future__ import annotations

from typing import cast

import pytest
import torch

from imlctl.core.high_pass import HighPass, ResidualInput


@pytest.mark.parametrize(("kind", "channels"), [("srm", 12), ("bayar", 12), ("none", 3)])
@pytest.mark.parametrize("size", [(5, 7), (64, 96)])
def test_keeps_the_size_and_the_colours(
    kind: HighPass, channels: int, size: tuple[int, int]
) -> None:
    image = torch.rand(2, 3, *size)
    layer = ResidualInput(kind)
    out = layer(image)
    assert layer.channels == channels
    assert out.shape == (2, channels, *size)
    assert torch.equal(out[:, :3], image * 2 - 1)
    assert float(out.detach().abs().max()) <= 1


@pytest.mark.parametrize("kind", ["srm", "bayar"])
def test_constant_picture_leaves_no_residual(kind: HighPass) -> None:
    torch.manual_seed(0)
    image = torch.tensor([0.9, 0.4, 0.1]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    residual = ResidualInput(kind)(image)[:, 3:]
    torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-4)


def test_srm_filters_sum_to_zero() -> None:
    filters = ResidualInput("srm").filters
    assert filters.shape == (9, 3, 5, 5)
    torch.testing.assert_close(filters.sum((1, 2, 3)), torch.zeros(9), rtol=0, atol=1e-6)
    assert (filters[range(9), [0, 0, 0, 1, 1, 1, 2, 2, 2], 2, 2] < 0).all()


def test_srm_looks_at_each_colour_alone() -> None:
    image = torch.full((1, 3, 16, 16), 0.5)
    image[:, 1] = torch.rand(16, 16)
    residual = ResidualInput("srm")(image)[0, 3:].abs().amax((1, 2))
    assert [bool(r > 1e-3) for r in residual] == [False] * 3 + [True] * 3 + [False] * 3


@pytest.mark.parametrize("kind", ["srm", "bayar"])
def test_a_grey_level_of_noise_shows(kind: HighPass) -> None:
    torch.manual_seed(0)
    image = torch.full((1, 3, 16, 16), 0.5)
    image[:, :, 8, 8] += 1 / 255
    residual = ResidualInput(kind)(image)[:, 3:, 8, 8]
    assert (residual.abs() > 0.04).all()
    assert (residual.abs() < 0.9).all()


def test_edges_saturate() -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:, 8:] = 1
    # Right at the corner each filter sees it, and tells it from no other edge.
    corner = ResidualInput("srm")(image)[:, 3:, 6:10, 6:10]
    assert float(corner.abs().amax((0, 2, 3)).min()) > 0.999


def test_bayar_constraint_outlives_an_optimiser_step() -> None:
    torch.manual_seed(0)
    layer = ResidualInput("bayar")
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    before = layer._bayar().detach().clone()
    layer(torch.rand(1, 3, 16, 16))[:, 3:].square().mean().backward()
    optimizer.step()
    filters = layer._bayar() * 3  # each colour's filter
    assert not torch.allclose(filters, before * 3)
    assert torch.equal(filters[..., 2, 2], -torch.ones(9, 3))
    around = filters.sum((-1, -2)) + 1
    torch.testing.assert_close(around, torch.ones(9, 3), rtol=0, atol=1e-5)


def test_refuses_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="unknown high-pass 'sobel'; known: srm, bayar, none"):
        ResidualInput(cast("HighPass", "sobel"))
