"""JPEG history: evidence of places that were not compressed the way the rest was, in closed form.

A photograph saved as JPEG twice keeps the first quantisation in its DCT coefficients: their
histograms have gaps and peaks (Popescu and Farid 2004). Pixels that were pasted in between lack
them, or have them on another grid. Which first step the rest of the picture had is estimated by
likelihood, frequency by frequency, and each coefficient then speaks for one or for the other:
after Lin, He, Tang and Tang 2009 ("Fast, automatic and fine-grained tampered JPEG image detection
via DCT coefficient analysis") and Bianchi and Piva 2012 ("Image forgery localization via
block-grained analysis of JPEG artifacts").

Everything is read from decoded pixels, so a JPEG that was saved as PNG tells as much. The grid is
found by counting zeros (after Nikoukhah et al. 2021, "ZERO"). Many authentic pictures are
compressed twice: this is for the network to weigh, not a verdict.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.core.layers import bands, box_mean, full_precision, grey_levels

CHANNELS = 3
STRIDE = 4  # of the maps against the picture
LEAST_SIDE = 40  # pixels; smaller pictures hold too few blocks to tell a grid

_BLOCK = 8
_ZERO = 0.5  # a coefficient below rounds to zero
_VOTING_AREA = 3 * 2**14  # pixels that vote, at the least; a sixteenth of large pictures
_BAND = 32  # rows of pixels that vote together
_LEAST_Z = 8.0  # of the winning grid's votes, in standard deviations of chance

_FREQUENCIES = 20  # AC coefficients, by diagonal
_LARGEST = 192  # coefficients beyond are left out of the histograms
_STEPS = (*range(2, 31), *range(32, 61, 2))  # first quantisation steps that are tried
_SHARES = (0.3, 0.6, 0.85, 0.97)  # of the coefficients that had the first step
_NEAR = 1.2  # of a multiple of the last step, where the coefficients of a JPEG lie
_SIGMA = 0.45  # of the rounding to pixels between two compressions, in a coefficient
_STAIN = 0.02  # share of any density that is the plain one
_TEMPERATURE = 4.0  # of the weights of the steps
_MOST_EVIDENCE = 4.0  # of one coefficient, in nats
_BOXES = (7, 3)  # blocks a side over which evidence is averaged


@torch.no_grad()
def jpeg_history(image: Tensor) -> Tensor:
    """Measure how unlike the rest of a picture (B, 3, H, W) in [0, 1] each place was compressed.

    Returns:
        (B, 3, ceil(H / 4), ceil(W / 4)) float32, zero where the picture has no JPEG grid. First
        two maps v of evidence against the picture's own compression history, per block, summed over
        frequencies, over boxes of 56 and of 24 pixels, less their median, as sign(v) log(1 + |v|);
        then, the same everywhere, how much there is to see: the logarithm of the gain in likelihood
        that a first compression brings, per block and frequency, scaled to 0 (none) to about 1.
    """
    batch, _, height, width = image.shape
    size = (-(-height // STRIDE), -(-width // STRIDE))
    if min(height, width) < LEAST_SIDE:
        return image.new_zeros(batch, CHANNELS, *size, dtype=torch.float32)
    with full_precision(image.device):
        grey = grey_levels(image.float())  # (B, H, W)
        return torch.stack([_history(picture, size) for picture in grey])


def _history(grey: Tensor, size: tuple[int, int]) -> Tensor:
    """Clue of one picture (H, W), (3, *size)."""
    offset, found = find_grid(grey)
    blocks, valid = _coefficients(grey, offset)  # (h, w, F), (h, w)
    shifted, there = _coefficients(grey, (offset + _BLOCK // 2) % _BLOCK)
    plain = _plain_densities(shifted, there)  # (F, N)
    ones = torch.ones(1, dtype=torch.long, device=grey.device)
    quantised = _quantised(plain)
    first, last, _ = _evidence(blocks, valid, plain, quantised, ones)  # (h, w), (F,)
    saved = _was_saved(blocks, valid, last)
    # In a picture that was no JPEG all steps are one, and the second pass repeats the first.
    steps = torch.where(saved, last, ones)
    second, _, gain = _evidence(blocks, valid, plain, quantised, steps)
    maps = []
    for side in _BOXES:
        evidence = _box_mean(second, valid, side)
        alone = _box_mean(first, valid, side)
        beyond = F.relu(alone + _median(alone, valid).abs() / 2)
        level = evidence + torch.where(saved, beyond, 0.0)
        level = level - _median(level, valid)
        maps.append(level.sign() * torch.log1p(level.abs()))
    certain = (torch.log(gain + 1e-3) - math.log(1e-3)) / -math.log(1e-3)
    clue = torch.stack((*maps, certain.expand_as(maps[0])))  # (3, h, w)
    return torch.where(found, _at_stride(clue, offset, valid, size), 0.0)


def find_grid(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Find where the blocks of a JPEG begin, in grey levels (H, W) of sides from `LEAST_SIDE` on.

    Each pixel votes for the one of the 64 blocks over it that has most zero coefficients.

    Returns:
        Row and column of the first whole block, (2,) int64 in 0 to 7, and whether the votes for it
        are more than chance gives, () bool.
    """
    height, width = grey.shape
    waves = _waves(grey.device)
    rows = torch.arange(height, device=grey.device) % _BLOCK
    columns = torch.arange(width - _BLOCK + 1, device=grey.device) % _BLOCK
    votes = torch.zeros(_BLOCK * _BLOCK, device=grey.device)
    reach = 2 * (_BLOCK - 1)  # rows that blocks over a band cover beyond it
    tall = min(_BAND, height - reach)
    total = height - reach
    wanted = max(1, min(total // tall, max(_VOTING_AREA, height * width // 16) // (tall * width)))
    for band in range(wanted):
        top = (total - tall) * band // max(1, wanted - 1) if wanted > 1 else (total - tall) // 2
        # Down first, then across, one frequency at a time, so that all of it stays in the cache.
        down = waves @ _shifted(grey[top : top + tall + reach], 0).flatten(1)  # (8, h * W)
        across = (waves @ _shifted(each.view(-1, width), 1).flatten(1) for each in down)
        zeros = torch.stack([each.abs_().lt_(_ZERO).sum(0) for each in across]).sum(0)
        zeros = zeros.view(1, -1, len(columns))  # (1, h, w)
        code = (rows[top : top + zeros.shape[1], None] * _BLOCK + columns).to(grey.dtype)
        # The offset is part of the key: once upwards, once downwards, so that a tie shows.
        up, down = _block_max(torch.cat((zeros * 64 + code, zeros * 64 + (63 - code))))
        choice = up % 64
        clear = (choice == 63 - down % 64) & (up < 63 * 64)  # of a flat block at most DC is left
        votes.scatter_add_(0, choice.long().flatten(), clear.to(votes.dtype).flatten())
    most, winner = votes.max(0)
    count = votes.sum() / 64  # neighbours vote alike: 64 of them are one
    chance = count / 64
    z = (most / 64 - chance) / torch.sqrt(chance * (1 - 1 / 64)).clamp_min(1e-6)
    return torch.stack((winner // _BLOCK, winner % _BLOCK)), z > _LEAST_Z


def _shifted(values: Tensor, dim: int) -> Tensor:
    """Values 0 to 7 places on along a dimension, which becomes shorter by 7, (8, ...)."""
    length = values.shape[dim] - _BLOCK + 1
    return torch.stack([values.narrow(dim, start, length) for start in range(_BLOCK)])


def _block_max(values: Tensor) -> Tensor:
    """Largest of the 8x8 values from each place on, (N, h, w) to (N, h - 7, w - 7)."""
    for dim in (1, 2):
        for apart in (1, 2, 4):
            length = values.shape[dim] - apart
            values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, apart, length))
    return values


def _coefficients(grey: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """DCT coefficients (h, w, F) of the blocks from an offset on, and which lie inside, (h, w)."""
    height, width = grey.shape
    high, wide = height // _BLOCK, width // _BLOCK
    down = offset[0] + torch.arange(high * _BLOCK, device=grey.device)
    right = offset[1] + torch.arange(wide * _BLOCK, device=grey.device)
    rows, columns = down.clamp_max(height - 1), right.clamp_max(width - 1)
    parts = []
    for top, end in bands(grey[None, : high * _BLOCK], _BLOCK):
        inside = grey.index_select(0, rows[top:end]).index_select(1, columns)
        pixels = inside.view(-1, _BLOCK, wide, _BLOCK).permute(0, 2, 1, 3).reshape(-1, wide, 64)
        parts.append(pixels @ _filters(grey.device).T)
    valid = (down[_BLOCK - 1 :: _BLOCK] < height)[:, None] & (right[_BLOCK - 1 :: _BLOCK] < width)
    return torch.cat(parts), valid


def _plain_densities(blocks: Tensor, valid: Tensor) -> Tensor:
    """Densities of |c| as the scene has them, off the grid and smoothed, (F, N + 1)."""
    counts = _histogram(blocks.abs().round(), valid)  # (F, N)
    low, high, floor = _smoothing(counts.device)
    running = F.pad(counts.cumsum(1), (1, 0))
    mean = (running[:, high] - running[:, low]) / (high - low)
    smooth = torch.maximum(mean, floor * valid.sum())
    return smooth / smooth.sum(1, keepdim=True)


def _quantised(plain: Tensor) -> Tensor:
    """Densities (F, N) with all mass at multiples of a step, for each that is tried, (F, Q, V)."""
    masses = plain.new_zeros(_FREQUENCIES, len(_STEPS), _LARGEST + max(_STEPS) // 2 + 1)
    multiples = _multiples(plain.device).expand(_FREQUENCIES, -1, -1)
    return masses.scatter_add_(2, multiples, plain[:, None].expand(-1, len(_STEPS), -1))


def _evidence(
    blocks: Tensor, valid: Tensor, plain: Tensor, quantised: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Evidence against the history that the coefficients have in common.

    Args:
        blocks: Coefficients (h, w, F).
        valid: Which blocks count, (h, w).
        plain: Densities of |c| before any compression, (F, N).
        quantised: The same after one by each step that is tried, (F, Q, V).
        steps: Last quantisation steps q2, (F,), or one for all, (1,).

    Returns:
        log s / d summed over frequencies, (h, w); the likeliest first step of each frequency, 1
        where none is likely, (F,); and the mean gain in likelihood per coefficient, ().
    """
    index = (blocks / steps).round_().abs_().clamp_max_(_LARGEST)  # u, (h, w, F)
    counts = _histogram(index, valid)  # (F, N)
    single = _requantised(plain[:, None], steps, sigma=0.0)  # s(u), (F, 1, N)
    double = _requantised(quantised, steps, _SIGMA)  # d(u; q1), (F, Q, N)
    double = (1 - _STAIN) * double + _STAIN * single
    ratio = double / single - 1  # (F, Q, N)
    gains = torch.stack(
        [(torch.log1p(share * ratio) @ counts[..., None])[..., 0] for share in _SHARES]
    ).amax(0)  # (F, Q)
    tried = torch.tensor(_STEPS, device=plain.device)
    # A first step that divides the last leaves no trace of itself.
    gains = torch.where(steps[:, None] % tried == 0, -math.inf, gains)
    none = gains.new_zeros(_FREQUENCIES, 1)
    weight = torch.softmax(torch.cat((none, gains), 1) / _TEMPERATURE, dim=1)
    mixed = weight[:, :1] * single[:, 0] + (weight[:, None, 1:] @ double)[:, 0]  # (F, N)
    speaks = torch.log(single[:, 0] / mixed).clamp_(-_MOST_EVIDENCE, _MOST_EVIDENCE)
    flat = index.flatten(0, 1).long().T  # (F, h * w)
    evidence = speaks.gather(1, flat).sum(0).view(valid.shape)
    best, place = gains.max(1)
    number = valid.sum()
    likely = best > torch.clamp_min(0.01 * number, 10.0)
    gain = best.clamp_min(0).mean() / number.clamp_min(1)
    return evidence, torch.where(likely, tried[place], 1), gain


def _requantised(masses: Tensor, steps: Tensor, sigma: float) -> Tensor:
    """Densities of u = |round(c / q)|, from masses at |c| = 0 to V - 1 that noise has moved.

    (F, Q, V), and the steps q of each frequency, (F,), or of all, (1,), to (F, Q, N), floored so
    that its logarithm is finite; `sigma` is the noise's standard deviation.
    """
    # Between two values of u lies (u + 1/2) q, a multiple of one half.
    bounds = (2 * torch.arange(_LARGEST + 1, device=masses.device) + 1) * steps[:, None] + 1
    bounds = F.pad(bounds, (1, 0)).clamp_max(2 * masses.shape[-1])  # (F, N + 1)
    beyond = _beyond(sigma, masses.shape[-1], masses.device).to(masses.dtype)
    beyond = beyond.index_select(0, bounds.flatten()).view(*bounds.shape, -1)
    shares = beyond[:, :-1] - beyond[:, 1:]  # of each mass, within u, (F, N, V)
    return (masses @ shares.mT).clamp_min_(1e-9)


def _was_saved(blocks: Tensor, valid: Tensor, last: Tensor) -> Tensor:
    """Tell whether coefficients lie near multiples of the last steps, as in a JPEG, ()."""
    size = blocks.abs()  # (h, w, F)
    large = (size > last / 2) & valid[..., None]
    apart = (size - last * torch.round(size / last)).abs()
    count = large.sum((0, 1))
    share = (large & (apart < _NEAR)).sum((0, 1)) / count.clamp_min(1)
    chance = 2 * _NEAR / last
    asked = (last > 3) & (count > 30)
    agreed = (share - chance) / (1 - chance)
    ordered = torch.where(asked, agreed, math.inf).sort().values
    number = asked.sum()
    middle = ordered.index_select(0, ((number - 1).clamp_min(0) // 2)[None])[0]
    return (number >= 5) & (middle > 0.8)


def _histogram(index: Tensor, valid: Tensor) -> Tensor:
    """Counts of whole numbers (h, w, F) below `_LARGEST` in valid blocks, (F, N)."""
    bins = _LARGEST + 1
    flat = index.flatten(0, 1).clamp_max(_LARGEST).long().T  # (F, h * w)
    counted = valid.flatten().to(index.dtype).expand_as(flat)
    counts = torch.zeros(flat.shape[0], bins, device=index.device).scatter_add_(1, flat, counted)
    return counts * (torch.arange(bins, device=index.device) < _LARGEST)


def _box_mean(values: Tensor, valid: Tensor, side: int) -> Tensor:
    """Mean over the valid ones of a box around each block, (h, w)."""
    weight = valid.to(values.dtype)
    both = box_mean(torch.stack((values * weight, weight)), side, side)
    return both[0] / both[1].clamp_min(1e-6)


def _median(values: Tensor, valid: Tensor) -> Tensor:
    """Median of the valid ones of (h, w), the lower one of two, ()."""
    ordered = torch.where(valid, values, math.inf).flatten().sort().values
    return ordered.index_select(0, ((valid.sum() - 1).clamp_min(0) // 2)[None])[0]


def _at_stride(maps: Tensor, offset: Tensor, valid: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps of blocks (C, h, w) read off every `STRIDE` pixels, (C, *size)."""
    counts = (valid.any(1).sum(), valid.any(0).sum())
    for dim, (length, count) in enumerate(zip(size, counts, strict=True)):
        centre = STRIDE * torch.arange(length, device=maps.device) + STRIDE // 2
        block = torch.div(centre - offset[dim], _BLOCK, rounding_mode="floor")
        block = torch.minimum(block.clamp_min(0), (count - 1).clamp_min(0))
        maps = maps.index_select(dim + 1, block)
    return maps


@cache
def _waves(device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Orthonormal DCT-II of eight values, (frequency, place)."""
    n = torch.arange(_BLOCK, dtype=torch.float64)
    waves = torch.cos(math.pi * (2 * n + 1) * n[:, None] / (2 * _BLOCK)) / 2
    waves[0] = math.sqrt(1 / _BLOCK)
    return waves.to(dtype).to(device)


@cache
def _filters(device: torch.device) -> Tensor:
    """The first AC frequencies of blocks of 8x8, (F, 64)."""
    # Rounded once: what lies between two values of a histogram would fall to the other one.
    waves = _waves(torch.device("cpu"), torch.float64)
    both = (waves[:, None, :, None] * waves[None, :, None, :]).reshape(64, 64)
    return both[list(_by_diagonal())].float().to(device)


@cache
def _by_diagonal() -> tuple[int, ...]:
    """Places of the first AC frequencies within a block, lowest diagonal first."""
    places = sorted(range(1, 64), key=lambda k: (k // _BLOCK + k % _BLOCK, k // _BLOCK))
    return tuple(places[:_FREQUENCIES])


@cache
def _multiples(device: torch.device) -> Tensor:
    """Nearest multiple of each step that is tried to each |c|, (Q, N) int64."""
    values = torch.arange(_LARGEST + 1)
    steps = torch.tensor(_STEPS)[:, None]
    return ((values + steps // 2) // steps * steps).to(device)


@cache
def _beyond(sigma: float, count: int, device: torch.device) -> Tensor:
    """Share of the mass at |c| = v that noise leaves at |c| > x, x on half values, (2 V + 1, V).

    The first row is for x below 0, the next for 0, 1/2, 1 and so on; what lies at x counts half.
    """
    place = torch.arange(count, dtype=torch.float64)
    apart = torch.stack((place, -place)) - torch.arange(2 * count)[:, None, None] / 2
    sides = torch.erf(apart / (sigma * math.sqrt(2))) if sigma else apart.sign()
    shares = 1 + sides.sum(1) / 2
    return torch.cat((torch.ones(1, count), shares)).float().to(device)


@cache
def _smoothing(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """First value and end of the box over which each |c| is averaged, and its least mean, (N,)."""
    n = torch.arange(_LARGEST + 1)
    radius = torch.where(n >= 3, torch.clamp_min((0.12 * n).long(), 1), 0)
    low, high = (n - radius).clamp_min(0), (n + radius + 1).clamp_max(_LARGEST + 1)
    return low.to(device), high.to(device), (1e-4 / (n + 2.0) ** 2).to(device)
