from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imlctl.forge import history

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SEEDS = st.integers(0, 2**32 - 1)
STEPS: dict[str, history.Step] = {
    "jpeg": partial(history.jpeg, quality=70),
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


class TestJpeg:
    def test_is_opencv_s_own_of_the_colours_in_its_order(self, photo: Callable[..., Any]) -> None:
        """Bit for bit: samples are the recipe, and must not change when they are made faster."""
        pixels = photo(3, 90, 70)[::-1]
        settings = [cv2.IMWRITE_JPEG_QUALITY, 77, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x221111]
        data = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), settings)[1]
        expected = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]  # type: ignore[index]
        found = history.jpeg(pixels, 77)
        assert np.array_equal(found, expected)
        assert found.flags.c_contiguous

    def test_keeps_colours_in_their_channels(self) -> None:
        red = np.zeros((32, 32, 3), np.uint8)
        red[..., 0] = 200
        out = history.jpeg(red, 95).astype(int)
        assert np.abs(out - red).max() < 6

    def test_lower_quality_costs_more(self, photo: Callable[..., Any]) -> None:
        pixels = photo(0, 64, 64).astype(int)
        errors = [
            np.abs(history.jpeg(pixels.astype(np.uint8), q).astype(int) - pixels).mean()
            for q in (98, 80, 40)
        ]
        assert 0 < errors[0] < errors[1] < errors[2]

    def test_works_on_the_grid_of_the_picture(self, photo: Callable[..., Any]) -> None:
        """Encoding again on the same grid changes little; on a shifted grid, more."""
        once = history.jpeg(photo(0, 72, 72), 60)
        same = np.abs(history.jpeg(once, 60).astype(int) - once).mean()
        inner = np.ascontiguousarray(once[4:, 4:])
        shifted = np.abs(history.jpeg(inner, 60).astype(int) - inner).mean()
        assert same < 0.5 * shifted

    def test_subsampling_costs_colour_detail(self) -> None:
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[:, ::2] = (200, 60, 60)
        pixels[:, 1::2] = (60, 60, 200)
        full, half = (
            np.abs(history.jpeg(pixels, 95, s).astype(int) - pixels).mean()
            for s in (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
        )
        assert half > 5 * full


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
    make: Callable[[history.Rng], history.Step], photo: Callable[..., Any]
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
