from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from imlctl.core.light_vae import SIZES, LightVAE, LightVAEConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

SMALL = {
    "shuffle": LightVAEConfig(widths=(4, 6, 8), hidden=8, fine=4, blocks=1),
    "transposed": LightVAEConfig(widths=(4, 6, 8), decoder="transposed"),
}
each = pytest.mark.parametrize("kind", SMALL)


def used(kind: str) -> LightVAE:
    """A model whose norms have statistics of their own."""
    torch.manual_seed(0)
    model = LightVAE(SMALL[kind])
    for _ in range(3):
        model.decode(model.encode(torch.randn(4, 1, 32, 32)) + 1)
    return model.eval()


def gmac(run: Callable[[Tensor], Tensor], x: Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        run(x)
    return float(counter.get_total_flops() / 2e9)


def test_the_papers_size_and_cost() -> None:
    """0.196 M parameters, 0.62 and 1.29 GMAC at 512x512: measured on the published code."""
    model = LightVAE(SIZES["paper"]).eval()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(0.196e6, rel=0.01)
    assert gmac(model.encode, torch.ones(1, 1, 512, 512)) == pytest.approx(0.62, rel=0.02)
    assert gmac(model.decode, torch.ones(1, 4, 64, 64)) == pytest.approx(1.29, rel=0.02)


def test_the_light_size_costs_little_over_half() -> None:
    model = LightVAE(SIZES["light"]).eval()
    assert sum(p.numel() for p in model.parameters()) < 0.27e6
    assert gmac(model.decode, torch.ones(1, 4, 64, 64)) < 1.29 * 0.57


@each
@pytest.mark.parametrize("size", [(32, 32), (8, 40), (64, 24)])
def test_shapes(kind: str, size: tuple[int, int]) -> None:
    model = used(kind)
    latents = model.encode(torch.ones(2, 1, *size))
    assert latents.shape == (2, 4, size[0] // 8, size[1] // 8)
    assert model.decode(latents).shape == (2, 1, *size)


@pytest.mark.parametrize("shape", [(1, 1, 36, 32), (1, 1, 32, 36), (1, 3, 32, 32)])
def test_refuses_what_it_cannot_encode(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        used("shuffle").encode(torch.ones(shape))


@each
def test_moving_by_a_latent_moves_the_rest(kind: str) -> None:
    model = used(kind)
    maps = torch.randn(1, 1, 64, 64).sign()
    moved = torch.roll(maps, (8, 16), (2, 3))
    with torch.inference_mode():
        here, there = model.encode(maps), model.encode(moved)
        torch.testing.assert_close(here[..., 2:5, 2:5], there[..., 3:6, 4:7])
        wide = torch.randn(1, 4, 12, 12)
        here, there = model.decode(wide), model.decode(torch.roll(wide, (1, 2), (2, 3)))
        torch.testing.assert_close(here[..., 32:56, 32:56], there[..., 40:64, 48:72])


@each
def test_fusing_changes_nothing_but_the_parts(kind: str) -> None:
    model = used(kind)
    maps = torch.randn(2, 1, 32, 48).sign()
    with torch.inference_mode():
        latents = model.encode(maps)
        logits = model.decode(latents)
        fused = model.fuse()
        torch.testing.assert_close(fused.encode(maps), latents)
        torch.testing.assert_close(fused.decode(latents), logits, rtol=1e-4, atol=1e-5)
        fused.fuse()
        torch.testing.assert_close(fused.decode(latents), logits, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())


@each
def test_the_scale_is_of_latents_only(kind: str) -> None:
    model = used(kind)
    values = model.config.to_dict() | {"scale": 2 * model.config.scale}
    other = LightVAE(LightVAEConfig.from_dict(values)).eval()
    other.load_state_dict(model.state_dict())
    maps = torch.randn(1, 1, 32, 32).sign()
    with torch.inference_mode():
        torch.testing.assert_close(other.encode(maps), 2 * model.encode(maps))
        there_and_back = model.decode(model.encode(maps))
        torch.testing.assert_close(other.decode(other.encode(maps)), there_and_back)


def test_a_deeper_encoder_leaves_the_decoder_as_it_is() -> None:
    plain, deep = (LightVAE(LightVAEConfig(encoder_blocks=n)) for n in (0, 2))
    assert len(deep.encoder) == len(plain.encoder) + 2
    assert deep.encode(torch.ones(1, 1, 64, 64)).shape == (1, 4, 8, 8)
    deep.decoder.load_state_dict(plain.decoder.state_dict())


@pytest.mark.parametrize("config", [*SIZES.values(), *SMALL.values()])
def test_config_survives_json(config: LightVAEConfig) -> None:
    assert LightVAEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "wrong",
    [
        {"widths": [4, 8]},
        {"widths": [4, 8, 0]},
        {"decoder": "nearest"},
        {"blocks": -1},
        {"encoder_blocks": -1},
        {"latent": 0},
        {"hidden": 0},
        {"fine": 0},
        {"scale": 0.0},
        {"scale": float("nan")},
    ],
)
def test_refuses_what_cannot_be_built(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"widths must|unknown decoder|must not be negative"):
        LightVAEConfig.from_dict(wrong)


def test_refuses_unknown_keys() -> None:
    with pytest.raises(TypeError, match="depth"):
        LightVAEConfig.from_dict({"depth": 3})
