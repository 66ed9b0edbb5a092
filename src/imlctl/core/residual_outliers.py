"""Outliers of a photograph's noise: evidence of foreign pixels, in closed form.

After Splicebuster (Cozzolino, Poggi and Verdoliva 2015, "Splicebuster: a new blind image splicing
detector"). A camera leaves the same fine statistics everywhere: how residuals of neighbouring
pixels go together. Their joint histograms are taken over windows of 80 pixels, one Gaussian is
fitted to all windows of the picture, and each window's distance from it is the clue. Nothing is
learned; it takes a picture large enough to show what is usual in it, at its native size.

Three things differ: the fit is that of a heavy-tailed t distribution instead of two classes, a
ridge takes the place of principal components, and distances are compared with the picture's own. A
dark corner, or glass, is unlike the rest as well: it is evidence for the network to weigh.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.core.layers import bands, full_precision, grey_levels

STRIDE = 4  # of the maps against the picture
_CELL = 16  # pixels; histograms are taken of such squares, then summed over windows
_WINDOW = 5  # cells
_STEP = 4.0  # grey levels between the three values that a residual is rounded to
_LENGTH = 4  # neighbouring residuals in a row
# Added to the variance of each bin. The root of a share of n counts has the variance 1 / 4n by
# chance, 2e-5 in a window; ten times that measured best, for rows of residuals overlap.
_RIDGE = 2e-4
_FREEDOM = 4.0  # degrees of, of the t distribution
_ROUNDS = 5  # of fitting it
_NEWTON = 20  # steps of inverting a matrix whose condition the ridge keeps under about 1,000
_REACH = 6  # rows of pixels, at most, that a row of residuals reaches beyond its own
_HALF_KNOWN = 8000  # cells, two megapixels: of a picture so large, half is believed


def _classes() -> tuple[tuple[int, ...], int]:
    """Class of each of the 81 rows of residuals: a row, its negative and both reversed are alike.

    What is up or down, left or right, light or dark, says nothing of a camera.
    """
    numbers: dict[tuple[int, ...], int] = {}
    of_row = []
    for row in itertools.product(range(3), repeat=_LENGTH):
        negative = tuple(2 - value for value in row)
        alike = min(row, row[::-1], negative, negative[::-1])
        of_row.append(numbers.setdefault(alike, len(numbers)))
    return tuple(of_row), len(numbers)


_CLASS, _COUNT = _classes()


@torch.no_grad()
def residual_outliers(image: Tensor) -> Tensor:
    """Measure how far the noise around each place lies from what is usual in the picture.

    The picture is (B, 3, H, W) in [0, 1]; in one with a side under 7 pixels nothing is unusual.

    Returns:
        (B, 2, ceil(H / 4), ceil(W / 4)) float32. First the natural logarithm of one plus the
        squared Mahalanobis distance, less its mean over the picture: within 0.7 of 0 for most of a
        photograph, 1.5 for an outlier. Then the same as far as it is to be believed: little in
        small pictures, which hold few windows to tell what is usual from; all in the largest.
    """
    height, width = image.shape[-2:]
    rows, columns = -(-height // STRIDE), -(-width // STRIDE)
    if min(height, width) <= _REACH:
        return image.new_zeros(len(image), 2, rows, columns, dtype=torch.float32)
    with full_precision(image.device):
        histograms = _histograms(grey_levels(image.float()))  # (B, h, w, 2 * classes)
        distance = _distances(histograms)  # (B, h, w)
        far = torch.log1p(distance)[:, None]  # next to 1, which those of photographs exceed
        clue = far - far.mean(dim=(2, 3), keepdim=True)
        cells = clue.shape[2] * clue.shape[3]
        both = torch.cat((clue, clue * (cells / (cells + _HALF_KNOWN))), dim=1)
        finer = _CELL // STRIDE
        fine = F.interpolate(both, scale_factor=finer, mode="bilinear", align_corners=False)
        # The last cell of a row or column has up to 15 pixels more than its share.
        below, right = max(0, rows - fine.shape[2]), max(0, columns - fine.shape[3])
        return F.pad(fine, (0, right, 0, below), mode="replicate")[..., :rows, :columns]


def _histograms(grey: Tensor) -> Tensor:
    """Square roots of joint histograms of residuals around each cell, (B, h, w, 2 * classes).

    Rows of residuals that lie along the derivative are counted apart from those across it; those of
    both derivatives go together.
    """
    batch, height, width = grey.shape
    rows, columns = max(1, height // _CELL), max(1, width // _CELL)
    bins = 3**_LENGTH
    counts = torch.zeros(batch, rows * columns * 2 * bins, device=grey.device)
    across = (torch.arange(width, device=grey.device) // _CELL).clamp_max(columns - 1)
    for begin, end in bands(grey, _CELL):
        above = max(0, begin - _REACH)
        band = grey[:, above : end + _REACH]
        down = (torch.arange(begin, end, device=grey.device) // _CELL).clamp_max(rows - 1)
        # From the band's first cell on, in 32 bits, which are quicker than 64.
        cell = (((down[:, None] - down[0]) * columns + across) * (2 * bins)).int()
        of_band = counts[:, min(begin // _CELL, rows - 1) * columns * 2 * bins :]
        firsts = (cell, cell + bins)  # bin of each pixel, for rows along the derivative, and across
        levels = {axis: _levels(band, axis) for axis in (1, 2)}
        for axis, along in itertools.product((1, 2), repeat=2):
            number = _rows_of(levels[axis], along)
            # A row of residuals belongs to the pixel in its middle.
            top = (band.shape[1] - number.shape[1]) // 2 + above
            left = (band.shape[2] - number.shape[2]) // 2
            number = number[:, max(0, begin - top) : end - top]
            high, wide = number.shape[1:]
            start = max(0, top - begin)
            into = firsts[int(along != axis)][start : start + high, left : left + wide]
            flat = (number.int() + into).long().flatten(1)
            of_band.scatter_add_(1, flat, counts.new_ones(1, 1).expand_as(flat))
    counts = counts.view(batch, rows * columns * 2, bins)
    merge = F.one_hot(torch.tensor(_CLASS, device=grey.device), _COUNT).float()
    cells = (counts @ merge).view(batch, rows, columns, 2 * _COUNT)
    maps, frame = cells.permute(0, 3, 1, 2), _WINDOW // 2
    summed = F.avg_pool2d(maps, _WINDOW, 1, frame, count_include_pad=False).permute(0, 2, 3, 1)
    return torch.sqrt(summed / summed.sum(-1, keepdim=True))


def _levels(grey: Tensor, axis: int) -> Tensor:
    """Third derivative along an axis, rounded to 0, 1 or 2; three fewer places along it.

    As floating-point numbers, which processors are quicker with than with 64-bit integers.
    """
    length = grey.shape[axis] - 3
    a, b, c, d = (grey.narrow(axis, start, length) for start in range(4))
    residual = (d - a) - 3 * (c - b)
    return torch.round(residual / _STEP).clamp_(-1, 1) + 1


def _rows_of(levels: Tensor, along: int) -> Tensor:
    """Number of each row of four neighbours, 0 to 80; three fewer places along it."""
    length = levels.shape[along] - _LENGTH + 1
    number = levels.narrow(along, 0, length)
    for start in range(1, _LENGTH):
        number = torch.add(levels.narrow(along, start, length), number, alpha=3)
    return number


def _distances(histograms: Tensor) -> Tensor:
    """Squared distance (B, h, w) of each window from the picture's own distribution.

    A multivariate t distribution is fitted by expectation and maximization (Lange, Little and
    Taylor 1989). Its distances have the number of dimensions for their mean; those that a ridge
    shortens are brought to it.
    """
    batch, rows, columns, size = histograms.shape
    points = histograms.flatten(1, 2)  # (B, N, D)
    ridge = _RIDGE * torch.eye(size, device=points.device)
    weight = torch.ones_like(points[..., :1])
    for _ in range(_ROUNDS):
        weight = weight / weight.mean(1, keepdim=True)
        apart = points - (weight * points).mean(1, keepdim=True)
        scatter = (weight * apart).transpose(1, 2) @ apart / points.shape[1]
        distance = ((apart @ _inverse(scatter + ridge)) * apart).sum(-1, keepdim=True).clamp_min(0)
        usual = distance.mean(1, keepdim=True).clamp_min(1)  # of one colour, nothing is foreign
        weight = (_FREEDOM + size) / (_FREEDOM + size * distance / usual)
    return distance.view(batch, rows, columns)


def _inverse(matrix: Tensor) -> Tensor:
    """Inverse of symmetric positive matrices (B, D, D), by Newton's method (Schulz 1933)."""
    eye = torch.eye(matrix.shape[-1], device=matrix.device)
    largest = matrix.abs().sum(-1).amax(-1)  # no eigenvalue is larger
    inverse = eye / largest[:, None, None]
    for _ in range(_NEWTON):
        inverse = torch.baddbmm(inverse, inverse, matrix @ inverse, beta=2, alpha=-1)
    return inverse
