"""The schedule against its definition in exact arithmetic, and against diffusers."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from imlctl.core.schedule import ScheduleConfig, Spacing, alpha_bars, diffuse, respaced

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


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"noise": latents(2, 8, 4, 1)}, "noise needs the shape"),
        ({"prior_noise": latents(8, 4, 4)}, "noise needs the shape"),
        ({"t": torch.tensor([1])}, "one int64 step for each"),
        ({"t": torch.tensor([1.0, 2.0])}, "one int64 step for each"),
        ({"t": torch.tensor([True, False])}, "one int64 step for each"),
        ({"t": torch.tensor([1, -1])}, "0 to 999"),
        ({"t": torch.tensor([1000, 1])}, "0 to 999"),
        ({"prior": -0.1}, "at least 0"),
        ({"prior": float("nan")}, "at least 0"),
        ({"prior": 0.1}, "needs its noise"),
    ],
)
def test_nonsense_is_refused(changed: dict[str, Any], match: str) -> None:
    good = {
        "z0": latents(2, 8, 4, 4),
        "noise": latents(2, 8, 4, 4),
        "t": torch.tensor([1, 2]),
        "bars": BARS,
    }
    with pytest.raises(ValueError, match=match):
        diffuse(**(good | changed))
