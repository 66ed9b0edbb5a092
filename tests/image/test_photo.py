from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from imlctl.errors import TooLargeError
from imlctl.image.photo import FormatFacts, Photo, check_size, pixels_as_float

FACTS = FormatFacts(format="PNG", width=3, height=2, mode="RGB", bit_depth=8)


@pytest.mark.parametrize(
    "changes",
    [
        *({"width": 0}, {"height": -1}, {"bit_depth": 0}, {"frames": 0}),
        *({"orientation": 0}, {"orientation": 9}),
    ],
)
def test_impossible_facts_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(FACTS, **changes)


def test_notes_are_neither_repeated_nor_endless() -> None:
    facts = replace(FACTS, notes=("b", "a", "b", *map(str, range(100))))
    assert facts.notes[:3] == ("b", "a", "0")
    assert len(facts.notes) == 20


def test_pixels_must_fit_the_facts_and_cannot_be_changed() -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    photo = Photo(pixels=pixels, facts=FACTS, sha256="0" * 64, source="a")
    with pytest.raises(ValueError, match="read-only"):
        photo.pixels[0, 0, 0] = 1
    for wrong in (np.zeros((3, 2, 3), np.uint8), np.zeros((2, 3, 3), np.float32)):
        with pytest.raises(ValueError, match="pixels must be"):
            Photo(pixels=wrong, facts=FACTS, sha256="0" * 64, source="a")
    with pytest.raises(ValueError, match="sha256"):
        Photo(pixels=pixels, facts=FACTS, sha256="0", source="a")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_float_scale_is_that_of_the_type(dtype: Any) -> None:
    top = np.iinfo(dtype).max
    scaled = pixels_as_float(np.array([0, 1, top], dtype))
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [0.0, np.float32(1) / np.float32(top), 1.0]


def test_size_limit_is_inclusive() -> None:
    check_size(10, 10, 100)
    with pytest.raises(TooLargeError, match="101 x 1"):
        check_size(101, 1, 100)


def test_a_strip_counts_as_what_it_is_widened_to() -> None:
    check_size(60_000, 1, 60_000)
    for width, height in ((70_000, 1), (1, 70_000), (70_000, 63)):
        with pytest.raises(TooLargeError, match="once no side is under 64"):
            check_size(width, height, 4_410_000)
    check_size(70_000, 1, 64 * 70_000)
    check_size(70_000, 63, 64 * 70_000)
