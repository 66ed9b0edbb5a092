import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from imlctl.errors import NumericalError, UsageError
from imlctl.mask import render
from imlctl.mask.decide import Rule, decide
from imlctl.mask.render import (
    binary_png,
    captioned_png,
    heatmap_png,
    overlay_png,
    percent,
    soft_png,
    veiled,
)


def decided(probability):
    """Nothing was found, so what reaches 0.5 is marked."""
    return decide(probability, 0.0, Rule())


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.format == "PNG"
    return image


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blob(height, width, value=0.9):
    probability = np.zeros((height, width), np.float32)
    probability[height // 4 : height // 2, width // 4 : width // 2] = value
    return probability


@pytest.fixture
def written(monkeypatch):
    """Collect the lines that a rendering writes under its picture."""
    said = []
    for name in ("key_strip", "scale_strip"):
        draw = getattr(render, name)

        def spy(width, size, lines, *rest, draw=draw):
            said.extend(lines)
            return draw(width, size, lines, *rest)

        monkeypatch.setattr(render, name, spy)
    return said


@given(arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_a_binary_mask_is_8_bit_grey_of_0_and_255(mask):
    image = opened(binary_png(mask))
    assert image.mode == "L"
    assert (np.asarray(image) == np.where(mask, 255, 0)).all()


def test_a_soft_mask_is_16_bit_and_keeps_every_probability():
    probability = np.array([[0, 1, 0.5, 1 / 65535, 0.25]], np.float32)
    image = opened(soft_png(probability))
    assert image.mode == "I;16"
    assert np.asarray(image).tolist() == [[0, 65535, 32768, 1, 16384]]


def test_a_faint_soft_mask_is_not_stretched():
    assert np.asarray(opened(soft_png(np.full((4, 4), 0.1, np.float32)))).max() == 6554


def test_a_rotated_map_is_written_as_it_stands():
    probability = np.random.default_rng(0).random((5, 9), dtype=np.float32)
    turned = np.rot90(probability)
    assert soft_png(turned) == soft_png(turned.copy())
    assert binary_png(turned > 0.5) == binary_png(turned.copy() > 0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.01])
def test_no_picture_is_made_of_a_bad_number(value):
    probability = blob(20, 20, value)
    with pytest.raises(NumericalError):
        soft_png(probability)
    with pytest.raises(NumericalError):
        heatmap_png(photo(20, 20), probability)


def test_the_legend_stands_under_the_evidence_and_not_over_it():
    pixels = photo(600, 800)
    picture = np.asarray(opened(overlay_png(pixels, decided(np.zeros((600, 800), np.float32)))))
    assert picture.shape[0] > 600
    assert (picture[:600] == pixels).all()


def test_an_overlay_tints_outlines_and_leaves_the_rest():
    pixels = np.full((600, 800, 3), 128, np.uint8)
    picture = np.asarray(opened(overlay_png(pixels, decided(blob(600, 800)))))[:600]
    assert (picture[200, 300] != 128).any()
    assert np.abs(picture[200, 300].astype(int) - 128).max() < 40  # lightly
    assert picture[150, 300].tolist() == [255, 230, 0]
    assert picture[149, 300].tolist() == [0, 0, 0]
    assert (picture[400:] == 128).all()


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_an_outline_shows_on_any_ground(ground):
    pixels = np.full((500, 500, 3), ground, np.uint8)
    picture = np.asarray(opened(overlay_png(pixels, decided(blob(500, 500)))))[:500]
    luminance = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(int)
    across = luminance[110:140, 180]  # over the upper edge, at row 125
    assert across.max() - across.min() > 120


def test_the_outline_closes_along_the_edge_of_the_picture():
    picture = np.asarray(
        opened(overlay_png(photo(500, 600), decided(np.ones((500, 600), np.float32))))
    )
    for edge in (picture[0, :600], picture[499, :600], picture[:500, 0], picture[:500, 599]):
        assert (edge == (255, 230, 0)).all()


def test_small_pictures_are_enlarged_by_a_whole_factor(written):
    pixels = photo(48, 64)
    probability = np.zeros((48, 64), np.float32)
    picture = np.asarray(opened(overlay_png(pixels, decided(probability))))
    assert (picture[: 48 * 8, : 64 * 8] == pixels.repeat(8, 0).repeat(8, 1)).all()
    assert "shown enlarged 8 times" in written


def test_large_pictures_are_reduced_and_say_so(monkeypatch, written):
    monkeypatch.setattr(render, "_MAX_PIXELS", 500_000)
    probability = np.zeros((1000, 2000), np.float32)
    probability[501, 1003] = 1  # a single pixel must not vanish
    picture = np.asarray(opened(overlay_png(photo(1000, 2000), decided(probability))))
    assert picture.shape[1] == 1000
    assert (picture[:500] == (255, 230, 0)).all(2).any()
    assert "shown at 50 % of its size" in written


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1), (2, 13000)])
def test_extreme_shapes_are_drawn(height, width):
    probability = np.full((height, width), 0.7, np.float32)
    pixels = photo(height, width)
    for data in (
        overlay_png(pixels, decided(probability)),
        heatmap_png(pixels, probability),
    ):
        image = opened(data)
        assert image.mode == "RGB"
        assert image.width >= 400


def test_16_bit_pixels_are_shown_by_their_upper_byte():
    eight = photo(480, 480)
    sixteen = eight.astype(np.uint16) * 257
    decision = decided(blob(480, 480))
    assert overlay_png(sixteen, decision) == overlay_png(eight, decision)


