"""What was made fast stays fast: ratios, far from where a busy machine could push them.

Processor time of one thread, in turns, so that what else runs on the machine hardly counts. Beside
each limit stands what it was on one core of an AMD EPYC.
"""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from imlctl.bench.flops import count_model
from imlctl.bench.timing import Subject, WallTimer, take_turns
from imlctl.core.diff_iml import DiffIML
from imlctl.core.efficient_iml import EfficientIML
from imlctl.core.light_vae import LightVAE, LightVAEConfig
from imlctl.core.sampler import member_noise
from imlctl.core.self_similarity import self_similarity

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


def times_longer(slow: object, fast: object, rounds: int = 3) -> float:
    """How many times longer the first takes than the second."""
    subjects = [Subject("slow", slow), Subject("fast", fast)]  # type: ignore[arg-type]
    a, b = take_turns(subjects, rounds, timed=WallTimer(clock=time.process_time))
    return a.over(b)


def picture(size: int) -> torch.Tensor:
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return image.to(memory_format=torch.channels_last)


def test_shuffling_decodes_faster_than_transposed_convolutions() -> None:
    shuffling = LightVAE(LightVAEConfig()).fuse()
    transposed = LightVAE(replace(LightVAEConfig(), decoder="transposed")).fuse()
    latents = torch.randn(1, 4, 64, 64)  # milliseconds each: a few turns could mislead
    ratio = times_longer(lambda: transposed.decode(latents), lambda: shuffling.decode(latents), 15)
    assert ratio > 2  # 4.7


def test_fused_is_no_slower() -> None:
    model = EfficientIML().eval().to(memory_format=torch.channels_last)
    fused = copy.deepcopy(model).fuse()
    image = picture(256)
    assert times_longer(lambda: fused(image), lambda: model(image)) < 1.1  # 0.92


def test_the_search_for_repetition_is_linear_in_pixels() -> None:
    """Four times the pixels; comparing each place with each would be sixteen times the work."""
    small, large = picture(1024), picture(2048)
    ratio = times_longer(lambda: self_similarity(large), lambda: self_similarity(small), 2)
    assert ratio < 8  # 5.1, on an Intel Xeon


def test_time_is_linear_in_pixels() -> None:
    model = EfficientIML().fuse().to(memory_format=torch.channels_last)
    small, large = picture(256), picture(512)
    assert times_longer(lambda: model(large), lambda: model(small)) < 7  # 3.4


def test_an_ensemble_is_one_batch_on_one_condition() -> None:
    """Members share the encoder and each call of the denoiser."""
    model = DiffIML().fuse().to(memory_format=torch.channels_last)
    image = picture(256)
    noise = member_noise(0, b"", 5, model.noise_shape(256, 256))
    ratio = times_longer(
        lambda: [model(image, None, noise[i : i + 1], 8) for i in range(5)],
        lambda: model(image, None, noise, 8),
    )
    assert ratio > 1.4  # 2.3


def test_a_step_more_costs_the_denoiser_only() -> None:
    """Exact, not timed: the condition is computed once, whatever the steps."""
    model = DiffIML().fuse()
    one, two, nine = (count_model(model, 64, steps=s, members=1).macs for s in (1, 2, 9))
    assert nine - one == 8 * (two - one)
    assert two - one < 0.3 * one  # 0.2
