"""Histories of photographs between sensor and screen: real encoders, real resamplers.

`random_history` is the past of one source, different for donor and host, which is the evidence.
`Circulation` is what the whole picture goes through after the edit, which is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imlctl.forge.jpeg import Encoding, jpeg, random_encoding

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Shape = tuple[int, int]  # height, width
Rng = np.random.Generator
Step = Callable[[Pixels], Pixels]

INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)
# Pillow's filters widen where they shrink, as editors' and web services' do; OpenCV's do not.
_SMOOTH = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.HAMMING,
    Image.Resampling.BOX,
)
_ENLARGING = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
# OpenCV's codes by where red lies in a square of 2x2; it names the patterns by their second row.
_BAYER = (
    (cv2.COLOR_BayerBG2RGB, cv2.COLOR_BayerGB2RGB),
    (cv2.COLOR_BayerGR2RGB, cv2.COLOR_BayerRG2RGB),
)


def resize(pixels: Pixels, height: int, width: int, interpolation: int = cv2.INTER_CUBIC) -> Pixels:
    """Resample to (height, width)."""
    return cv2.resize(pixels, (width, height), interpolation=interpolation)  # type: ignore[return-value]


def resample(pixels: Pixels, height: int, width: int, rng: Rng) -> Pixels:
    """Resize with one of the resamplers that programs have; nearest neighbour now and then."""
    draw = rng.random()
    if draw < 0.5:
        filtered = _SMOOTH[rng.integers(len(_SMOOTH))]
        return np.asarray(Image.fromarray(pixels).resize((width, height), filtered))
    if draw < 0.53:
        return resize(pixels, height, width, cv2.INTER_NEAREST)
    return resize(pixels, height, width, int(rng.choice(INTERPOLATIONS)))


def reduced(pixels: Pixels, factor: float, rng: Rng) -> Pixels:
    """Shrink by `factor`, enlarge again: the size is kept, the detail is not."""
    height, width = pixels.shape[:2]
    small = resize(pixels, round(height / factor), round(width / factor), cv2.INTER_AREA)
    return resize(small, height, width, int(rng.choice(_ENLARGING)))


@cache
def _grain() -> NDArray[np.float32]:
    """Standard normal numbers to cut noise from: drawing them anew would be half of its cost."""
    return np.random.default_rng(0).standard_normal(1 << 21, np.float32)


def normal(shape: tuple[int, ...], rng: Rng) -> NDArray[np.float32]:
    """Standard normal noise of a shape, a piece of a long row of it at a random place."""
    count, grain = math.prod(shape), _grain()
    if count > len(grain):
        return rng.standard_normal(shape, np.float32)
    start = int(rng.integers(len(grain) - count + 1))
    return grain[start : start + count].reshape(shape) * np.float32(rng.choice((-1, 1)))


def noise(pixels: Pixels, sigma: float, rng: Rng, grain: float = 0.0) -> Pixels:
    """Add Gaussian noise of `sigma` grey levels, correlated over `grain` pixels."""
    field = normal(pixels.shape, rng)
    if grain > 0:
        field = cv2.GaussianBlur(field, (0, 0), grain)  # type: ignore[assignment]
        field /= max(float(field.std()), 1e-6)
    field *= sigma
    field += pixels
    np.rint(field, out=field)
    return np.clip(field, 0, 255, out=field).astype(np.uint8)


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
    """Take the picture (H, W, 3) again with a colour filter array, as a phone's camera does.

    Noise is `sigma` grey levels at full light; `denoising` is the bilateral filter's strength in
    grey levels, 0 for none, and leaves blotches instead of grain.
    """
    down, across = rng.integers(2, size=2)
    array = pixels[..., 1].astype(np.float32)
    array[down::2, across::2] = pixels[down::2, across::2, 0]
    array[1 - down :: 2, 1 - across :: 2] = pixels[1 - down :: 2, 1 - across :: 2, 2]
    grain = normal(array.shape, rng)
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


def _random_jpeg(rng: Rng) -> Step:
    # Seven of eight times off the canvas's grid: whence the pixels come, blocks began elsewhere.
    offset = (int(rng.integers(8)), int(rng.integers(8))) if rng.random() < 0.88 else (0, 0)
    return partial(jpeg, encoding=random_encoding(rng, 45, 98), offset=offset)


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
    (_random_jpeg, 0.45),
)


def random_history(pixels: Pixels, rng: Rng, untouched: float = 0.35) -> Pixels:
    """Process one source on its own; `untouched` is the chance that its own history is kept."""
    if rng.random() < untouched:
        return pixels
    for make, probability in _HISTORY:
        if rng.random() < probability:
            pixels = make(rng)(pixels)
    return pixels


def make_finish(rng: Rng) -> Step:
    """One of the rarer whole-picture steps."""
    makers = (_random_blur, _random_sharpen, _random_noise, _random_tone)
    return makers[rng.integers(len(makers))](rng)


def random_finish(pixels: Pixels, rng: Rng) -> Pixels:
    """Process a finished picture: often nothing or one JPEG, sometimes more. Keeps the size."""
    if rng.random() < 0.12:
        pixels = make_finish(rng)(pixels)
    fate = rng.random()
    if fate < 0.3:
        return pixels
    return jpeg(pixels, random_encoding(rng, 50 if fate < 0.7 else 80))


def random_copy(pixels: Pixels, rng: Rng) -> Pixels:
    """Reduce a picture to a half or more of its size and mostly save it again, as copies are."""
    factor = float(rng.uniform(0.45, 0.95))
    height, width = (max(8, round(side * factor)) for side in pixels.shape[:2])
    pixels = resample(pixels, height, width, rng)
    return pixels if rng.random() < 0.15 else jpeg(pixels, random_encoding(rng, 50, 95))


@dataclass(frozen=True, slots=True)
class _Cut:
    """Rows and columns that are cut off: above, on the left, below, on the right."""

    margins: tuple[int, int, int, int]

    def before(self, shape: Shape) -> Shape:
        above, left, below, right = self.margins
        return shape[0] + above + below, shape[1] + left + right

    def __call__(self, pixels: Any) -> Any:
        above, left, below, right = self.margins
        return pixels[above : pixels.shape[0] - below, left : pixels.shape[1] - right]


@dataclass(frozen=True, slots=True)
class _Resize:
    """From one shape to another."""

    source: Shape
    target: Shape


_Change = _Cut | _Resize | Encoding | Step


@dataclass(frozen=True, slots=True)
class Circulation:
    """Steps that a whole picture goes through after the edit, from its canvas's shape on."""

    canvas: Shape
    steps: tuple[_Change, ...]

    def __call__(self, pixels: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
        """Let a picture and its mask go through it; what is less than half marked is not."""
        for step in self.steps:
            if isinstance(step, Encoding):
                pixels = jpeg(np.ascontiguousarray(pixels), step)
            elif isinstance(step, _Cut):
                pixels, mask = step(pixels), step(mask)
            elif isinstance(step, _Resize):
                height, width = step.target
                pixels = resample(np.ascontiguousarray(pixels), height, width, rng)
                if mask.any():
                    way = cv2.INTER_AREA if height < step.source[0] else cv2.INTER_LINEAR
                    marked = np.ascontiguousarray(mask, np.float32)
                    mask = cv2.resize(marked, (width, height), interpolation=way) >= 0.5
                else:
                    mask = np.zeros((height, width), bool)
            else:
                pixels = step(np.ascontiguousarray(pixels))
        return np.ascontiguousarray(pixels), np.ascontiguousarray(mask)


def circulate(
    shape: Shape,
    rng: Rng,
    *,
    native: Shape | None = None,
    careful: bool = False,
    largest: float = 2.0,
) -> Circulation:
    """Draw what happens to a picture until it has `shape`.

    A third is resized by 0.5 to 3, mostly before the last compression; most are compressed once,
    many twice, with a grid that may have moved and a quality that may rise or fall; a fifth are
    not compressed again, as a PNG of a JPEG.

    Args:
        shape: Height and width of the result.
        rng: Draws.
        native: Shape of a whole picture, which is reduced to what of it `shape` holds.
        careful: As an editor saves his work, at good quality, and less often resized.
        largest: Most that the canvas may exceed the result by.
    """
    count = int(rng.choice(4, p=(0.25, 0.55, 0.2, 0.0) if careful else (0.2, 0.5, 0.24, 0.06)))
    resized = native is not None and native != shape
    factor = 1.0
    if native is None and rng.random() < (0.25 if careful else 0.38):
        resized = True
        factor = _factor(rng, largest)
    if resized and count == 0 and rng.random() < 0.75:
        count = 1
    where = -1  # the gap that it is resized in: 0 before the first compression
    if resized:
        last = max(0, count - 1)
        where = last if rng.random() < 0.8 else int(rng.integers(count + 1))
    saves = [random_encoding(rng, 70 if careful else 50) for _ in range(count)]
    steps: list[_Change] = []  # from the last to the first, since the last shape is known
    for gap in range(count, -1, -1):
        if gap < count:
            steps.append(saves[gap])
        moved = rng.random() < (0.5 if 0 < gap < count else 0.06)
        if moved and native is None:
            cut = _Cut(tuple(int(n) for n in rng.integers(0, 16, 4)))  # type: ignore[arg-type]
            steps.append(cut)
            shape = cut.before(shape)
        if gap == where:
            target = shape if native is None else _whole(native, shape)
            if target != shape:
                spare = [b - a for a, b in zip(shape, target, strict=True)]
                above, left = (int(rng.integers(n + 1)) for n in spare)
                steps.append(_Cut((above, left, spare[0] - above, spare[1] - left)))
            source = native or (
                max(32, round(target[0] / factor)),
                max(32, round(target[1] / factor)),
            )
            steps.append(_Resize(source, target))
            shape = source
    if not careful and rng.random() < 0.1:
        steps.append(make_finish(rng))
    return Circulation(shape, tuple(reversed(steps)))


def _factor(rng: Rng, largest: float) -> float:
    """Output over input: reduced half of the time, enlarged otherwise; often by a round figure."""
    if rng.random() < 0.25:
        factor = float(rng.choice((0.5, 2 / 3, 0.75, 1.25, 1.5, 2.0)))
    elif rng.random() < 0.55:
        factor = float(np.exp(rng.uniform(np.log(0.5), 0)))
    else:
        factor = float(np.exp(rng.uniform(0, np.log(3))))
    return max(factor, 1 / largest)


def _whole(native: Shape, shape: Shape) -> Shape:
    """The shape of `native`'s aspect that covers `shape`, as closely as whole pixels allow."""
    scale = max(s / n for s, n in zip(shape, native, strict=True))
    height, width = (max(s, round(n * scale)) for s, n in zip(shape, native, strict=True))
    return height, width