def test_turned_and_read_only_pixels_are_drawn_and_left_alone():
    pixels = np.rot90(photo(500, 600))
    before = pixels.copy()
    pixels.flags.writeable = False
    probability = np.rot90(blob(500, 600))
    decision = decided(probability)
    assert overlay_png(pixels, decision) == overlay_png(before.copy(), decision)
    assert heatmap_png(pixels, probability) == heatmap_png(before.copy(), probability.copy())
    assert (pixels == before).all()


def test_a_heat_map_has_one_fixed_scale():
    pixels = np.full((500, 500, 3), 128, np.uint8)
    bright, faint = (
        np.asarray(opened(heatmap_png(pixels, blob(500, 500, value)))).astype(int)
        for value in (0.9, 0.1)
    )
    assert bright[180, 180].sum() > 400
    assert faint[180, 180].sum() < 300
    # The same probability has the same colour, whatever the rest of the map is.
    both = blob(500, 500, 0.1)
    both[400:, 400:] = 0.9
    mixed = np.asarray(opened(heatmap_png(pixels, both))).astype(int)
    assert (mixed[180, 180] == faint[180, 180]).all()
    assert (mixed[450, 450] == bright[180, 180]).all()


def test_a_heat_map_grows_lighter_with_the_probability():
    pixels = np.full((500, 1000, 3), 128, np.uint8)
    ramp = np.tile(np.linspace(0, 1, 1000, dtype=np.float32), (500, 1))
    picture = np.asarray(opened(heatmap_png(pixels, ramp, threshold=0.999)))[:500]
    luminance = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)[250, :980, 0].astype(int)
    assert luminance[-1] > luminance[0] + 100
    assert (np.diff(luminance[::20]) >= -2).all()


def test_a_constant_map_is_drawn():
    assert heatmap_png(photo(90, 90), np.zeros((90, 90), np.float32))


def test_a_heat_map_marks_where_the_threshold_is_reached(written):
    pixels = np.full((500, 500, 3), 128, np.uint8)
    probability = blob(500, 500, 0.6)
    over = np.asarray(opened(heatmap_png(pixels, probability, threshold=0.6 - 1e-6)))
    assert over[125, 180].tolist() == [255, 255, 255]
    under = np.asarray(opened(heatmap_png(pixels, probability, threshold=0.61)))[:500]
    assert not (under == 255).all(2).any()
    assert "nothing at p >= 0.61, highest p 0.60" in written
    with pytest.raises(UsageError):
        heatmap_png(pixels, probability, threshold=1)


def test_a_peak_is_never_rounded_up_to_the_threshold(written):
    heatmap_png(photo(50, 50), np.full((50, 50), 0.4999, np.float32))
    assert written[0] == "nothing at p >= 0.50, highest p 0.49"


def test_the_caption_says_what_was_decided(written):
    pixels = photo(100, 100)
    rule = Rule(0.8, 0.4)
    overlay_png(pixels, decide(blob(100, 100), 0.9, rule, threshold=0.5))
    overlay_png(pixels, decide(np.zeros((100, 100), np.float32), 0.1, rule, threshold=0.3))
    speck = np.zeros((100, 100), np.float32)
    speck[5, 5] = 1
    overlay_png(pixels, decide(speck, 0.1, rule))
    overlay_png(pixels, decide(np.full((100, 100), 0.6, np.float32), 0.5, rule))
    headlines = [line for line in written if " at p >= " in line]
    assert headlines == [
        "manipulated: 6.2 % of pixels marked, at p >= 0.50",
        "nothing found: no pixel marked, at p >= 0.30",
        "nothing found: 0.01 % of pixels marked, at p >= 0.50",
        "inconclusive: 100 % of pixels marked, at p >= 0.375",
    ]


def test_what_cannot_be_believed_is_veiled_and_the_rest_untouched():
    pixels = photo(20, 30)
    reliability = np.full((20, 30), 0.5, np.float32)
    np.testing.assert_array_equal(veiled(pixels, reliability), pixels)
    reliability[:, :10] = 0
    shown = veiled(pixels, reliability).astype(int)
    assert (shown[:, :10, 2] > 200).all()
    np.testing.assert_array_equal(shown[:, 10:], pixels[:, 10:])
    deep = pixels.astype(np.uint16) * 257
    np.testing.assert_array_equal(veiled(deep, reliability), shown)


def test_panels_stand_below_each_other(written):
    picture = photo(500, 600)
    sheet = np.asarray(opened(captioned_png([(picture, ["one", "two"]), (picture, ["three"])])))
    assert sheet.shape[1] == 600
    np.testing.assert_array_equal(sheet[:500], picture)
    assert written == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0, "0 %"),
        (1e-9, "less than 0.01 %"),
        (0.0042, "0.42 %"),
        (0.032, "3.2 %"),
        (0.5, "50 %"),
        (0.99999, "more than 99.9 %"),
        (1, "100 %"),
    ],
)
def test_percentages_are_never_rounded_to_none_or_to_all(share, said):
    assert percent(share) == said


def test_the_same_input_gives_the_same_bytes():
    pixels, probability = photo(300, 200), blob(300, 200)
    assert heatmap_png(pixels, probability) == heatmap_png(pixels, probability)
    assert overlay_png(pixels, decided(probability)) == overlay_png(pixels, decided(probability))
