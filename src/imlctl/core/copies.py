"""Copies: regions that a photograph holds twice, moved, turned, scaled or stretched.

`self_similarity` sees whole shifts only. Here keypoints are matched with each other (Amerini et al.
2011, "A SIFT-based forensic method for copy-move attack detection and transformation recovery").
Each pair of keypoints that look alike proposes a motion; the motion that most pairs agree on is
fitted to them; and the picture is compared with itself, moved in that way, to see where it recurs,
and how exactly. Windows, tiles and letters recur as well, but less exactly, and seldom with every
one of their keypoints. Both are measured, and `CopyEvidence` has learned what they are worth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.core.keypoints import AT_ONCE, LEAST_SIDE, Keypoints, find_keypoints
from imlctl.core.layers import OddsHead, box_mean, full_precision, grey_levels

STRIDE = 4  # of the maps against the picture
MEASURES = 7  # of a copy
CHANNELS = 1 + MEASURES

_MAX_AREA = 1 << 21  # pixels searched; a larger picture is reduced

_APART = 20.0  # pixels between the two of a pair, at least
_RATIO = 0.8  # of descriptors' distances, between what is alike and the next best
_ONE, _TWO = 0.6, 0.5  # greatest distance of descriptors, where one or two others are alike
_PAIRS = 1024  # at most, those most alike
_LEAST_PAIRS = 4  # of a copy
_NEAR, _SLACK = 4.0, 0.08  # pixels that a pair may be off what another says, and more for each away
_REACH = 400.0  # pixels around a pair in which others are asked
_TURN, _SCALE = 0.35, 0.4  # radians and logarithm that pairs may differ by
_EXACT = 3.0  # pixels that they may be off what was fitted to them
_STIFF = 400.0  # pixels squared: the spread of points that says more of a motion than we know
_ROUNDS = 3  # of fitting
_LARGEST = 2.0  # logarithm of a scale
_MOST = 4  # copies of a picture
_TRIES = 8

_FINE = 2  # pixels between the places compared
_AROUND = 17  # pixels; detail is what differs from the mean over so many a side
_WINDOW = 7  # places a side over which they are compared
_FLOOR = 0.5  # grey levels squared; where the picture is flatter, agreement says nothing
_ALIKE, _EQUAL = 0.75, 0.95  # correlation of what may be a copy, and of what nearly equals it
_GROWTH = 40  # cells that a copy extends beyond its keypoints, at most
_MOST_PAIRED = 1.5  # a keypoint may have two partners

_HIDDEN = 8  # units of what weighs the measures


class Copy(NamedTuple):
    """A region and its copy; which of them came first, nothing tells."""

    motion: Tensor  # from places of the one, row and column, to those of the other, (2, 3)
    region: Tensor  # cells of STRIDE pixels that lie in either, (h, w) bool
    # Logarithm of the number of pairs; share of the region that nearly equals the other; share of
    # its keypoints that are paired; mean correlation; median of what pairs are off, as a share of
    # what they may be; how far the motion is from a mere shift; and share of both that other copies
    # cover, as where something recurs many times.
    measures: Tensor  # (7,)


@torch.no_grad()
def copies(image: Tensor) -> Tensor:
    """Look for regions that a picture (B, 3, H, W) in [0, 1] holds twice.

    Returns:
        (B, 8, ceil(H / 4), ceil(W / 4)) float32: 1 in a region and in its copy, else 0; then the
        measures of the copy, see `Copy`, and 0 elsewhere. Where several overlap, the one counts of
        which most nearly equals the other.
    """
    size = tuple(-(-side // STRIDE) for side in image.shape[-2:])
    if image.is_meta:  # to count operations: what is looked for depends on what was found
        return image.new_zeros(len(image), CHANNELS, *size, dtype=torch.float32)
    with full_precision(image.device):
        return torch.stack([_map(find_copies(grey), grey, size) for grey in grey_levels(image)])


def _map(found: list[Copy], like: Tensor, size: tuple[int, ...]) -> Tensor:
    maps = like.new_zeros(CHANNELS, *size, dtype=torch.float32)
    for copy in sorted(found, key=lambda copy: float(copy.measures[1])):
        region = F.interpolate(copy.region[None, None].float(), size)[0, 0] > 0
        maps[0][region] = 1
        maps[1:, region] = copy.measures[:, None].float()
    return maps


@torch.no_grad()
def find_copies(grey: Tensor) -> list[Copy]:
    """Find up to four copies in grey levels (H, W), those with most pairs of keypoints first.

    Pixels are those of the picture, or of the reduced one, for one of over two megapixels.
    """
    grey = grey.float()
    factor = math.ceil(math.sqrt(grey.numel() / _MAX_AREA))
    if factor > 1:
        grey = F.avg_pool2d(grey[None, None], factor)[0, 0]
    if min(grey.shape) < LEAST_SIDE:
        return []
    keypoints = find_keypoints(grey)
    pairs = _pairs(keypoints)
    motions = list(itertools.islice(_motions(pairs), _MOST))
    if not motions:
        return []
    detail = grey - box_mean(grey[None], _AROUND, _AROUND)[0]
    compared = (
        _compare(detail, keypoints.place, motion, pairs.here[near], pairs.there[near])
        for motion, near in motions
    )
    found = [copy for copy in compared if copy is not None]
    return [_with_others(copy, found) for copy in found]


def _with_others(copy: Copy, found: list[Copy]) -> Copy:
    """Add the last measure, which takes all copies of the picture."""
    several = torch.stack([each.region for each in found]).sum(0) > 1
    covered = (several & copy.region).sum() / copy.region.sum()
    return copy._replace(measures=torch.cat((copy.measures, covered[None])))


class _Pairs(NamedTuple):
    """Keypoints that look alike."""

    here: Tensor  # row and column, (M, 2)
    there: Tensor  # (M, 2)
    turn: Tensor  # radians, from here to there, (M,)
    scale: Tensor  # logarithm, (M,)


def _pairs(keypoints: Keypoints) -> _Pairs:
    """Pair each keypoint with the one, or the two, that are far more like it than all others."""
    place, size, turn, described = keypoints
    if len(place) < 4:
        return _Pairs(place[:0], place[:0], turn[:0], size[:0])
    alike = zip(*_most_alike(place, described), strict=True)
    number, best, other = (torch.cat(each) for each in alike)
    off = torch.sqrt((2 - 2 * best).clamp_min(0))  # (K, 3)
    two = (off[:, 1] < _RATIO * off[:, 2]) & (off[:, 0] < _TWO)
    one = two | (off[:, 0] < _RATIO * off[:, 1]) & (off[:, 0] < _ONE)
    here = torch.cat((number[one], number[two]))
    there = torch.cat((other[one, 0], other[two, 1]))
    if len(here) > _PAIRS:
        kept = torch.cat((off[one, 0], off[two, 1])).topk(_PAIRS, largest=False).indices
        here, there = here[kept], there[kept]
    scale = torch.log(size[there] / size[here])
    return _Pairs(place[here], place[there], turn[there] - turn[here], scale)


def _most_alike(place: Tensor, described: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield numbers of keypoints (N,), and of the three most like each, (N, 3), after the cosines.

    In parts. Without those that nothing is near enough to.
    """
    numbers = torch.arange(len(place), device=place.device)
    row, column = place.unbind(1)
    for start in range(0, len(place), AT_ONCE):
        part = numbers[start : start + AT_ONCE]
        likeness = described[part] @ described.T
        apart = (row[part, None] - row).square_().add_((column[part, None] - column).square_())
        # By how many square pixels they are too near, which makes them unlike; faster than a mask.
        likeness.sub_(apart.neg_().add_(_APART**2).relu_())
        alike = (likeness.amax(1) > 1 - _ONE**2 / 2).nonzero()[:, 0]
        yield part[alike], *likeness[alike].topk(3, dim=1)


