"""Where a photograph repeats itself: evidence of copy-moves, in closed form.

A copy and its source share one history, so no noise residual tells them apart; what gives a
copy-move away is that two places agree pixel for pixel. A region of share a that was moved by d
multiplies the picture's power spectrum by a ripple 1 + 2a cos(2 pi f d), the echo of cepstral
analysis (Bogert et al. 1963). Dividing the spectrum by its local mean leaves the ripple and little
else, so its inverse transform peaks at d; edges and textures, which repeat at every small shift,
are divided away. Each of the strongest shifts is then checked everywhere at once: the normalised
correlation of the picture with itself, shifted.

It costs two Fourier transforms and a few passes over the pixels, n log n altogether, and sees
translations only. Repetition is no proof: windows and tiles repeat too. So this is evidence for the
network to weigh, not a verdict.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.core.layers import full_precision

CHANNELS = 3
STRIDE = 4  # of the maps against the picture
CANDIDATES = 6  # shifts looked at
MIN_SHIFT = 16  # pixels; below, every smooth place resembles itself
MAX_AREA = 1 << 21  # pixels searched; a larger picture is reduced, as copies survive that

_LUMA = (0.299, 0.587, 0.114)
_SMOOTHING = (9, 5)  # bins of the spectrum; keeps ripples of shifts over about MIN_SHIFT
_WHITENING = 0.75  # 1 trusts every frequency alike, also those that hold only noise
_WINDOW = 5  # cells of STRIDE pixels over which two places are compared
_FLOOR = 1.0  # grey levels squared; where the picture is flatter, agreement says nothing
_LEAST_PEAK = 4.0  # robust deviations; the highest of pure noise is about 5


@torch.no_grad()
def self_similarity(image: Tensor) -> Tensor:
    """Look for places that repeat elsewhere in the picture.

    No gradient flows through it.

    Args:
        image: (B, 3, H, W) in [0, 1]; H and W multiples of `STRIDE`, at least 32.

    Returns:
        (B, 3, H / 4, W / 4) float32: how well a place agrees with another (0 to 1), how far the
        shift between them stands out from chance (0 to about 1), and how much texture there is to
        compare (0 to about 1).
    """
    with full_precision(image.device):
        return _self_similarity(image.float())


def _self_similarity(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    red, green, blue = _LUMA
    grey = 255 * (red * image[:, 0] + green * image[:, 1] + blue * image[:, 2])  # (B, H, W)
    factor = math.ceil(math.sqrt(height * width / MAX_AREA))
    if factor > 1:
        grey = F.avg_pool2d(grey[:, None], factor)[:, 0]
    grey = grey[:, : grey.shape[1] // STRIDE * STRIDE, : grey.shape[2] // STRIDE * STRIDE]
    shifts, peaks = find_shifts(_flattened(grey))
    maps = _compare(grey, shifts, peaks)  # (B, 3, h / 4, w / 4)
    size = (height // STRIDE, width // STRIDE)
    if maps.shape[-2:] != size:
        maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return maps


def find_shifts(signal: Tensor, count: int = CANDIDATES) -> tuple[Tensor, Tensor]:
    """Find the shifts at which a signal repeats, by the peaks of its whitened autocorrelation.

    Shifts are circular: one of (d, e) stands for (d - H, e) and the like, too.

    Args:
        signal: (B, H, W), high-pass.
        count: How many shifts to return.

    Returns:
        Shifts (B, count, 2) int64, rows and columns down and to the right modulo the size, the
        clearest first; and their heights in robust standard deviations, (B, count).
    """
    height, width = signal.shape[-2:]
    spectrum = torch.fft.rfft2(signal * _taper(height, width, signal))
    power = spectrum.abs().square()  # (B, H, W / 2 + 1)
    around = _box(power, *_SMOOTHING)
    floor = 1e-3 * power.mean((1, 2), keepdim=True) + 1e-12
    white = (power - around) / (around + floor) ** _WHITENING
    lags = torch.fft.irfft2(white, s=(height, width))
    lags = lags - _box(lags, 5, 5)
    rows = torch.arange(height, device=signal.device)
    columns = torch.arange(width, device=signal.device)
    down = torch.where(rows > height // 2, rows - height, rows)[:, None]
    across = torch.where(columns > width // 2, columns - width, columns)[None]
    # The map is even: half of it says all.
    allowed = (down.square() + across.square() >= MIN_SHIFT**2) & (
        (down > 0) | ((down == 0) & (across > 0))
    )
    spread = (
        (lags.abs() * allowed).sum((1, 2)) / allowed.sum().clamp_min(1) * math.sqrt(math.pi / 2)
    )
    heights = (lags / (spread[:, None, None] + 1e-12)).masked_fill(~allowed, -1.0)
    heights = torch.where(heights == _highest(heights, 5), heights, -1.0)
    peaks, flat = heights.flatten(1).topk(count, dim=1)
    shifts = torch.stack((flat // width, flat % width), dim=-1)
    return shifts, peaks.clamp_min(0)


def _flattened(grey: Tensor) -> Tensor:
    """High-pass of (B, H, W), brought to like strength everywhere, so that no edge outweighs."""
    residual = grey - _box(_box(grey, 3, 3), 3, 3)
    strength = _box(residual.square(), 17, 17).sqrt() + 1.0
    return (residual / strength).clamp(-3, 3)


def _compare(grey: Tensor, shifts: Tensor, peaks: Tensor) -> Tensor:
    """Best agreement of each place with a shifted one, (B, 3, H / 4, W / 4)."""
    height, width = grey.shape[-2:]
    band = grey - _box(_box(grey, 13, 13), 13, 13)
    energy = _cells(band.square())
    best = torch.zeros_like(energy)
    standing = torch.zeros_like(energy)
    rows = torch.arange(height, device=grey.device)
    columns = torch.arange(width, device=grey.device)
    for k in range(shifts.shape[1]):
        shift = shifts[:, k]  # (B, 2)
        down = (rows + shift[:, :1]) % height  # (B, H)
        across = (columns + shift[:, 1:]) % width  # (B, W)
        index = down[:, :, None] * width + across[:, None, :]  # (B, H, W)
        moved = band.flatten(1).gather(1, index.flatten(1)).view_as(band)
        norm = torch.sqrt((energy + _FLOOR) * (_cells(moved.square()) + _FLOOR))
        agreement = (_cells(band * moved) / norm).clamp_min(0)  # (B, H / 4, W / 4)
        agreement = agreement * (peaks[:, k] >= _LEAST_PEAK)[:, None, None]
        agreement = torch.maximum(agreement, _back(agreement, shift))
        better = agreement > best
        best = torch.where(better, agreement, best)
        standing = torch.where(better, peaks[:, k, None, None].expand_as(best), standing)
    # Agreement lies near 1 or means little; the square root spreads out the upper end.
    clear = 1 - torch.sqrt((1 - best).clamp_min(0))
    return torch.stack((clear, torch.log1p(standing) / 4, torch.log1p(energy) / 8), dim=1)


def _back(agreement: Tensor, shift: Tensor) -> Tensor:
    """The same agreement seen from the other end: at x + d what was found at x."""
    height, width = agreement.shape[-2:]
    cells = torch.round(shift / STRIDE).long()
    rows = torch.arange(height, device=agreement.device)
    columns = torch.arange(width, device=agreement.device)
    down = (rows - cells[:, :1]) % height
    across = (columns - cells[:, 1:]) % width
    index = down[:, :, None] * width + across[:, None, :]
    return agreement.flatten(1).gather(1, index.flatten(1)).view_as(agreement)


def _cells(values: Tensor) -> Tensor:
    """Mean over windows of `_WINDOW` cells, one for each cell of `STRIDE` pixels."""
    return _box(F.avg_pool2d(values[:, None], STRIDE)[:, 0], _WINDOW, _WINDOW)


def _box(values: Tensor, rows: int, columns: int) -> Tensor:
    """Mean over a box around each place of (B, H, W); odd sides, only what lies inside counts."""
    return _mean_along(_mean_along(values, rows, 1), columns, 2)


def _mean_along(values: Tensor, side: int, dim: int) -> Tensor:
    # Adding slices is several times as fast as pooling, which does not vectorise at stride 1.
    first, *others = _slices(values, side, dim, 0.0)
    total = first.clone()
    for part in others:
        total += part
    length, half = values.shape[dim], side // 2
    place = torch.arange(length, device=values.device)
    inside = (place + half).clamp_max(length - 1) - (place - half).clamp_min(0) + 1
    return total / (inside[:, None] if dim == 1 else inside)


def _highest(values: Tensor, side: int) -> Tensor:
    """Highest of a square around each place of (B, H, W), as max pooling gives it."""
    for dim in (1, 2):
        first, *others = _slices(values, side, dim, float("-inf"))
        for part in others:
            first = torch.maximum(first, part)
        values = first
    return values


def _slices(values: Tensor, side: int, dim: int, outside: float) -> list[Tensor]:
    """The values seen from each of `side` neighbouring places along a dimension."""
    half, length = side // 2, values.shape[dim]
    frame = (0, 0, half, half) if dim == 1 else (half, half)
    padded = F.pad(values, frame, value=outside)
    return [padded.narrow(dim, start, length) for start in range(side)]


def _taper(height: int, width: int, like: Tensor) -> Tensor:
    """Fade of 16 pixels at the frame, whose jump would be an echo of its own."""
    fades = []
    for side in (height, width):
        place = torch.arange(side, device=like.device)
        fades.append((torch.minimum(place, side - 1 - place) + 1).clamp_max(16) / 16)
    return torch.outer(*fades).to(like.dtype)
