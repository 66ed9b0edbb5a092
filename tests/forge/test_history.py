from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imlctl.forge import history
from imlctl.forge.jpeg import Encoding

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SIDES = st.integers(40, 130)
SEEDS = st.integers(0, 2**32 - 1)
STEPS: dict[str, history.Step] = {
    "noise": partial(history.noise, sigma=3.0, rng=np.random.default_rng(0)),
    "grain": partial(history.noise, sigma=3.0, rng=np.random.default_rng(0), grain=0.7),
    "blur": partial(history.blur, sigma=1.0),
    "sharpen": partial(history.sharpen, amount=0.8),
    "tone": partial(history.tone, gamma=1.2, contrast=1.1, brightness=4.0),
    "cast": partial(history.colour_cast, gains=np.array([1.1, 1.0, 0.9])),
}


@pytest.mark.parametrize("size", [(64, 64), (61, 83)])
@pytest.mark.parametrize("name", STEPS)
def test_steps_change_pixels_but_neither_shape_nor_type(
    name: str, size: tuple[int, int], photo: Callable[..., Any]
) -> None:
    pixels = photo(0, *size)
    before = pixels.copy()
    out = STEPS[name](pixels)
    assert out.shape == pixels.shape
    assert out.dtype == np.uint8
    assert not np.array_equal(out, pixels)
    assert np.array_equal(pixels, before)  # the source is left alone


@pytest.mark.parametrize("size", [(40, 90), (8, 8), (300, 20)])
@pytest.mark.parametrize("method", history.INTERPOLATIONS)
def test_resize_gives_the_size_asked_for(
    size: tuple[int, int], method: int, photo: Callable[..., Any]
) -> None:
    out = history.resize(photo(0, 64, 80), *size, method)
    assert out.shape == (*size, 3)
    assert out.dtype == np.uint8


class TestNoise:
    flat: NDArray[np.uint8] = np.full((96, 96, 3), 128, np.uint8)

    def spread(self, **settings: Any) -> NDArray[np.float64]:
        rng = np.random.default_rng(0)
        return history.noise(self.flat, rng=rng, **settings).astype(float) - 128

    @pytest.mark.parametrize("grain", [0.0, 0.7])
    @pytest.mark.parametrize("sigma", [2.0, 8.0])
    def test_has_the_spread_asked_for(self, sigma: float, grain: float) -> None:
        assert abs(self.spread(sigma=sigma, grain=grain).std() / sigma - 1) < 0.05

    def test_grain_ties_neighbours_together(self) -> None:
        def tie(x: NDArray[np.float64]) -> float:
            return float(np.corrcoef(x[:, 1:].ravel(), x[:, :-1].ravel())[0, 1])

        assert abs(tie(self.spread(sigma=8.0))) < 0.03
        assert tie(self.spread(sigma=8.0, grain=0.8)) > 0.3

    def test_of_nothing_is_nothing(self) -> None:
        assert not self.spread(sigma=0.0).any()

    def test_saturates(self) -> None:
        white = np.full((16, 16, 3), 255, np.uint8)
        assert history.noise(white, 20.0, np.random.default_rng(0)).min() > 128


class TestToneAndColour:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)

    def test_identity(self) -> None:
        assert np.array_equal(history.tone(self.levels, 1.0, 1.0, 0.0), self.levels)
        assert np.array_equal(history.colour_cast(self.levels, np.ones(3)), self.levels)
        assert np.array_equal(history.sharpen(self.levels, 0.0), self.levels)

    def test_gamma_keeps_the_ends(self) -> None:
        out = history.tone(self.levels, 1.6, 1.0, 0.0)
        assert (out[0, 0] == 0).all()
        assert (out[-1, -1] == 255).all()
        assert out.mean() < self.levels.mean()

    def test_contrast_turns_about_the_middle(self) -> None:
        out = history.tone(self.levels, 1.0, 1.5, 0.0).astype(int)
        assert out[8, 0, 0] in (128, 129)  # level 128
        assert out[12, 0, 0] == round((192 - 127.5) * 1.5 + 127.5)

    def test_brightness_is_in_grey_levels(self) -> None:
        out = history.tone(self.levels, 1.0, 1.0, 10.0).astype(int)
        assert out[4, 0, 0] == 74
        assert out[15, 15, 0] == 255

    def test_cast_touches_each_colour_alone(self) -> None:
        out = history.colour_cast(self.levels, np.array([0.5, 1.0, 1.2])).astype(int)
        assert out[6, 4].tolist() == [50, 100, 120]