def _motions(pairs: _Pairs) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each motion (2, 3) that pairs agree on, and which do, (M,), until there are no more."""
    if not len(pairs.here):
        return
    agree = _agreement(pairs)
    live = torch.ones_like(pairs.turn)  # 0 for what has been told
    for _ in range(_TRIES):
        votes = (agree.to(live.dtype) @ live) * live
        seed = int(votes.argmax())
        if votes[seed] < _LEAST_PAIRS:
            return
        told = near = agree[seed] & (live > 0)
        for _ in range(_ROUNDS):
            motion = _fitted(pairs.here[near], pairs.there[near])
            near = _off(motion, pairs.here, pairs.there) < _EXACT
            if int(near.sum()) < _LEAST_PAIRS:
                break
        else:
            back = _off(_inverse(motion), pairs.here, pairs.there) < _EXACT
            told = told | near | back
            if abs(float(_scale_and_turn(motion)[0])) < _LARGEST:
                yield motion, near
        live = live * ~told


def _agreement(pairs: _Pairs) -> Tensor:
    """Tell which pairs (second index) a pair (first index) would send near their partners."""
    here, there, turn, scale = pairs
    away = here[None] - here[:, None]  # (M, M, 2)
    c, s = ((f(turn) * torch.exp(scale))[:, None] for f in (torch.cos, torch.sin))
    row = there[:, None, 0] + c * away[..., 0] + s * away[..., 1]
    column = there[:, None, 1] - s * away[..., 0] + c * away[..., 1]
    off = torch.hypot(row - there[:, 0], column - there[:, 1])
    distance = torch.hypot(away[..., 0], away[..., 1])
    turned = torch.remainder(turn - turn[:, None] + math.pi, 2 * math.pi) - math.pi
    near = (off < _NEAR + _SLACK * distance) & (distance < _REACH)
    alike = (turned.abs() < _TURN) & ((scale - scale[:, None]).abs() < _SCALE)
    return near & alike


def _fitted(here: Tensor, there: Tensor) -> Tensor:
    """Fit the motion (2, 3) that brings points (N, 2) nearest to others, in least squares.

    It is a similarity, and as much stretched or sheared as the points say with certainty: those in
    a row say nothing of it.
    """
    centre, target = here.mean(0), there.mean(0)
    p, q = here - centre, there - target
    size = p.square().sum().clamp_min(1e-6)
    c = (p * q).sum() / size
    s = (p[:, 1] * q[:, 0] - p[:, 0] * q[:, 1]).sum() / size
    similar = torch.stack((c, s, -s, c)).view(2, 2)
    spread = p.T @ p + _STIFF * torch.eye(2, device=p.device)
    linear = similar + (q - p @ similar.T).T @ p @ _inverse_of(spread)
    return torch.cat((linear, (target - linear @ centre)[:, None]), dim=1)


def _moved(motion: Tensor, points: Tensor) -> Tensor:
    return points @ motion[:, :2].T + motion[:, 2]


def _off(motion: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """Pixels between where a motion sends points (N, 2) and their partners, (N,)."""
    return cast("Tensor", torch.linalg.vector_norm(_moved(motion, here) - there, dim=1))


def _inverse(motion: Tensor) -> Tensor:
    linear = _inverse_of(motion[:, :2])
    return torch.cat((linear, -(linear @ motion[:, 2:])), dim=1)


def _inverse_of(matrix: Tensor) -> Tensor:
    """Inverse of (2, 2); that of a singular one is large."""
    a, b, c, d = matrix.flatten()
    determinant = a * d - b * c
    determinant = torch.where(determinant.abs() < 1e-6, 1e-6, determinant)
    return torch.stack((d, -b, -c, a)).view(2, 2) / determinant


def _scale_and_turn(motion: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of a motion's scale, and its turn in radians."""
    a, b, c, d = motion[:, :2].flatten()
    return torch.log((a * d - b * c).abs().clamp_min(1e-6)) / 2, torch.atan2(b - c, a + d)


