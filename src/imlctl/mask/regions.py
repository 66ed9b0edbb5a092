"""Separate a mask into its connected regions, largest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_MAX_DEVIATION = 1.0  # pixels between a polygon and the outline it stands for
_STRIP_PIXELS = 1 << 20  # pixels summed at a time; bounds the float64 copies


@dataclass(frozen=True, slots=True)
class Region:
    """One 8-connected set of marked pixels."""

    # Corners (x, y) of the outer outline, on marked pixels, at most one pixel away from the exact
    # outline; holes are not described, and a dot or line has one or two corners.
    polygon: tuple[tuple[int, int], ...]
    box: tuple[int, int, int, int]  # x, y, width, height in pixels
    area: int  # marked pixels, holes not counted
    mean_probability: float  # over the marked pixels, 0 to 1


@dataclass(frozen=True, slots=True)
class Regions:
    """The regions of one mask; iterating gives those that are listed."""

    listed: tuple[Region, ...]  # of at least `min_area` pixels, largest first
    rest_count: int  # smaller regions
    rest_area: int  # their pixels together
    min_area: int

    def __iter__(self) -> Iterator[Region]:
        return iter(self.listed)


def find_regions(
    mask: NDArray[np.bool_], probability: NDArray[np.floating[Any]], *, min_area: int | None = None
) -> Regions:
    """Find the 8-connected regions of a mask (H, W), largest first, then from the top left.

    A region is listed from `min_area` pixels on; if None, 1/50,000 of the picture but at least 16.
    """
    least = max(16, mask.size // 50_000) if min_area is None else min_area
    count, found, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask, np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    labels = found.astype(np.int32, copy=False)
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.int64)
    areas[0] = 0  # label 0 is the ground
    large = areas >= least
    polygons = _outlines(labels, large)
    sums, strips = np.zeros(count), -(-mask.size // _STRIP_PIXELS)
    parts = (np.array_split(values, strips) for values in (labels, probability))
    for rows, values in zip(*parts, strict=True):
        sums += np.bincount(rows.ravel(), values.ravel(), minlength=count)
    means = sums / np.maximum(areas, 1)

    listed = []
    for label in np.flatnonzero(large).tolist():
        x, y, width, height = stats[label, :4].tolist()
        mean = min(float(means[label]), 1.0)  # a sum of ones may round up
        listed.append(Region(polygons[label], (x, y, width, height), int(areas[label]), mean))
    listed.sort(key=lambda region: (-region.area, region.box[1], region.box[0], region.box[2:]))
    rest = (areas > 0) & ~large
    return Regions(tuple(listed), int(rest.sum()), int(areas[rest].sum()), least)


def _outlines(
    labels: NDArray[np.int32], large: NDArray[np.bool_]
) -> dict[int, tuple[tuple[int, int], ...]]:
    """Trace the outer outline of every large label.

    What lies in no hole is traced and taken away, again and again: cv2 takes minutes to find holes.
    """
    outlines: dict[int, tuple[tuple[int, int], ...]] = {}
    left = large.astype(np.uint8)
    while left.any():
        contours, _ = cv2.findContours(left[labels], cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        for contour in contours:
            x, y = contour[0][0]
            simple = cv2.approxPolyDP(contour, _MAX_DEVIATION, closed=True)
            outlines[int(labels[y, x])] = tuple((int(px), int(py)) for px, py in simple[:, 0])
        left[list(outlines)] = 0
    return outlines
