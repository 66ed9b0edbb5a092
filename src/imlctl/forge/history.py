"""Histories of photographs between sensor and screen: real encoders, real resamplers.

`random_history` is the past of one source, different for donor and host, which is the evidence.
`Circulation` is what the whole picture goes through after the edit, which is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imlctl.forge import Mask, Pixels, Rng, Shape
from imlctl.forge.jpeg import Encoding, jpeg, random_encoding

Step = Callable[[Pixels], Pixels]

INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)
# Pillow's filters widen where they shrink, as editors' and web services' do; OpenCV's do not.
_SMOOTH = tuple(
    Image.Resampling[name]
    for name in ("BILINEAR", "BICUBIC", "BICUBIC", "LANCZOS", "HAMMING", "BOX")
)
_ENLARGING = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
# OpenCV's codes by where red lies in a square of 2x2; it names the patterns by their second row.
_BAYER = (
    (cv2.COLOR_BayerBG2RGB, cv2.COLOR_BayerGB2RGB),
    (cv2.COLOR_BayerGR2RGB, cv2.COLOR_BayerRG2RGB),
)


def resize(pixels: Pixels, height: int, width: int, interpolation: int = cv2.INTER_CUBIC) -> Pixels:
    """Resample to (height, width)."""
    return cast("Pixels", cv2.resize(pixels, (width, height), interpolation=interpolation))


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
    return _there_and_back(pixels, 1 / factor, cv2.INTER_AREA, int(rng.choice(_ENLARGING)))


def _there_and_back(pixels: Pixels, factor: float, there: int, back: int) -> Pixels:
    height, width = pixels.shape[:2]
    small = resize(pixels, max(8, round(height * factor)), max(8, round(width * factor)), there)
    return resize(small, height, width, back)


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
        field = cast("NDArray[np.float32]", cv2.GaussianBlur(field, (0, 0), grain))
        field /= max(float(field.std()), 1e-6)
    field *= sigma
    field += pixels
    np.rint(field, out=field)
    return np.clip(field, 0, 255, out=field).astype(np.uint8)


def blur(pixels: Pixels, sigma: float) -> Pixels:
    """Gaussian blur; sigma in pixels."""
    return cast("Pixels", cv2.GaussianBlur(pixels, (0, 0), sigma))


def sharpen(pixels: Pixels, amount: float, sigma: float = 1.0) -> Pixels:
    """Unsharp mask."""
    return cast("Pixels", cv2.addWeighted(pixels, 1 + amount, blur(pixels, sigma), -amount, 0))


def tone(pixels: Pixels, gamma: float, contrast: float = 1.0, brightness: float = 0.0) -> Pixels:
    """Tone curve: gamma, then contrast about the middle, then an offset in grey levels."""
    x = (np.arange(256) / 255.0) ** gamma * 255
    return curves(pixels, (x - 127.5) * contrast + 127.5 + brightness)


def colour_cast(pixels: Pixels, gains: NDArray[np.float64]) -> Pixels:
    """Multiply the three colours, as a white balance does."""
    return curves(pixels, np.arange(256)[:, None] * gains)


def curves(pixels: Pixels, levels: NDArray[np.float64]) -> Pixels:
    """Give each grey level, or each of a colour's, that of a curve (256,) or (256, 3)."""
    return cast("Pixels", cv2.LUT(pixels, np.clip(np.rint(levels), 0, 255).astype(np.uint8)[None]))


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


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _random_camera(rng: Rng) -> Step:
    sigma = _log_uniform(rng, 2.0, 12.0)
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
    sigma = _log_uniform(rng, 0.6, 7.0)
    grain = float(rng.choice((0.0, 0.0, rng.uniform(0.4, 0.9))))
    return partial(noise, sigma=sigma, rng=rng, grain=grain)


def _random_resample(rng: Rng) -> Step:
    """Up or down and back: leaves the resampling trace and keeps the size."""
    factor = _log_uniform(rng, 0.45, 1.7)
    there, back = (int(rng.choice(INTERPOLATIONS)) for _ in range(2))
    return partial(_there_and_back, factor=factor, there=there, back=back)


def _random_tone(rng: Rng) -> Step:
    gamma, contrast = (float(np.exp(rng.normal(0, s))) for s in (0.15, 0.1))
    return partial(tone, gamma=gamma, contrast=contrast, brightness=float(rng.normal(0, 6)))


def _random_blur(rng: Rng) -> Step:
    return partial(blur, sigma=float(rng.uniform(0.35, 1.3)))


def _random_sharpen(rng: Rng) -> Step:
    return partial(sharpen, amount=float(rng.uniform(0.2, 1.2)), sigma=float(rng.uniform(0.6, 1.6)))


def _median(_: Rng) -> Step:
    return lambda pixels: cast("Pixels", cv2.medianBlur(pixels, 3))


def _random_denoising(rng: Rng) -> Step:
    strength = float(rng.uniform(6, 25))
    return lambda pixels: cast("Pixels", cv2.bilateralFilter(pixels, 5, strength, 2.0))


_HISTORY = (
    (_random_camera, 0.2),
    (_random_resample, 0.3),
    (_random_tone, 0.3),
    (_random_blur, 0.1),
    (_random_denoising, 0.07),
    (_median, 0.04),
    (_random_sharpen, 0.15),
    (_random_noise, 0.25),
    (_random_jpeg, 0.45),
)
_FINISHES = (_random_blur, _random_sharpen, _random_noise, _random_tone)


def random_history(pixels: Pixels, rng: Rng, untouched: float = 0.35) -> Pixels:
    """Process one source on its own; `untouched` is the chance that its own history is kept."""
    if rng.random() < untouched:
        return pixels
    for make, probability in _HISTORY:
        if rng.random() < probability:
            pixels = make(rng)(pixels)
    return pixels