class TestCamera:
    def ramp(self) -> NDArray[np.uint8]:
        y, x = np.mgrid[0:64, 0:64]
        return np.stack((x * 3 + 20, y * 3 + 20, x + y + 40), 2).astype(np.uint8)

    @pytest.mark.parametrize("seed", range(12))
    def test_gives_back_what_interpolation_can(self, seed: int) -> None:
        """A ramp in each colour, whatever the phase: a wrong pattern would swap the colours."""
        taken = history.camera(self.ramp(), 0.0, 0.0, np.random.default_rng(seed))
        assert np.array_equal(taken[3:-3, 3:-3], self.ramp()[3:-3, 3:-3])

    def test_noise_grows_with_the_light_and_is_tied_to_its_neighbours(self) -> None:
        rng = np.random.default_rng(0)
        dark, light = (np.full((128, 128, 3), level, np.uint8) for level in (20, 200))
        apart = [history.camera(x, 8.0, 0.0, rng).astype(float) - x for x in (dark, light)]
        assert apart[1].std() > 1.8 * apart[0].std()
        red = apart[1][..., 0] - apart[1][..., 0].mean()
        assert (red[:, 1:] * red[:, :-1]).mean() > 0.2 * red.var()  # interpolated

    def test_denoising_flattens(self) -> None:
        flat = np.full((128, 128, 3), 150, np.uint8)
        noisy, clean = (
            history.camera(flat, 6.0, strength, np.random.default_rng(0)) for strength in (0, 20)
        )
        assert clean.std() < 0.7 * noisy.std()


def test_reduced_loses_detail_and_keeps_the_rest(photo: Callable[..., Any]) -> None:
    pixels = photo(0, 96, 96)
    soft = history.reduced(pixels, 2.5, np.random.default_rng(0))
    assert soft.shape == pixels.shape
    detail = [np.abs(np.diff(x.astype(float), axis=1)).mean() for x in (pixels, soft)]
    assert detail[1] < 0.8 * detail[0]
    assert soft.mean() == pytest.approx(pixels.mean(), abs=2)


