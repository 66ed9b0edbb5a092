from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imlctl.evaluate.robustness import NOTES, Degradation, eight_bit, grid, resized

KEY = b"picture"


def picture(height: int = 96, width: int = 128) -> Any:
    rng = np.random.default_rng(0)
    return rng.integers(90, 160, (height, width, 3), dtype=np.uint8)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def named(kind: str, level: str) -> Degradation:
    (found,) = [d for d in grid() if (d.kind, d.level) == (kind, level)]
    return found


def test_the_grid_is_the_papers_and_more() -> None:
    levels: dict[str, list[str]] = {}
    for each in grid():
        levels.setdefault(each.kind, []).append(each.level)
    assert levels == {
        "clean": ["-"],
        "JPEG": ["100", "90", "80", "70", "60", "50"],
        "Gaussian blur": ["3", "7", "11", "15", "19", "23"],
        "noise, variance": ["3", "7", "11", "15", "19", "23"],
        "noise, std": ["3", "7", "11", "15", "19", "23"],
        "resize": ["1.5", "0.75", "0.5"],
        "social network": ["1080, 75"],
    }
    assert any("VARIANCE" in note and "STANDARD DEVIATION" in note for note in NOTES)


@pytest.mark.parametrize(
    ("kind", "level", "deviation"),
    [
        ("noise, variance", "3", 3**0.5),
        ("noise, variance", "23", 23**0.5),
        ("noise, std", "11", 11),
    ],
)
def test_noise_is_what_it_says(kind: str, level: str, deviation: float) -> None:
    pixels = picture(300, 300)
    noisy = np.asarray(opened(named(kind, level)(pixels, KEY)))
    change = noisy.astype(float) - pixels
    # Rounding to whole grey levels adds a twelfth.
    assert change.std() == pytest.approx((deviation**2 + 1 / 12) ** 0.5, rel=0.01)
    assert abs(change.mean()) < 0.1


def test_noise_depends_on_picture_and_level_alone() -> None:
    one = named("noise, std", "3")
    same, again = (one(picture(), KEY) for _ in range(2))
    assert same == again != one(picture(), b"other")


@pytest.mark.parametrize("quality", [50, 100])
def test_jpeg(quality: int) -> None:
    data = named("JPEG", str(quality))(picture(), KEY)
    expected = io.BytesIO()
    Image.fromarray(picture()).save(expected, "JPEG", quality=quality, subsampling="4:2:0")
    assert data == expected.getvalue()


def test_blur_smooths_more_with_a_larger_kernel() -> None:
    spread = [
        np.asarray(opened(d(picture(), KEY))).std() for d in grid() if d.kind == "Gaussian blur"
    ]
    assert spread == sorted(spread, reverse=True)
    # The kernel's sigma, by its effect on white noise: std / (2 sigma sqrt(pi)).
    sigma = 0.3 * ((7 - 1) * 0.5 - 1) + 0.8
    assert spread[1] == pytest.approx(picture().std() / (2 * sigma * np.pi**0.5), rel=0.1)


@pytest.mark.parametrize(
    ("level", "size"), [("1.5", (192, 144)), ("0.75", (96, 72)), ("0.5", (64, 48))]
)
def test_resize(level: str, size: tuple[int, int]) -> None:
    assert opened(named("resize", level)(picture(), KEY)).size == size


@pytest.mark.parametrize(("width", "size"), [(2160, (1080, 48)), (200, (200, 96))])
def test_social_networks_shrink_and_compress(width: int, size: tuple[int, int]) -> None:
    photo = opened(named("social network", "1080, 75")(picture(96, width), KEY))
    assert (photo.size, photo.format) == (size, "JPEG")


def test_a_mask_follows_its_picture() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:40] = True
    assert resized(mask, (40, 60)) is mask
    half = resized(mask, (20, 30))
    assert half.shape == (20, 30)
    assert half[5:15, 10:20].all()
    assert half.sum() == 100


def test_deep_pixels_become_eight_bit() -> None:
    assert eight_bit(np.uint16([[65535, 256, 255]])).tolist() == [[255, 1, 0]]
