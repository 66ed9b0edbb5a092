"""Real forgeries as numbered training samples: sets in balance, crops at native resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path  # `load_preset` reads the annotation
from typing import Literal

import numpy as np

from imlctl.data.manifest import Entry, read_manifest
from imlctl.data.masks import read_mask
from imlctl.errors import ConfigError
from imlctl.forge import Mask, Pixels, Rng, history
from imlctl.forge.photos import read_pixels
from imlctl.forge.synthesizer import Maker, Sample
from imlctl.image.prepare import stored

_GRID = 8  # of a JPEG
_NEAR = 0.7  # of the crops of a forgery hold some of it


@dataclass(frozen=True, slots=True)
class RealSource:
    """Part of a manifest to train on."""

    manifest: Path  # as `imlctl data index` writes it
    sets: tuple[str, ...] = ()  # sets of it; none for all
    split: str = "train"  # to train on
    validation: str = "val"  # split to validate on
    # ``all``, ``tampered`` or ``authentic`` pictures
    kind: Literal["all", "tampered", "authentic"] = "all"
    weight: float = 1.0  # factor on how many pictures of each set an epoch holds

    def __post_init__(self) -> None:
        if self.weight <= 0 or self.split == self.validation:
            raise ValueError("weight must be positive, and validation another split")


@dataclass(frozen=True, slots=True)
class RealConfig:
    """Real forgeries to train on, beside synthetic ones."""

    sources: tuple[RealSource, ...]  # where they are
    share: float = 0.5  # of all samples; the rest are synthetic
    per_epoch: int = 0  # pictures of each set in an epoch, drawn at random; 0 for each picture once

    def __post_init__(self) -> None:
        if not self.sources or not 0 < self.share <= 1 or self.per_epoch < 0:
            raise ValueError("needs a source, a share in (0, 1], and per_epoch not negative")


def load_entries(
    config: RealConfig, split: Literal["train", "validation"]
) -> list[tuple[float, tuple[Entry, ...]]]:
    """Read a split's pictures by set, each with its weight; ConfigError where there are none."""
    found = []
    for source in config.sources:
        wanted = source.split if split == "train" else source.validation
        by_set: dict[str, list[Entry]] = {}
        for entry in read_manifest(source.manifest):
            kind = "authentic" if entry.mask is None else "tampered"
            asked = not source.sets or entry.set in source.sets
            if asked and entry.split == wanted and source.kind in ("all", kind):
                by_set.setdefault(entry.set, []).append(entry)
        missing = [name for name in source.sets if name not in by_set]
        if split == "train" and (missing or not by_set):
            raise ConfigError(
                f"has no pictures of split {wanted!r}" + (f" in {missing[0]!r}" if missing else ""),
                source=str(source.manifest),
                remedy="Correct sets, split or kind, or index the dataset again.",
            )
        found += [(source.weight, tuple(entries)) for entries in by_set.values()]
    return found


class RealSamples:
    """Numbered samples of real pictures; see `RealConfig`.

    An epoch holds so many pictures of each set, in random order; the next draws anew. Each is a
    crop, turned, mirrored, and processed once more as a whole.
    """

    def __init__(
        self,
        sets: Sequence[tuple[float, tuple[Entry, ...]]],
        *,
        size: int,
        per_epoch: int = 0,
        seed: int = 0,
    ) -> None:
        self.sets, self.size, self.seed = sets, size, seed
        self.draws = [max(1, round((per_epoch or len(e)) * weight)) for weight, e in sets]
        self.epoch_length = sum(self.draws)
        self._order: tuple[int, list[Entry]] = (-1, [])

    def entry(self, index: int) -> Entry:
        """Return the picture that sample `index` is of."""
        epoch, place = divmod(index, self.epoch_length)
        if self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch, 1))
            drawn = [
                entries[i]
                for (_, entries), count in zip(self.sets, self.draws, strict=True)
                for i in _draw(rng, len(entries), count)
            ]
            self._order = (epoch, [drawn[i] for i in rng.permutation(len(drawn))])
        return self._order[1][place]

    def __call__(self, index: int) -> Sample:
        """Make sample `index`."""
        entry = self.entry(index)
        rng = np.random.default_rng((self.seed, index, 2))
        turns, mirror = int(rng.integers(4)), int(rng.choice((-1, 1)))
        pixels, mask = _crop(*_load(entry), self.size, rng)
        pixels = np.ascontiguousarray(np.rot90(pixels, turns)[:, ::mirror])
        mask = np.ascontiguousarray(np.rot90(mask, turns)[:, ::mirror])
        kind = "real" if mask.any() else "authentic"
        pixels = history.random_finish(pixels, rng)
        return Sample(pixels, mask, kind, (str(entry.image),), self.size)


def _draw(rng: Rng, size: int, count: int) -> list[int]:
    """Numbers below `size`, each as often as the next, give or take one."""
    rounds = [rng.permutation(size) for _ in range(-(-count // size))]
    return [int(i) for i in np.concatenate(rounds)[:count]]


def _load(entry: Entry) -> tuple[Pixels, Mask]:
    """Read a picture and its mask, both as stored: the JPEG grid is there."""
    pixels, orientation = read_pixels(entry.image)
    shape = pixels.shape[:2]
    if entry.mask is None:
        return pixels, np.zeros(shape, bool)
    mask = stored(read_mask(entry.mask), orientation)
    if mask.shape != shape:
        what = f"does not fit its picture {entry.image} ({mask.shape}, not {shape})"
        remedy = "Index the dataset again."
        raise ConfigError(what, source=str(entry.mask), remedy=remedy)
    return pixels, mask


def _crop(pixels: Pixels, mask: Mask, side: int, rng: Rng) -> tuple[Pixels, Mask]:
    """Cut a square at native resolution, on the 8x8 grid half the time; of what is small, all."""
    room = [max(0, n - side) for n in mask.shape]
    corner = [int(rng.integers(n + 1)) for n in room]
    if mask.any() and rng.random() < _NEAR:
        ys, xs = np.nonzero(mask)
        pick = int(rng.integers(len(ys)))
        inside = [int(rng.integers(side)) for _ in room]
        corner = np.clip((ys[pick] - inside[0], xs[pick] - inside[1]), 0, room).tolist()
    if rng.random() < 0.5:
        corner = [c // _GRID * _GRID for c in corner]
    y, x = corner
    return pixels[y : y + side, x : x + side], mask[y : y + side, x : x + side]


class Mixture:
    """Real and synthetic samples, a fixed share of real ones, evenly interleaved."""

    def __init__(self, synthetic: Maker, real: Maker, share: float) -> None:
        self.synthetic, self.real = synthetic, real
        self.share = Fraction(share).limit_denominator(1000)

    def __call__(self, index: int) -> Sample:
        """Make sample `index`."""
        before, after = int(index * self.share), int((index + 1) * self.share)
        return self.real(before) if after > before else self.synthetic(index - before)
