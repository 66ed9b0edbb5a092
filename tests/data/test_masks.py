from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imlctl.data.masks import is_plain, mask_png, read_mask
from imlctl.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imlctl.data.masks import Rule

RED, GREEN, BRIGHT = (200, 0, 0), (0, 200, 0), (120, 255, 120)


@pytest.mark.parametrize(
    ("rule", "white", "black"),
    [
        ("white", 255, 0),
        ("white", 1, 0),
        ("white", (255, 255, 255), (0, 0, 0)),
        ("white", 200, 90),
        ("any", 3, 0),
        ("any", 255, 0),
        ("black", 0, 255),
        ("black", (0, 0, 0), (255, 255, 255)),
        ("green", GREEN, RED),
        ("green", BRIGHT, RED),
    ],
)
def test_rules(
    rule: Rule, white: Any, black: Any, mask: Callable[..., Path], expected: Callable[..., Any]
) -> None:
    found = read_mask(mask("m.png", "x", white=white, black=black), rule)
    assert found.dtype == bool
    assert np.array_equal(found, expected("x"))


def test_arrays(mask: Callable[..., Path], expected: Callable[..., Any]) -> None:
    assert np.array_equal(read_mask(mask("m.npz", "x")), expected("x"))


@pytest.mark.parametrize("mode", ["1", "P", "L", "LA", "RGBA", "I;16"])
def test_modes(
    mode: str, tmp_path: Path, mask: Callable[..., Path], expected: Callable[..., Any]
) -> None:
    path = tmp_path / "again.png"
    with Image.open(mask("m.png", "x")) as image:
        if mode == "I;16":
            Image.fromarray(np.asarray(image).astype(np.uint16) * 257).save(path)
        else:
            image.convert(mode).save(path)
    assert np.array_equal(read_mask(path), expected("x"))


@pytest.mark.parametrize(
    ("values", "colours"),
    [
        (np.uint8([0, 1]), None),
        (np.uint8([0, 255]), None),
        (np.uint16([0, 1]), None),
        (np.uint16([0, 255]), None),
        (np.uint16([0, 300]), None),
        (np.uint16([0, 65535]), None),
        (np.uint8([0, 1]), (0, 0, 0, 255, 255, 255)),
        (np.uint8([0, 1]), (0, 0, 0, 128, 0, 0)),  # dark red, as label tools draw the first class
        (np.uint8([1, 0]), (0, 90, 0, 0, 0, 0)),
        (np.uint8([0, 1]), (40, 40, 40, 200, 200, 200)),
    ],
)
def test_the_two_values_of_a_mask_tell_themselves(
    values: Any, colours: tuple[int, ...] | None, tmp_path: Path, expected: Callable[..., Any]
) -> None:
    image = Image.fromarray(values[expected("x").astype(int)])
    if colours:
        image.putpalette(colours)
    image.save(tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as saved:
        assert saved.mode == ("P" if colours else {1: "L", 2: "I;16"}[values.itemsize])
    assert np.array_equal(read_mask(tmp_path / "m.png"), expected("x"))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_of_three_colours_all_but_black_is_marked(suffix: str, tmp_path: Path) -> None:
    values = np.zeros((48, 48, 3), np.uint8)
    values[:16], values[16:32] = (255, 0, 0), (255, 255, 255)
    path = tmp_path / f"m.{suffix}"
    Image.fromarray(values).save(path, quality=95, subsampling=0)
    marked = read_mask(path)
    assert marked[:32].all()
    assert not marked[32:].any()


def test_compressed_masks_keep_their_area(
    mask: Callable[..., Path], expected: Callable[..., Any]
) -> None:
    found = read_mask(mask("m.jpg", "x", quality=60))
    assert np.count_nonzero(found != expected("x")) <= 12


@pytest.mark.parametrize("name", ["m.png", "m.npz"])
def test_what_is_no_mask(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for content in (b"", b"no mask", b"PK\x03\x04 torn"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is not a readable mask") as caught:
            read_mask(path)
        assert name in str(caught.value)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="is not a readable mask"):
        read_mask(path)


def test_arrays_of_other_shapes(tmp_path: Path) -> None:
    for number, arrays in enumerate(((np.ones((2, 2)), np.ones((2, 2))), (np.ones((2, 2, 2)),))):
        path = tmp_path / f"{number}.npz"
        np.savez(path, *arrays)
        with pytest.raises(InputError, match="one array of two dimensions"):
            read_mask(path)


def test_plain_masks(mask: Callable[..., Path], expected: Callable[..., Any]) -> None:
    box = expected("x")
    assert is_plain(mask("a.png", "x"), box)
    assert not is_plain(mask("b.png", "x", white=1), box)
    assert not is_plain(mask("c.png", "x", white=0, black=255), box)
    assert not is_plain(mask("d.npz", "x"), box)
    assert not is_plain(mask("a.png", "x"), box[:-1])


def test_encoding(expected: Callable[..., Any]) -> None:
    with Image.open(io.BytesIO(mask_png(expected("x")))) as image:
        assert image.mode == "1"
        assert np.array_equal(np.asarray(image), expected("x"))