def _finish(rng: Rng) -> Step:
    """One of the rarer whole-picture steps."""
    return _FINISHES[rng.integers(len(_FINISHES))](rng)


def random_finish(pixels: Pixels, rng: Rng) -> Pixels:
    """Process a finished picture: often nothing or one JPEG, sometimes more. Keeps the size."""
    if rng.random() < 0.12:
        pixels = _finish(rng)(pixels)
    fate = rng.random()
    return pixels if fate < 0.3 else jpeg(pixels, random_encoding(rng, 50 if fate < 0.7 else 80))


def random_copy(pixels: Pixels, rng: Rng) -> Pixels:
    """Reduce a picture to a half or more of its size and mostly save it again, as copies are."""
    factor = float(rng.uniform(0.45, 0.95))
    height, width = (max(8, round(side * factor)) for side in pixels.shape[:2])
    pixels = resample(pixels, height, width, rng)
    return pixels if rng.random() < 0.15 else jpeg(pixels, random_encoding(rng, 50, 95))


class _Cut(NamedTuple):
    """Rows and columns that are cut off."""

    above: int
    left: int
    below: int
    right: int


class _Resize(NamedTuple):
    source: Shape
    target: Shape


@dataclass(frozen=True, slots=True)
class Circulation:
    """Steps that a whole picture goes through after the edit, from its canvas's shape on."""

    canvas: Shape
    steps: tuple[_Cut | _Resize | Encoding | Step, ...]

    def __call__(self, pixels: Pixels, mask: Mask, rng: Rng) -> tuple[Pixels, Mask]:
        """Let a picture and its mask go through it; what is less than half marked is not."""
        for step in self.steps:
            pixels = np.ascontiguousarray(pixels)
            if isinstance(step, Encoding):
                pixels = jpeg(pixels, step)
            elif isinstance(step, _Cut):
                height, width = mask.shape
                kept = np.s_[step.above : height - step.below, step.left : width - step.right]
                pixels, mask = pixels[kept], mask[kept]
            elif isinstance(step, _Resize):
                height, width = step.target
                pixels = resample(pixels, height, width, rng)
                if mask.any():
                    way = cv2.INTER_AREA if height < step.source[0] else cv2.INTER_LINEAR
                    marked = np.ascontiguousarray(mask, np.float32)
                    mask = cv2.resize(marked, (width, height), interpolation=way) >= 0.5
                else:
                    mask = np.zeros((height, width), bool)
            else:
                pixels = step(pixels)
        return np.ascontiguousarray(pixels), np.ascontiguousarray(mask)


def circulate(
    shape: Shape,
    rng: Rng,
    *,
    native: Shape | None = None,  # of a whole picture, reduced to what of it `shape` holds
    careful: bool = False,  # as an editor saves his work, at good quality, less often resized
    largest: float = 2.0,  # most that the canvas may exceed the result by
) -> Circulation:
    """Draw what happens to a picture until it has `shape`, height and width.

    A third is resized by 0.5 to 3, mostly before the last compression; most are compressed once,
    many twice, with a grid that may have moved and a quality that may rise or fall; a fifth are
    not compressed again, as a PNG of a JPEG.
    """
    count = int(rng.choice(4, p=(0.25, 0.55, 0.2, 0.0) if careful else (0.2, 0.5, 0.24, 0.06)))
    resized = native is not None and native != shape
    factor = 1.0
    if native is None and rng.random() < (0.25 if careful else 0.38):
        resized, factor = True, _factor(rng, largest)
    if resized and count == 0 and rng.random() < 0.75:
        count = 1
    where = -1  # the gap that it is resized in: 0 before the first compression
    if resized:
        where = max(0, count - 1) if rng.random() < 0.8 else int(rng.integers(count + 1))
    saves = [random_encoding(rng, 70 if careful else 50) for _ in range(count)]
    steps: list[_Cut | _Resize | Encoding | Step] = []  # last to first, since `shape` is the last

    def cut(above: int, left: int, below: int, right: int) -> Shape:
        steps.append(_Cut(above, left, below, right))
        return shape[0] + above + below, shape[1] + left + right

    for gap in range(count, -1, -1):
        if gap < count:
            steps.append(saves[gap])
        moved = rng.random() < (0.5 if 0 < gap < count else 0.06)
        if moved and native is None:
            shape = cut(*map(int, rng.integers(0, 16, 4)))
        if gap == where:
            height, width = native or (max(32, round(n / factor)) for n in shape)
            if native is not None:
                down, across = (a - b for a, b in zip(_whole(native, shape), shape, strict=True))
                if down or across:
                    above, left = (int(rng.integers(n + 1)) for n in (down, across))
                    shape = cut(above, left, down - above, across - left)
            steps.append(_Resize((height, width), shape))
            shape = height, width
    if not careful and rng.random() < 0.1:
        steps.append(_finish(rng))
    return Circulation(shape, tuple(reversed(steps)))


def _factor(rng: Rng, largest: float) -> float:
    """Output over input: reduced half of the time, enlarged otherwise; often by a round figure."""
    if rng.random() < 0.25:
        factor = float(rng.choice((0.5, 2 / 3, 0.75, 1.25, 1.5, 2.0)))
    elif rng.random() < 0.55:
        factor = _log_uniform(rng, 0.5, 1)
    else:
        factor = _log_uniform(rng, 1, 3)
    return max(factor, 1 / largest)


def _whole(native: Shape, shape: Shape) -> Shape:
    """The shape of `native`'s aspect that covers `shape`, as closely as whole pixels allow."""
    scale = max(s / n for s, n in zip(shape, native, strict=True))
    height, width = (max(s, round(n * scale)) for s, n in zip(shape, native, strict=True))
    return height, width
