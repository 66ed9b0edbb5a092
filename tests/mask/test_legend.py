import numpy as np
import pytest

from imlctl.mask import render as legend

LINES = ("manipulated: 3.2 % of pixels at p >= 0.50", "a smaller line")
COLOURS = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)


def ink(strip):
    """Return where the strip differs from its ground, below the dividing line."""
    ground = strip[-1, -1]
    return (np.abs(strip.astype(int) - ground).sum(2) > 60) & (
        np.arange(strip.shape[0])[:, None] > strip.shape[0] // 20
    )


@pytest.mark.parametrize(("height", "width"), [(64, 64), (480, 640), (3000, 2000), (100, 6000)])
def test_text_grows_with_the_picture_and_leaves_room(height, width):
    size = legend.text_size(height, width)
    assert 15 <= size <= max(width, 400) / 26
    assert legend.text_size(2 * height, 2 * width) >= size


@pytest.mark.parametrize("width", [64, 500, 3000])
@pytest.mark.parametrize("draw", ["key", "scale"])
def test_the_strip_is_as_wide_as_the_picture_and_keeps_its_words_inside(width, draw):
    size = legend.text_size(width, width)
    if draw == "key":
        sample = np.full((2 * size, 2 * size, 3), 200, np.uint8)
        strip = legend.key_strip(width, size, LINES, sample)
    else:
        strip = legend.scale_strip(width, size, LINES, COLOURS, 0.5)
    assert strip.shape[1] == max(width, 400)
    drawn = ink(strip)
    assert drawn.any()
    margin = size // 2
    assert not drawn[:, :margin].any()
    assert not drawn[:, -margin:].any()
    assert not drawn[-margin:].any()


def test_a_line_too_long_for_the_strip_is_made_smaller():
    strip = legend.key_strip(400, 15, ("many words " * 30,), None)
    assert ink(strip).any()
    assert not ink(strip)[:, -7:].any()


def test_the_sample_is_shown_pixel_for_pixel():
    sample = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    strip = legend.key_strip(500, 15, LINES, sample)
    windows = np.lib.stride_tricks.sliding_window_view(strip, sample.shape)
    assert (windows == sample).all(axis=(3, 4, 5)).any()


@pytest.mark.parametrize("threshold", [0.001, 0.25, 0.5, 0.999])
def test_the_threshold_is_marked_at_its_place(threshold):
    width, size = 1200, legend.text_size(800, 1200)
    lines = ("a headline",)
    strip = legend.scale_strip(width, size, lines, COLOURS, threshold).astype(int)
    bare = legend.scale_strip(width, size, lines, COLOURS, 0.5 if threshold != 0.5 else 0.25)
    rows = _bar_rows(bare, size)
    changed = np.abs(strip - bare)[rows].sum((0, 2))
    left, length = 1.5 * size, min(width - 3 * size, 30 * size)
    near = np.arange(width)[changed > 0]
    assert np.abs(near - (left + threshold * length)).min() < 0.1 * size


def _bar_rows(strip, size):
    """Return the rows whose last coloured pixel is the top of the grey ramp."""
    inside = round(1.5 * size + 0.97 * min(strip.shape[1] - 3 * size, 30 * size))
    bright = np.flatnonzero((strip[:, inside] > 235).all(1))
    assert size * 0.8 < len(bright) < size * 1.2
    return bright


def test_a_wide_strip_is_stacked_under_a_narrow_picture():
    picture = np.full((50, 64, 3), 9, np.uint8)
    strip = np.full((20, 400, 3), 77, np.uint8)
    canvas = legend.stack(picture, strip)
    assert canvas.shape == (70, 400, 3)
    assert (canvas[:50, 168:232] == 9).all()
    assert (canvas[50:] == 77).all()
    assert not (canvas[:50, :168] == 9).any()


def test_numbers_are_said_with_the_digits_they_need():
    assert [legend.number(value) for value in (0.5, 0.35, 0.125)] == ["0.50", "0.35", "0.125"]
