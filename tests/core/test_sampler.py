"""DDIM against a closed form and against diffusers; members and flips against their promises."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from imlctl.core.sampler import (
    Spacing,
    alpha_bars,
    ddim,
    member_noise,
    respaced,
)

if TYPE_CHECKING:
    from collections.abc import Callable


from dataclasses import FrozenInstanceError
from fractions import Fraction
from itertools import pairwise

from imlctl.core.sampler import ScheduleConfig, diffuse

SCHEDULER: Any = DDIMScheduler  # it has no types that hold
BARS = alpha_bars()
EIGHT = respaced(8)


class ToyDenoiser(nn.Module):
    """Mixes neighbours, members' own noise and the step, with values beyond [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.calls: list[tuple[int, tuple[int, ...]]] = []
        self.filters = torch.randn(2, 4, 4, 3, 3, generator=generator) / 6

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        assert t.shape == z.shape[:1]
        assert t.dtype == torch.int64
        assert bool((t == t[0]).all())
        self.calls.append((int(t[0]), tuple(z.shape)))
        hidden = torch.nn.functional.conv2d(z, self.filters[0], padding=1)
        hidden = torch.sin(hidden + t[:, None, None, None] / 300)
        return torch.nn.functional.conv2d(hidden, self.filters[1], padding=1)


