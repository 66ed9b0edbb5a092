import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imlctl.mask.regions import find_regions


def regions_of(mask, probability=None, min_area=1):
    mask = np.asarray(mask, bool)
    if probability is None:
        probability = np.full(mask.shape, 0.75, np.float32)
    return find_regions(mask, probability, min_area=min_area)


def test_an_empty_mask_has_no_regions():
    found = regions_of(np.zeros((5, 5)))
    assert (found.listed, found.rest_count, found.rest_area) == ((), 0, 0)


def test_a_rectangle_is_described_exactly():
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:22] = True
    probability = np.zeros((20, 30), np.float32)
    probability[4:9, 10:22] = 0.5
    probability[4, 10:22] = 1.0
    (region,) = regions_of(mask, probability)
    assert region.box == (10, 4, 12, 5)
    assert region.area == 60
    assert region.mean_probability == pytest.approx(0.6)
    assert set(region.polygon) == {(10, 4), (21, 4), (21, 8), (10, 8)}


def test_pixels_that_touch_at_a_corner_are_one_region():
    (region,) = regions_of(np.eye(6))
    assert region.area == 6


def test_largest_first_then_from_the_top_left():
    mask = np.zeros((12, 12), bool)
    mask[8:11, 8:11] = mask[0, 0:2] = mask[0, 6:8] = mask[4, 0:2] = True
    assert [region.box[:2] for region in regions_of(mask)] == [(8, 8), (0, 0), (6, 0), (0, 4)]


def test_a_region_inside_the_hole_of_another_is_found():
    mask = np.zeros((30, 30), bool)
    mask[2:28, 2:28] = True
    mask[6:24, 6:24] = False
    mask[12:16, 12:16] = True
    ring, core = regions_of(mask)
    assert ring.area == 26**2 - 18**2
    assert ring.box == (2, 2, 26, 26)
    assert core.box == (12, 12, 4, 4)


def test_small_regions_are_counted_and_not_lost():
    mask = np.zeros((10, 10), bool)
    mask[0:4, 0:4] = mask[6, 6] = mask[9, 8:10] = True
    found = regions_of(mask, min_area=4)
    assert [region.area for region in found] == [16]
    assert len(found.listed) == 1
    assert (found.rest_count, found.rest_area, found.min_area) == (2, 3, 4)


def test_dots_and_lines_have_a_polygon():
    mask = np.zeros((5, 9), bool)
    mask[0, 0] = mask[3, 2:7] = True
    line, dot = regions_of(mask)
    assert dot.polygon == ((0, 0),)
    assert set(line.polygon) == {(2, 3), (6, 3)}


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))), st.integers(1, 6))
def test_areas_add_up_and_boxes_hold_their_polygons(mask, min_area):
    found = regions_of(mask, min_area=min_area)
    assert sum(region.area for region in found) + found.rest_area == mask.sum()
    for region in found:
        assert region.area >= min_area
        x, y, width, height = region.box
        for px, py in region.polygon:
            assert x <= px < x + width
            assert y <= py < y + height
            assert mask[py, px]


def test_a_polygon_stays_within_a_pixel_of_the_outline():
    yy, xx = np.mgrid[:200, :200]
    mask = (xx - 100) ** 2 + (yy - 90) ** 2 < 70**2
    (region,) = regions_of(mask)
    assert len(region.polygon) < 60  # the outline itself has some 400 pixels
    drawn = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(drawn, [np.array(region.polygon, np.int32)], 1)
    differs = drawn.astype(bool) != mask
    edge = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
    assert not (differs & (edge == 0)).any()


def test_a_rotated_view_is_read_like_a_copy():
    rng = np.random.default_rng(3)
    probability = rng.random((40, 60), dtype=np.float32)
    turned = np.rot90(probability)
    copied = turned.copy()
    assert find_regions(turned > 0.6, turned) == find_regions(copied > 0.6, copied)


def test_a_mask_of_certainty_has_mean_one():
    ones = np.ones((300, 300), np.float32)
    (region,) = regions_of(ones > 0, ones)
    assert region.mean_probability == 1.0


def test_a_speckled_mask_is_summed_and_not_listed():
    mask = np.zeros((1200, 1200), bool)
    mask[::2, ::2] = True
    found = find_regions(mask, mask.astype(np.float32))
    assert (len(found.listed), found.rest_count, found.rest_area) == (0, 360_000, 360_000)


def test_the_countless_holes_of_noise_are_not_traced(monkeypatch):
    """Each would be an outline of its own, and of a noisy mask there are a hundred thousand."""
    traced = []

    def find(*arguments):
        found = contours_of(*arguments)
        traced.append(len(found[0]))
        return found

    contours_of = cv2.findContours
    monkeypatch.setattr("imlctl.mask.regions.cv2.findContours", find)
    noise = np.random.default_rng(0).random((1000, 1000), dtype=np.float32)
    found = find_regions(noise >= 0.5, noise)
    assert found.listed[0].area > noise.size / 3
    assert sum(traced) == len(found.listed)


def test_the_least_area_grows_with_the_picture():
    empty = np.zeros((4000, 6000), bool)
    assert find_regions(empty, empty.astype(np.float32)).min_area == 480
    assert find_regions(empty[:9, :9], empty[:9, :9].astype(np.float32)).min_area == 16
