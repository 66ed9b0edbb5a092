from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from imlctl.core.denoiser import DENOISERS, Denoiser, DenoiserConfig, time_embedding

SMALL = DenoiserConfig(channels=32, blocks=2, attention=True, patch=1, latents=8, condition=16)


def inputs(
    config: DenoiserConfig, members: int = 2, side: int = 8
) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    z = torch.randn(members, config.latents, side, side, generator=rng)
    t = torch.tensor([875, 0, 125][:members])
    f = torch.randn(1, config.condition, side // config.patch, side // config.patch, generator=rng)
    return z, t, f


def silenced(denoiser: Denoiser) -> Denoiser:
    """Let the mixing convolution pass everything on unchanged, as if there were none."""
    nn.init.dirac_(denoiser.mix.weight)
    nn.init.zeros_(denoiser.mix.bias)
    return denoiser


def authors_names(name: str) -> str:
    """A tensor's name in diffusers' UNet2DModel of one level."""
    for ours, theirs in (
        ("time.0.", "time_embedding.linear_1."),
        ("time.2.", "time_embedding.linear_2."),
        ("enter.", "conv_in."),
        ("down.", "down_blocks.0.resnets."),
        ("middle.", "mid_block.resnets."),
        ("attention.", "mid_block.attentions.0."),
        ("up.", "up_blocks.0.resnets."),
        ("norm.", "conv_norm_out."),
        ("leave.", "conv_out."),
    ):
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    for ours, theirs in (
        (".time.", ".time_emb_proj."),
        (".shortcut.", ".conv_shortcut."),
        ("attentions.0.norm.", "attentions.0.group_norm."),
        (".query.", ".to_q."),
        (".key.", ".to_k."),
        (".value.", ".to_v."),
        (".out.", ".to_out.0."),
    ):
        name = name.replace(ours, theirs)
    return name


@pytest.mark.parametrize("blocks", [1, 2])
def test_equals_the_public_network_on_random_weights(blocks: int) -> None:
    torch.manual_seed(0)
    config = DenoiserConfig(32, blocks, attention=True, patch=1, latents=8, condition=16)
    ours = silenced(Denoiser(config).eval().double())
    theirs = UNet2DModel(
        in_channels=8,
        out_channels=8,
        block_out_channels=(32,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=blocks,
    )
    theirs = theirs.eval().double()
    weights = {
        authors_names(name): value
        for name, value in ours.state_dict().items()
        if not name.startswith(("mix.", "inject."))
    }
    theirs.load_state_dict(weights, strict=True)
    z, t, _ = (x.double() if x.is_floating_point() else x for x in inputs(config))
    with torch.no_grad():
        expected = theirs(z, t).sample
        got = ours(z, t, torch.zeros(1, 32, 8, 8, dtype=torch.float64))
    # Their sinusoids are float32, as ours.
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_the_condition_enters_as_a_convolution_of_both() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(SMALL).double()
    x, f = torch.randn(2, 32, 8, 8).double(), torch.randn(2, 16, 8, 8).double()
    both = nn.Conv2d(48, 32, 3, padding=1).double()
    with torch.no_grad():
        both.weight.copy_(torch.cat((denoiser.mix.weight, denoiser.inject.weight), dim=1))
        both.bias.copy_(denoiser.mix.bias)  # type: ignore[union-attr]
        joined = both(torch.cat((x, f), dim=1))
        torch.testing.assert_close(denoiser.mix(x) + denoiser.prepare(f), joined)


def test_paper_preset_has_its_size_and_cost() -> None:
    denoiser = Denoiser(DENOISERS["paper"])
    assert sum(p.numel() for p in denoiser.parameters()) == pytest.approx(3.780e6, rel=2e-3)
    f, z = torch.zeros(1, 128, 64, 64), torch.zeros(1, 8, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        denoiser(z, torch.zeros(1, dtype=torch.int64), denoiser.prepare(f))
    convolutions = counter.get_flop_counts()["Global"]
    total = sum(v for op, v in convolutions.items() if "attention" not in str(op)) / 2
    assert total == pytest.approx(12.22e9, rel=5e-3)  # facts of the released code, without SDPA


def test_light_preset_costs_a_twentieth() -> None:
    def cost(config: DenoiserConfig) -> int:
        denoiser, side = Denoiser(config), 64 // config.patch
        prepared = torch.zeros(1, config.channels, side, side)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            denoiser(torch.zeros(1, 8, 64, 64), torch.zeros(1, dtype=torch.int64), prepared)
        return counter.get_total_flops()

    assert cost(DENOISERS["light"]) < cost(DENOISERS["paper"]) / 20


@pytest.mark.parametrize("config", [SMALL, DENOISERS["light"]])
def test_members_are_independent_and_share_the_condition(config: DenoiserConfig) -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(config).eval()
    z, t, f = inputs(config, members=3)
    with torch.no_grad():
        prepared = denoiser.prepare(f)
        together = denoiser(z, t, prepared)
        alone = torch.cat([denoiser(z[i : i + 1], t[i : i + 1], prepared) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert together.shape == z.shape


@pytest.mark.parametrize("config", [SMALL, DENOISERS["light"]])
def test_everything_it_is_given_matters(config: DenoiserConfig) -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(config).eval()
    z, t, f = inputs(config)
    with torch.no_grad():
        base = denoiser(z, t, denoiser.prepare(f))
        assert not torch.allclose(base, denoiser(z, t + 50, denoiser.prepare(f)))
        assert not torch.allclose(base, denoiser(z, t, denoiser.prepare(f + 1)))
        assert not torch.allclose(base, denoiser(z + 1, t, denoiser.prepare(f)))


def test_time_embedding_is_sinusoids() -> None:
    t = torch.tensor([0, 1, 999])
    got = time_embedding(t, 8)
    rates = [10000 ** (-k / 4) for k in range(4)]
    angles = torch.tensor([[float(s) * r for r in rates] for s in (0, 1, 999)], dtype=torch.float64)
    expected = torch.cat((angles.cos(), angles.sin()), dim=1)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 48}, "multiple of 32"),
        ({"channels": 0}, "multiple of 32"),
        ({"patch": 4}, "patch 1 or 2"),
        ({"blocks": 0}, "must be positive"),
    ],
)
def test_impossible_shapes(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenoiserConfig(**change)  # type: ignore[arg-type]
