"""What happens to a photograph between sensor and screen: real encoders, real resamplers.

`random_history` makes the past of one source (different for donor and host, which is the evidence);
`random_finish` makes what the whole picture went through after the forgery (the same everywhere,
forged or not, so that it is no evidence at all).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Rng = np.random.Generator
Step = Callable[[Pixels], Pixels]

INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)
_ENLARGING = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
_SUBSAMPLINGS = (
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)

# OpenCV's codes by where red lies in a square of 2x2; it names the patterns by their second row.
_BAYER = (
    (cv2.COLOR_BayerBG2RGB, cv2.COLOR_BayerGB2RGB),
    (cv2.COLOR_BayerGR2RGB, cv2.COLOR_BayerRG2RGB),
)


def jpeg(
    pixels: Pixels, quality: int, subsampling: int = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
) -> Pixels:
    """Encode as baseline JPEG and decode again."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, subsampling]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), settings)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return cast("Pixels", cv2.cvtColor(cast("Pixels", decoded), cv2.COLOR_BGR2RGB))


def resize(pixels: Pixels, height: int, width: int, interpolation: int = cv2.INTER_CUBIC) -> Pixels:
    """Resample to (height, width)."""
    return cv2.resize(pixels, (width, height), interpolation=interpolation)  # type: ignore[return-value]


def reduced(pixels: Pixels, factor: float, rng: Rng) -> Pixels:
    """Shrink by `factor`, enlarge again: the size is kept, the detail is not."""
    height, width = pixels.shape[:2]
    small = resize(pixels, round(height / factor), round(width / factor), cv2.INTER_AREA)
    return resize(small, height, width, int(rng.choice(_ENLARGING)))


def noise(pixels: Pixels, sigma: float, rng: Rng, grain: float = 0.0) -> Pixels:
    """Add Gaussian noise of `sigma` grey levels, correlated over `grain` pixels."""
    field = rng.standard_normal(pixels.shape, np.float32)
    if grain > 0:
        field = cv2.GaussianBlur(field, (0, 0), grain)  # type: ignore[assignment]
        field /= max(float(field.std()), 1e-6)
    return np.clip(np.rint(pixels + sigma * field), 0, 255).astype(np.uint8)


def blur(pixels: Pixels, sigma: float) -> Pixels:
    """Gaussian blur; sigma in pixels."""
    return cv2.GaussianBlur(pixels, (0, 0), sigma)  # type: ignore[return-value]


def sharpen(pixels: Pixels, amount: float, sigma: float = 1.0) -> Pixels:
    """Unsharp mask."""
    return cv2.addWeighted(pixels, 1 + amount, cv2.GaussianBlur(pixels, (0, 0), sigma), -amount, 0)  # type: ignore[return-value]


def tone(pixels: Pixels, gamma: float, contrast: float, brightness: float) -> Pixels:
    """Tone curve: gamma, then contrast about the middle, then an offset in grey levels."""
    x = (np.arange(256) / 255.0) ** gamma * 255
    curve = np.clip(np.rint((x - 127.5) * contrast + 127.5 + brightness), 0, 255).astype(np.uint8)
    return cv2.LUT(pixels, curve)  # type: ignore[return-value]


def colour_cast(pixels: Pixels, gains: NDArray[np.float64]) -> Pixels:
    """Multiply the three colours, as a white balance does."""
    curves = np.clip(np.rint(np.arange(256)[:, None] * gains), 0, 255).astype(np.uint8)
    return cv2.LUT(pixels, curves[None])  # type: ignore[return-value]


def camera(pixels: Pixels, sigma: float, denoising: float, rng: Rng) -> Pixels:
    """Take the picture again with a colour filter array, as a phone's camera does.

    Each pixel keeps one colour, gets noise that grows with the light, and the other two colours are
    interpolated; what is denoised after that is left with blotches instead of grain.

    Args:
        pixels: (H, W, 3); even sides keep their last row and column out of interpolation.
        sigma: Noise at full light, in grey levels.
        denoising: Strength of the bilateral filter, in grey levels; 0 for none.
        rng: Draws the noise and the filter's phase.
    """
    down, across = rng.integers(2, size=2)
    array = pixels[..., 1].astype(np.float32)
    array[down::2, across::2] = pixels[down::2, across::2, 0]
    array[1 - down :: 2, 1 - across :: 2] = pixels[1 - down :: 2, 1 - across :: 2, 2]
    grain = rng.standard_normal(array.shape, np.float32)
    array += sigma * np.sqrt((array + 12) / 255) * grain
    raw = np.clip(np.rint(array), 0, 255).astype(np.uint8)
    taken = cv2.cvtColor(raw, _BAYER[int(down)][int(across)])
    if denoising > 0:
        taken = cv2.bilateralFilter(taken, 5, denoising, 1.6)
    return cast("Pixels", taken)