def _compare(
    detail: Tensor, keypoints: Tensor, motion: Tensor, here: Tensor, there: Tensor
) -> Copy | None:
    """Compare a picture with itself, moved; None if it is not alike there.

    `keypoints` are all places of them, (K, 2), `here` and `there` those of pairs, (N, 2).
    """
    if float(_scale_and_turn(motion)[0]) > 0:
        # To the smaller of both, which is sampled more densely than it is: nothing is aliased.
        motion, here, there = _inverse(motion), there, here
    agreement = _agreement_of(detail, motion)
    cells = _grown(agreement > _ALIKE, here)
    inside, paired = (cells[_cells_of(places, cells)].sum() for places in (keypoints, here))
    if not bool(paired):
        return None
    seen = agreement[cells]
    off = _off(motion, here, there).median() / _EXACT
    moved = torch.hypot(*_scale_and_turn(motion)).clamp_max(0.5)
    number = torch.log(off.new_tensor(float(len(here)))) / 4
    dense = (paired / inside.clamp_min(1)).clamp_max(_MOST_PAIRED)
    equal = (seen > _EQUAL).float().mean()
    measures = torch.stack((number, equal, dense, seen.mean(), off, moved))
    return Copy(motion, cells | _moved_cells(cells, motion), measures)


def _cells_of(places: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column, among cells (..., h, w), of places in pixels, (N, 2)."""
    row, column = (places / STRIDE).long().clamp_min(0).unbind(1)
    return row.clamp_max(cells.shape[-2] - 1), column.clamp_max(cells.shape[-1] - 1)


def _sent(motion: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column, (R, C) each, that a motion sends the places of a grid to."""
    row, column = ((along[0] * rows)[:, None] + (along[1] * columns + along[2]) for along in motion)
    return row, column


def _agreement_of(detail: Tensor, motion: Tensor) -> Tensor:
    """Correlation of cells with where a motion sends them, (h, w); 0 outside, and of what stays."""
    height, width = detail.shape
    rows, columns = (torch.arange(0, n, _FINE, device=detail.device).float() for n in detail.shape)
    row, column = _sent(motion, rows, columns)
    where = torch.stack((column * (2 / (width - 1)), row * (2 / (height - 1))), dim=-1) - 1
    other = F.grid_sample(
        detail[None, None], where[None], padding_mode="border", align_corners=True
    )[0, 0]
    fine = detail[::_FINE, ::_FINE]
    means = box_mean(torch.stack((fine * other, fine**2, other**2)), _WINDOW, _WINDOW)
    product, own, its = means
    agreement = product / torch.sqrt((own + _FLOOR) * (its + _FLOOR))
    seen = (row >= 0) & (row <= height - 1) & (column >= 0) & (column <= width - 1)
    seen &= (row - rows[:, None]) ** 2 + (column - columns) ** 2 >= _APART**2
    agreement = torch.where(seen, agreement, 0)[None, None]
    return F.avg_pool2d(agreement, STRIDE // _FINE, ceil_mode=True)[0, 0]


def _grown(alike: Tensor, seeds: Tensor) -> Tensor:
    """Cells (h, w) that are connected, through those that are alike, with places (N, 2)."""
    grown = torch.zeros_like(alike)
    grown[_cells_of(seeds, alike)] = True
    grown &= alike
    for _ in range(_GROWTH):
        wider = grown.clone()
        wider[1:] |= grown[:-1]
        wider[:-1] |= grown[1:]
        both = wider.clone()
        both[:, 1:] |= wider[:, :-1]
        both[:, :-1] |= wider[:, 1:]
        both &= alike
        if torch.equal(grown, both):
            break
        grown = both
    return grown


def _moved_cells(cells: Tensor, motion: Tensor) -> Tensor:
    """Cells (h, w) that a motion sends some of them to."""
    middle = (STRIDE - 1) / 2
    rows, columns = (torch.arange(n, device=cells.device) * STRIDE + middle for n in cells.shape)
    came = _sent(_inverse(motion), rows, columns)  # from these pixels
    row, column = (((each - middle) / STRIDE).round().long() for each in came)
    height, width = cells.shape
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return inside & cells[row.clamp(0, height - 1), column.clamp(0, width - 1)]


class CopyEvidence(OddsHead):
    """From the measures of a copy to log odds that somebody made it."""

    def __init__(self) -> None:
        super().__init__(MEASURES, _HIDDEN)

    def map(self, found: Tensor) -> Tensor:
        """Evidence at each place, (B, 8, h, w), as `copies` returns it, to (B, 1, h, w).

        Never negative: what is repeated by nature may be forged all the same.
        """
        odds = self(found[:, 1:].permute(0, 2, 3, 1))[:, None]
        return F.relu(odds) * found[:, :1]