def optimal(mean: float, std: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return E[z_0 | z_t] where z_0 is normal: no denoiser predicts better."""

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        abar = BARS[t][:, None, None, None]
        gain = abar.sqrt() * std**2 / (abar * std**2 + 1 - abar)
        return mean + gain * (z.double() - abar.sqrt() * mean)

    return denoise


def closed_form(noise: Tensor, visited: tuple[int, ...], mean: float, std: float) -> Tensor:
    """DDIM of the optimal denoiser, by hand, in float64.

    With u = z - sqrt(abar) mean, each step multiplies u by (sqrt(abar abar') std^2 +
    sqrt((1 - abar) (1 - abar'))) / (abar std^2 + 1 - abar), whatever z is.
    """
    abars = [float(BARS[t]) for t in visited]
    u = noise.double() - sqrt(abars[0]) * mean
    for now, after in zip(abars, [*abars[1:], 1.0], strict=True):
        u = u * (sqrt(now * after) * std**2 + sqrt((1 - now) * (1 - after)))
        u = u / (now * std**2 + 1 - now)
    return mean + u


@given(
    count=st.integers(1, 60),
    spacing=st.sampled_from(["leading", "trailing"]),
    mean=st.floats(-3, 3),
    std=st.floats(0.01, 3),
)
def test_a_gaussian_follows_the_closed_form(
    count: int, spacing: Spacing, mean: float, std: float
) -> None:
    noise = member_noise(0, b"", 2, (1, 4, 4))
    visited = respaced(count, spacing=spacing)
    z = ddim(optimal(mean, std), noise, visited, BARS)
    assert z.dtype == torch.float32
    expected = closed_form(noise, visited, mean, std)
    torch.testing.assert_close(z.double(), expected, rtol=1e-4, atol=1e-4)


def test_more_steps_come_closer_to_the_exact_flow() -> None:
    # Steps without end carry each quantile of the noise to the same quantile of the data.
    noise, mean, std = member_noise(0, b"", 1, (4, 8, 8)), 0.5, 0.7
    exact = mean + std * noise
    errors = [
        float((ddim(optimal(mean, std), noise, respaced(n), BARS) - exact).abs().max())
        for n in (4, 8, 40, 200, 1000)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 < 0.1 < errors[0]


def test_one_leading_step_returns_the_noise_and_one_trailing_step_the_mean() -> None:
    noise = member_noise(0, b"", 1, (4, 8, 8))
    leading, trailing = (
        ddim(optimal(0.5, 0.7), noise, respaced(1, spacing=spacing), BARS)
        for spacing in ("leading", "trailing")
    )
    assert float((leading - noise).abs().max()) < 0.01
    assert float((trailing - 0.5).abs().max()) < 0.02


@pytest.mark.parametrize("clip", [None, 1.0, 0.3])
@pytest.mark.parametrize("count", [1, 5, 7, 8, 10])
def test_runs_as_the_scheduler_of_diffusers(count: int, clip: float | None) -> None:
    denoise, noise = ToyDenoiser(), member_noise(3, b"parity", 2, (4, 6, 5))
    theirs = SCHEDULER(
        beta_schedule="linear",
        prediction_type="sample",
        timestep_spacing="leading",
        set_alpha_to_one=True,
        steps_offset=0,
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
    )
    theirs.set_timesteps(count)
    z = noise
    for t in theirs.timesteps:
        z = theirs.step(denoise(z, t.expand(len(z))), int(t), z).prev_sample
    denoise.calls.clear()
    ours = ddim(denoise, noise, respaced(count), BARS, clip=clip)
    torch.testing.assert_close(ours, z, rtol=1e-5, atol=1e-5)
    # What is left of a difference is their schedule's: it holds abar in float32.
    same = ddim(denoise, noise, respaced(count), theirs.alphas_cumprod, clip=clip)
    torch.testing.assert_close(same, z, rtol=1e-6, atol=2e-6)
    assert [t for t, _ in denoise.calls] == theirs.timesteps.tolist() * 2


def test_clipping_puts_a_latent_beyond_it_out_of_reach() -> None:
    noise = member_noise(0, b"", 1, (4, 4, 4))

    def sure(z: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(z, 1.6)

    assert torch.equal(ddim(sure, noise, EIGHT, BARS), sure(noise, noise))
    assert float(ddim(sure, noise, EIGHT, BARS, clip=1.0).max()) == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_computes_in_float32_whatever_the_denoiser_returns(dtype: torch.dtype) -> None:
    noise = member_noise(0, b"", 1, (4, 4, 4))
    seen = []

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        seen.append(z.dtype)
        return z.to(dtype) / 2

    assert ddim(denoise, noise.to(dtype), EIGHT, BARS).dtype == torch.float32
    assert seen == [torch.float32] * 8


def test_gradients_reach_the_denoiser() -> None:
    scale = torch.tensor(0.5, requires_grad=True)
    z = ddim(lambda z, t: z * scale, member_noise(0, b"", 1, (1, 2, 2)), EIGHT, BARS)
    (gradient,) = torch.autograd.grad(z.sum(), scale)
    assert float(gradient) != 0


@pytest.mark.parametrize("clip", [None, 1.0])
def test_members_in_one_batch_equal_members_alone(clip: float | None) -> None:
    denoise, noise = ToyDenoiser(), member_noise(0, b"picture", 5, (4, 9, 7))
    alone = [ddim(denoise, one, EIGHT, BARS, clip=clip) for one in noise[:, None]]
    denoise.calls.clear()
    together = ddim(denoise, noise, EIGHT, BARS, clip=clip)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    assert denoise.calls == [(t, (5, 4, 9, 7)) for t in EIGHT]


@given(
    seed=st.integers(), key=st.binary(max_size=40), few=st.integers(1, 4), more=st.integers(0, 4)
)
def test_members_are_a_prefix_of_any_larger_ensemble(
    seed: int, key: bytes, few: int, more: int
) -> None:
    large = member_noise(seed, key, few + more, (4, 5, 3))
    member_noise(seed + 1, b"something else in between", 2, (1, 2, 3))
    torch.rand(3)
    assert torch.equal(member_noise(seed, key, few, (4, 5, 3)), large[:few])


def test_noise_depends_on_seed_key_and_member_each() -> None:
    shape = (2, 4, 4)
    drawn = [
        *member_noise(1, b"1", 12, shape),
        *member_noise(11, b"1", 2, shape),
        *member_noise(1, b"11", 2, shape),
        *member_noise(-1, b"1", 2, shape),
        *member_noise(1, b"", 2, shape),
        *member_noise(1, b"/1", 2, shape),
    ]
    assert len({tuple(x.flatten().tolist()) for x in drawn}) == len(drawn)


def test_noise_is_the_same_in_every_release() -> None:
    # A mask is evidence: it must come out again years later. If this fails, masks have changed.
    noise = member_noise(7, bytes(range(32)), 2, (4, 8, 8))
    expected = torch.tensor([[1.870888, 1.480925, 0.725603], [-0.357335, 2.246031, 0.734068]])
    torch.testing.assert_close(noise[:, 0, 0, :3], expected, rtol=1e-5, atol=1e-6)


def test_noise_is_standard_normal_between_and_within_members() -> None:
    noise = member_noise(0, b"", 8, (4, 64, 64)).flatten(1).double()  # (8, 16384)
    assert float(noise.mean()) == pytest.approx(0, abs=5 / sqrt(noise.numel()))
    assert float(noise.var()) == pytest.approx(1, rel=5 * sqrt(2 / noise.numel()))
    correlation = torch.corrcoef(noise) - torch.eye(8)
    assert float(correlation.abs().max()) < 5 / sqrt(noise.shape[1])


def test_noise_neither_reads_nor_moves_what_others_draw() -> None:
    before = torch.get_rng_state()
    default = torch.get_default_dtype()
    expected = member_noise(0, b"", 2, (4, 4, 4))
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            drawn = member_noise(0, b"", 2, (4, 4, 4))
    finally:
        torch.set_default_dtype(default)
    assert torch.equal(drawn, expected)


SCHEDULER: Any = DDIMScheduler  # it has no types that hold
BARS = alpha_bars()
VISITED = (875, 750, 625, 500, 375, 250, 125, 0)


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [ScheduleConfig(), ScheduleConfig(1, 0.5, 0.5)])
def test_abar_is_the_product_of_what_each_step_leaves(config: ScheduleConfig) -> None:
    bars = alpha_bars(config)
    assert bars.shape == (config.steps,)
    assert bars.dtype == torch.float64
    start, end = Fraction(config.beta_start), Fraction(config.beta_end)
    product = Fraction(1)
    for t in range(config.steps):
        product *= 1 - (start + (end - start) * t / max(config.steps - 1, 1))
        product = product.limit_denominator(10**40)
        assert float(bars[t]) == pytest.approx(float(product), rel=1e-12), t


def test_the_published_schedule_ends_in_noise() -> None:
    assert float(BARS[0]) == pytest.approx(1 - 1e-4, rel=1e-15)
    assert float(BARS[875]) == pytest.approx(4.2e-4, rel=0.01)
    assert float(BARS[-1]) == pytest.approx(4.04e-5, rel=0.01)
    theirs = SCHEDULER(beta_schedule="linear").alphas_cumprod
    torch.testing.assert_close(BARS.float(), theirs, rtol=1e-6, atol=0)


def test_eight_steps_are_those_of_the_paper() -> None:
    assert respaced(8) == VISITED


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("count", [1, 2, 5, 7, 8, 10, 50, 999, 1000])
def test_steps_are_those_of_diffusers(spacing: Spacing, count: int) -> None:
    theirs = SCHEDULER(timestep_spacing=spacing, steps_offset=0)
    theirs.set_timesteps(count)
    assert list(respaced(count, spacing=spacing)) == theirs.timesteps.tolist()


@given(data=st.data(), steps=st.integers(1, 2000), spacing=st.sampled_from(["leading", "trailing"]))
def test_steps_exist_fall_and_reach_their_end(
    data: st.DataObject, steps: int, spacing: Spacing
) -> None:
    count = data.draw(st.integers(1, steps))
    visited = respaced(count, steps, spacing)
    assert len(visited) == count
    assert all(a > b for a, b in pairwise(visited))
    assert 0 <= visited[-1] <= visited[0] < steps
    assert visited[-1] == 0 if spacing == "leading" else visited[0] == steps - 1


def test_without_a_prior_it_is_the_forward_process() -> None:
    z0, noise = latents(4, 8, 3, 5), latents(4, 8, 3, 5, seed=1)
    t = torch.tensor([0, 1, 500, 999])
    expected = SCHEDULER(beta_schedule="linear").add_noise(z0, noise, t)
    unused = latents(4, 8, 3, 5, seed=2)
    for z in (diffuse(z0, noise, t, BARS), diffuse(z0, noise, t, BARS, prior_noise=unused)):
        assert z.dtype == torch.float32
        torch.testing.assert_close(z, expected, rtol=1e-5, atol=1e-5)


@given(t=st.integers(0, 999), prior=st.floats(0, 2), seed=st.integers(0, 99))
def test_the_prior_moves_the_clean_latent_not_the_noise(t: int, prior: float, seed: int) -> None:
    z0, noise, xi = (latents(1, 2, 3, 3, seed=3 * seed + i).double() for i in range(3))
    z = diffuse(z0, noise, torch.tensor([t]), BARS, prior=prior, prior_noise=xi)
    abar = float(BARS[t])
    expected = abar**0.5 * (z0 + prior * xi) + (1 - abar) ** 0.5 * noise
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prior", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("t", [0, 125, 500, 875])
def test_mean_and_variance_are_those_of_equation_15(t: int, prior: float) -> None:
    count = 400_000
    abar = float(BARS[t])
    z0 = torch.full((1, 1, 1, count), 0.7)
    noise, xi = latents(1, 1, 1, count), latents(1, 1, 1, count, seed=1)
    z = diffuse(z0, noise, torch.tensor([t]), BARS, prior=prior, prior_noise=xi).double()
    variance = abar * prior**2 + 1 - abar
    # Five standard errors of a normal sample's mean and variance.
    assert float(z.mean()) == pytest.approx(0.7 * abar**0.5, abs=5 * (variance / count) ** 0.5)
    assert float(z.var()) == pytest.approx(variance, rel=5 * (2 / count) ** 0.5)


def test_each_latent_has_its_own_step() -> None:
    z0, noise, xi = (latents(3, 8, 2, 2, seed=i) for i in range(3))
    t = torch.tensor([999, 3, 400])
    together = diffuse(z0, noise, t, BARS, prior=0.1, prior_noise=xi)
    for i in range(3):
        one = slice(i, i + 1)
        alone = diffuse(z0[one], noise[one], t[one], BARS, prior=0.1, prior_noise=xi[one])
        torch.testing.assert_close(together[one], alone, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"steps": 0}, "at least 1 step"),
        ({"beta_start": 0.0}, "0 < beta_start"),
        ({"beta_start": 0.03}, "beta_start <= beta_end"),
        ({"beta_end": 1.0}, "beta_end < 1"),
        ({"beta_end": float("nan")}, "beta_end < 1"),
    ],
)
def test_impossible_schedules_are_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ScheduleConfig(**values)


def test_a_config_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ScheduleConfig().steps = 2  # type: ignore[misc]


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_impossible_counts_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 1000"):
        respaced(count)


def test_unknown_spacing_is_refused() -> None:
    with pytest.raises(ValueError, match="known: leading, trailing"):
        respaced(8, spacing="linspace")  # type: ignore[arg-type]