def _random_camera(rng: Rng) -> Step:
    sigma = float(np.exp(rng.uniform(np.log(2.0), np.log(12.0))))
    denoising = sigma * float(rng.choice((0.0, rng.uniform(1.0, 4.0))))
    sharpening = float(rng.choice((0.0, rng.uniform(0.3, 1.2))))
    radius = float(rng.uniform(0.7, 1.6))

    def step(pixels: Pixels) -> Pixels:
        taken = camera(pixels, sigma, denoising, rng)
        return sharpen(taken, sharpening, radius) if sharpening else taken

    return step


def _random_jpeg(rng: Rng, low: int, high: int = 100) -> Step:
    return partial(
        jpeg, quality=int(rng.integers(low, high + 1)), subsampling=int(rng.choice(_SUBSAMPLINGS))
    )


def _random_noise(rng: Rng) -> Step:
    sigma = float(np.exp(rng.uniform(np.log(0.6), np.log(7.0))))
    return partial(
        noise, sigma=sigma, rng=rng, grain=float(rng.choice((0.0, 0.0, rng.uniform(0.4, 0.9))))
    )


def _random_resample(rng: Rng) -> Step:
    """Up or down and back: leaves the resampling trace and keeps the size."""
    factor = float(np.exp(rng.uniform(np.log(0.45), np.log(1.7))))
    there, back = (int(rng.choice(INTERPOLATIONS)) for _ in range(2))

    def step(pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        small = resize(pixels, max(8, round(height * factor)), max(8, round(width * factor)), there)
        return resize(small, height, width, back)

    return step


def _random_tone(rng: Rng) -> Step:
    gamma, contrast = (float(np.exp(rng.normal(0, s))) for s in (0.15, 0.1))
    return partial(tone, gamma=gamma, contrast=contrast, brightness=float(rng.normal(0, 6)))


def _random_blur(rng: Rng) -> Step:
    return partial(blur, sigma=float(rng.uniform(0.35, 1.3)))


def _random_sharpen(rng: Rng) -> Step:
    return partial(sharpen, amount=float(rng.uniform(0.2, 1.2)), sigma=float(rng.uniform(0.6, 1.6)))


def _median(rng: Rng) -> Step:
    return partial(cv2.medianBlur, ksize=3)  # type: ignore[return-value]


def _bilateral(rng: Rng) -> Step:
    strength = float(rng.uniform(6, 25))
    return partial(cv2.bilateralFilter, d=5, sigmaColor=strength, sigmaSpace=2.0)  # type: ignore[return-value]


_HISTORY: tuple[tuple[Callable[[Rng], Step], float], ...] = (
    (_random_camera, 0.2),
    (_random_resample, 0.3),
    (_random_tone, 0.3),
    (_random_blur, 0.1),
    (_bilateral, 0.07),
    (_median, 0.04),
    (_random_sharpen, 0.15),
    (_random_noise, 0.25),
    (lambda rng: _random_jpeg(rng, 45), 0.45),
)


def random_history(pixels: Pixels, rng: Rng, untouched: float = 0.35) -> Pixels:
    """Process one source on its own; `untouched` is the chance that its own history is kept."""
    if rng.random() < untouched:
        return pixels
    for make, probability in _HISTORY:
        if rng.random() < probability:
            pixels = make(rng)(pixels)
    return pixels


def random_finish(pixels: Pixels, rng: Rng) -> Pixels:
    """Process the finished picture: often nothing or one JPEG, sometimes more. Keeps the size."""
    if rng.random() < 0.12:
        pixels = make_finish(rng)(pixels)
    fate = rng.random()
    if fate < 0.3:
        return pixels
    return _random_jpeg(rng, 50 if fate < 0.7 else 80)(pixels)


def random_copy(pixels: Pixels, rng: Rng) -> Pixels:
    """Reduce a picture to a half or more of its size and mostly save it again, as copies are."""
    factor = float(rng.uniform(0.45, 0.95))
    height, width = (max(8, round(side * factor)) for side in pixels.shape[:2])
    pixels = resize(pixels, height, width, int(rng.choice(INTERPOLATIONS)))
    return pixels if rng.random() < 0.15 else _random_jpeg(rng, 50, 95)(pixels)


def random_save(pixels: Pixels, rng: Rng) -> Pixels:
    """Save an edited photograph as an editor does: as JPEG of good quality, or without loss."""
    return pixels if rng.random() < 0.25 else _random_jpeg(rng, 75)(pixels)


def make_finish(rng: Rng) -> Step:
    """One of the rarer whole-picture steps."""
    makers = (_random_blur, _random_sharpen, _random_noise, _random_tone)
    return makers[rng.integers(len(makers))](rng)