def test_blur_and_sharpen_are_opposites(photo: Callable[..., Any]) -> None:
    pixels = photo(0, 64, 64)
    detail = [
        np.abs(np.diff(x.astype(int), axis=0)).mean()
        for x in (history.blur(pixels, 1.2), pixels, history.sharpen(pixels, 1.0))
    ]
    assert detail[0] < detail[1] < detail[2]


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
@pytest.mark.parametrize("process", [history.random_history, history.random_finish])
def test_random_processing_keeps_shape_and_type(process: Callable[..., Any], seed: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (37, 52, 3), dtype=np.uint8)
    before = pixels.copy()
    first, second = (process(pixels, np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == pixels.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, second)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("make", [make for make, _ in history._HISTORY])
def test_every_step_of_a_history_keeps_shape_and_type(
    make: Callable[[np.random.Generator], history.Step], photo: Callable[..., Any]
) -> None:
    pixels = photo(0, 50, 66)
    for seed in range(5):
        out = make(np.random.default_rng(seed))(pixels)
        assert out.shape == pixels.shape
        assert out.dtype == np.uint8


def test_history_may_be_left_as_it_is(photo: Callable[..., Any]) -> None:
    pixels = photo(0, 64, 64)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        assert np.array_equal(history.random_history(pixels, rng, untouched=1.0), pixels)


@pytest.mark.parametrize(
    ("process", "low", "high"),
    [(history.random_history, 0.3, 0.55), (history.random_finish, 0.2, 0.45)],
)
def test_a_part_of_the_pictures_goes_unprocessed(
    process: Callable[..., Any], low: float, high: float, photo: Callable[..., Any]
) -> None:
    pixels = photo(0, 32, 32)
    kept = [
        np.array_equal(process(pixels, np.random.default_rng(seed)), pixels) for seed in range(300)
    ]
    assert low < np.mean(kept) < high


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_a_copy_is_a_smaller_picture_of_the_same(seed: int) -> None:
    y, x = np.mgrid[:120, :200]
    pixels = np.stack([x, 2 * y, 255 - x], -1).astype(np.uint8)
    first, second = (history.random_copy(pixels, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(first, second)
    height, width = first.shape[:2]
    assert 0.44 < height / 120 < 0.96
    assert height / 120 == pytest.approx(width / 200, abs=0.01)
    back = cv2.resize(first, (200, 120)).astype(float)
    assert np.abs(back - pixels).mean() < 4


def changes(plan: history.Circulation, kind: type) -> int:
    return sum(isinstance(step, kind) for step in plan.steps)


class TestCirculation:
    @settings(max_examples=80, deadline=None)
    @given(
        seed=SEEDS, height=st.integers(40, 130), width=st.integers(40, 130), native=st.booleans()
    )
    def test_ends_at_the_shape_that_was_asked_for(
        self, seed: int, height: int, width: int, native: bool
    ) -> None:
        rng = np.random.default_rng(seed)
        whole = (150, 200) if native else None
        plan = history.circulate((height, width), rng, native=whole)
        assert whole is None or plan.canvas == whole
        canvas = rng.integers(0, 256, (*plan.canvas, 3), dtype=np.uint8)
        mask = np.zeros(plan.canvas, bool)
        mask[: plan.canvas[0] // 2] = True
        before = canvas.copy()
        pixels, marked = plan(canvas, mask, rng)
        assert pixels.shape == (height, width, 3)
        assert marked.shape == (height, width)
        assert pixels.dtype == np.uint8
        assert marked.dtype == bool
        assert pixels.flags.c_contiguous
        assert np.array_equal(canvas, before)

    def test_the_mask_follows_what_it_marks(self) -> None:
        """Of a white box on black and its mask, both end at the same place."""
        for seed in range(60):
            rng = np.random.default_rng(seed)
            plan = history.circulate((96, 120), rng, careful=True)
            canvas = np.zeros((*plan.canvas, 3), np.uint8)
            mask = np.zeros(plan.canvas, bool)
            height, width = plan.canvas
            mask[height // 3 : 2 * height // 3, width // 4 : width // 2] = True
            canvas[mask] = 255
            pixels, marked = plan(canvas, mask, rng)
            bright = pixels[..., 1] > 127
            assert (bright & marked).sum() > 0.9 * (bright | marked).sum()

    def test_a_third_is_resized_both_ways_and_mostly_compressed_after_that(self) -> None:
        plans = [history.circulate((384, 384), np.random.default_rng(s)) for s in range(600)]
        resized = [p for p in plans if changes(p, history._Resize)]
        assert 0.3 < len(resized) / len(plans) < 0.46
        factors = [
            step.target[0] / step.source[0]
            for plan in resized
            for step in plan.steps
            if isinstance(step, history._Resize)
        ]
        assert 0.49 < min(factors) < 0.6
        assert 2 < max(factors) < 3.05
        assert 0.35 < np.mean(np.array(factors) < 1) < 0.7
        last = [isinstance(p.steps[-1], Encoding) for p in resized]
        assert np.mean(last) > 0.6

    def test_compressions_come_none_to_thrice_with_quality_up_and_down(self) -> None:
        plans = [history.circulate((64, 64), np.random.default_rng(s)) for s in range(600)]
        counts = np.bincount([changes(p, Encoding) for p in plans], minlength=4) / len(plans)
        assert 0.1 < counts[0] < 0.25
        assert counts[1] > 0.4
        assert 0.15 < counts[2] < 0.35
        assert 0.02 < counts[3] < 0.15
        pairs = [[s.quality for s in p.steps if isinstance(s, Encoding)] for p in plans]
        rises = [q[-1] > q[0] for q in pairs if len(q) > 1 and q[-1] != q[0]]
        assert 0.3 < np.mean(rises) < 0.7

    def test_the_grid_moves_between_compressions(self) -> None:
        moved = whole = 0
        for seed in range(400):
            steps = history.circulate((64, 64), np.random.default_rng(seed)).steps
            saves = [i for i, step in enumerate(steps) if isinstance(step, Encoding)]
            if len(saves) < 2:
                continue
            between = [s for s in steps[saves[0] : saves[-1]] if isinstance(s, history._Cut)]
            moved += any(s.above % 8 or s.left % 8 for s in between)
            whole += not between
        assert moved > 20
        assert whole > 20

    def test_a_careful_hand_saves_well_and_resizes_seldom(self) -> None:
        seeds = map(np.random.default_rng, range(400))
        plans = [history.circulate((96, 96), rng, careful=True) for rng in seeds]
        saves = [s for p in plans for s in p.steps if isinstance(s, Encoding)]
        assert min(s.quality for s in saves) >= 70
        assert sum(changes(p, history._Resize) > 0 for p in plans) < 0.35 * len(plans)
