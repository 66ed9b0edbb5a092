"""Forgeries made on the fly: index in, picture and mask out, the same for the same seed.

The order matters. Host and donor get *different* random histories, then the forgery is made, then
the whole picture goes through one shared finish, so the only consistent cue is a mismatch inside
the frame. A third of the samples are left authentic and go through the same histories and finish,
so processing alone is not the cue. `originals` makes some of them the everyday case instead: what a
camera saved, edited once and saved again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from imlctl.forge import edits, history
from imlctl.forge.shapes import MAX_AREA, MIN_AREA, Mask, fit_object, random_mask, segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imlctl.forge.photos import PhotoPool

Pixels = NDArray[np.uint8]
Rng = np.random.Generator

_GRID = 8  # of a JPEG

# Kinds that change a picture inside a shape.
_IN_PLACE = {"copy_move": edits.copy_move, "removal": edits.remove, "retouch": edits.retouch}


def _finished_scale(rng: Rng) -> float:
    """How much the finished picture is enlarged: forgeries circulate reduced, some at half size."""
    if rng.random() < 0.62:
        return 1.0
    return float(np.exp(rng.uniform(np.log(0.45), np.log(1.2))))


@dataclass(frozen=True, slots=True)
class Mix:
    """Relative share of each kind of sample."""

    authentic: float = 0.33
    splice: float = 0.27
    copy_move: float = 0.16
    removal: float = 0.09
    regenerated: float = 0.09
    retouch: float = 0.06

    def __post_init__(self) -> None:
        """Refuse shares that are no distribution."""
        shares = self.shares()
        if min(shares.values()) < 0 or sum(shares.values()) <= 0:
            raise ValueError("shares of the kinds of forgery must not be negative, nor all zero")

    def shares(self) -> dict[str, float]:
        """Share of each kind, by name."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One training example: picture (S, S, 3) uint8, mask (S, S) bool, and how it was made.

    `sources` names the photographs that went into it.
    """

    pixels: Pixels
    mask: Mask
    kind: str
    sources: tuple[str, ...] = ()


class Maker(Protocol):
    """Makes sample number i, always the same one."""

    def __call__(self, index: int) -> Sample:
        """Make sample `index`."""


class Synthesizer:
    """Makes sample number i, always the same one for the same seed.

    Args:
        pool: Photographs to work on.
        size: Side of a sample, in pixels.
        mix: Shares of the kinds; `regenerated` needs regenerated photographs in the pool and
            becomes more splices without them.
        seed: Seed of everything.
        histories: Whether each source gets a history of its own; without, only what the photographs
            themselves went through tells them apart.
        originals: Share of the samples whose host is a photograph as it was saved: its own pixels
            on its own JPEG grid, without a history, and after the edit saved once at good quality.
    """

    def __init__(
        self,
        pool: PhotoPool,
        *,
        size: int = 256,
        mix: Mix | None = None,
        seed: int = 0,
        histories: bool = True,
        originals: float = 0.0,
    ) -> None:
        self.pool, self.size, self.seed, self.originals = pool, size, seed, originals
        self.untouched = 0.35 if histories else 1.0
        shares = (mix or Mix()).shares()
        if not pool.regenerated:
            shares["splice"] += shares.pop("regenerated")
        self.kinds = tuple(shares)
        self.shares = np.array(list(shares.values())) / sum(shares.values())
        self.with_objects = np.array(sorted(pool.objects))
        self.with_regenerated = np.array(sorted(pool.regenerated))
        areas = [photo.shape[0] * photo.shape[1] for photo in pool.photos]
        self.areas = np.array(areas, np.float64)  # a pixel of a large photograph is seen as often
        self._used: list[str] = []

    def __call__(self, index: int) -> Sample:
        """Make sample `index`."""
        self._used = []
        rng = np.random.default_rng((self.seed, index))
        kind = self.kinds[rng.choice(len(self.kinds), p=self.shares)]
        original = self.originals > 0 and rng.random() < self.originals
        scale = 1.0 if original else _finished_scale(rng)
        side = round(self.size / scale)
        canvas, mask = self._forge(kind, side, rng, original=original)
        if side != self.size:
            method = int(rng.choice(history.INTERPOLATIONS))
            canvas = history.resize(canvas, self.size, self.size, method)
            small = cv2.resize(
                mask.astype(np.float32), (self.size, self.size), interpolation=cv2.INTER_AREA
            )
            mask = small >= 0.5
        if kind != "authentic" and not mask.any():
            kind = "authentic"  # shrunk to nothing, and with it the forgery
        finish = history.random_save if original else history.random_finish
        finished = np.ascontiguousarray(finish(canvas, rng))
        return Sample(finished, mask, kind, tuple(dict.fromkeys(self._used)))

    def _forge(self, kind: str, side: int, rng: Rng, *, original: bool) -> tuple[Pixels, Mask]:
        outline = None
        if kind == "regenerated":
            return self._regenerated(side, rng, original=original)
        if original:
            host = self._original(range(len(self.pool)), side, rng)[0]
        elif kind in _IN_PLACE and len(self.with_objects) and rng.random() < 0.3:
            host, outline = self._with_outline(side, rng)
        else:
            host = self._source(int(rng.integers(len(self.pool))), side, rng)
        if kind == "authentic":
            return host, np.zeros((side, side), bool)
        if kind == "splice":
            return self._splice(host, side, rng)
        if outline is None and rng.random() < 0.3:
            outline = segment(host, rng)
        if kind == "copy_move" and outline is not None:
            return edits.clone(host, outline, rng)
        return _IN_PLACE[kind](host, self._shape(side, rng) if outline is None else outline, rng)

    def _splice(self, host: Pixels, side: int, rng: Rng) -> tuple[Pixels, Mask]:
        if len(self.with_objects) and rng.random() < 0.25:
            index, thing = self._thing(rng)
            donor, mask = self._object(index, thing, side, rng)
            if mask.sum() >= 64:
                donor = history.random_history(donor, rng, self.untouched)
                return edits.composite(host, donor, mask, rng)
        donor = self._source(int(rng.integers(len(self.pool))), side, rng)
        return edits.composite(host, donor, self._region(donor, 0.35, rng), rng)

    def _thing(self, rng: Rng) -> tuple[int, Mask]:
        """Draw an object: the number of its photograph, and its mask there."""
        index = int(rng.choice(self.with_objects))
        masks = self.pool.objects[index]
        return index, masks[rng.integers(len(masks))]

    def _region(self, pixels: Pixels, own: float, rng: Rng) -> Mask:
        """A region that follows the picture, a share `own` of the time; otherwise a shape."""
        cut = segment(pixels, rng) if rng.random() < own else None
        return self._shape(len(pixels), rng) if cut is None else cut

    def _shape(self, side: int, rng: Rng) -> Mask:
        """An object's outline a fifth of the time, so that shapes are not objects by habit."""
        if len(self.with_objects) and rng.random() < 0.2:
            return fit_object(rng, self._thing(rng)[1], side, side)
        return random_mask(rng, side, side)

    def _with_outline(self, side: int, rng: Rng) -> tuple[Pixels, Mask | None]:
        """A square as of `_source`, and the outline of a thing in it, if there is one."""
        index, thing = self._thing(rng)
        self._used.append(self.pool.names[index])
        drawn = thing.astype(np.uint8) * 255
        crop, cut = self._crop((self.pool.photos[index], drawn), side, rng)
        outline: Mask = cut > 127
        whole = MIN_AREA <= outline.mean() <= MAX_AREA
        return history.random_history(crop, rng, self.untouched), outline if whole else None

    def _original(
        self, among: Sequence[int] | NDArray[np.intp], side: int, rng: Rng
    ) -> list[Pixels]:
        """A square of a photograph as it was saved, and of its regenerated version if it has one.

        Args:
            among: Numbers of the photographs to choose from, the larger the more often.
            side: Of the square, in pixels.
            rng: Chooses.
        """
        shares = self.areas[among]
        index = int(rng.choice(among, p=shares / shares.sum()))
        self._used.append(self.pool.names[index])
        versions = [self.pool.photos[index]]
        if index in self.pool.regenerated:
            versions.append(self.pool.regenerated[index])
        return self._crop(versions, side, rng, native=True)

    def _source(self, index: int, side: int, rng: Rng) -> Pixels:
        """A square of one photograph with a random history, (side, side, 3)."""
        self._used.append(self.pool.names[index])
        crop = self._crop([self.pool.photos[index]], side, rng)[0]
        return history.random_history(crop, rng, self.untouched)

    def _crop(
        self, versions: Sequence[Pixels], side: int, rng: Rng, *, native: bool = False
    ) -> list[Pixels]:
        """Cut the same square from each version of a photograph.

        At native resolution where the photograph allows, on its 8x8 grid half the time; always with
        `native`, and mostly otherwise.
        """
        height, width = versions[0].shape[:2]
        short = min(height, width)
        cut = side
        scale = 1.0 if native else rng.random()
        if scale < 0.12:  # enlarged: soft, as the pixels of a large photograph are
            cut = round(min(short, side * float(rng.uniform(0.33, 0.7))))
        elif short < side or scale < 0.4:  # the scale at which copies circulate
            cut = round(min(short, side * float(np.exp(rng.uniform(-0.35, 0.9)))))
        grid = _GRID if native or rng.random() < 0.5 else 1
        y, x = (int(rng.integers((n - cut) // grid + 1)) * grid for n in (height, width))
        method = (
            cv2.INTER_AREA
            if cut > side and rng.random() < 0.5
            else int(rng.choice(history.INTERPOLATIONS))
        )
        mirrored = rng.choice((-1, 1)) < 0
        pieces = [photo[y : y + cut, x : x + cut] for photo in versions]
        if cut != side:
            pieces = [history.resize(piece, side, side, method) for piece in pieces]
        if mirrored:
            return [cast("Pixels", cv2.flip(piece, 1)) for piece in pieces]
        return [np.ascontiguousarray(piece) for piece in pieces]

    def _object(self, index: int, outline: Mask, side: int, rng: Rng) -> tuple[Pixels, Mask]:
        """An object with its surroundings, placed somewhere in the frame."""
        self._used.append(self.pool.names[index])
        photo = self.pool.photos[index]
        ys, xs = np.nonzero(outline)
        extent = max(np.ptp(ys), np.ptp(xs)) + 1
        scale = min(2.0, side * float(rng.uniform(0.2, 0.9)) / extent)
        cy, cx = (ys.min() + ys.max()) / 2, (xs.min() + xs.max()) / 2
        ty, tx = rng.uniform(0.25, 0.75, 2) * side
        if 0.8 < scale < 1.25:  # near enough: keep the object's own pixels
            scale, ty, tx = 1.0, round(ty - cy) + cy, round(tx - cx) + cx
        move = np.array([[scale, 0, tx - scale * cx], [0, scale, ty - scale * cy]])
        method = (
            cv2.INTER_NEAREST
            if scale == 1.0
            else int(rng.choice((cv2.INTER_LINEAR, cv2.INTER_CUBIC)))
        )
        donor = cv2.warpAffine(
            photo, move, (side, side), flags=method, borderMode=cv2.BORDER_REFLECT_101
        )
        mask = cv2.warpAffine(outline.astype(np.uint8), move, (side, side), flags=cv2.INTER_NEAREST)
        return donor, mask > 0  # type: ignore[return-value]

    def _regenerated(self, side: int, rng: Rng, *, original: bool) -> tuple[Pixels, Mask]:
        """Real and regenerated pixels of one crop share everything but the generator."""
        if original:
            host, generated = self._original(self.with_regenerated, side, rng)
        else:
            index = int(rng.choice(self.with_regenerated))
            self._used.append(self.pool.names[index])
            versions = (self.pool.photos[index], self.pool.regenerated[index])
            host, generated = self._crop(versions, side, rng)
        if rng.random() < 0.25:  # the whole frame through the generator is authentic everywhere
            return generated, np.zeros((side, side), bool)
        if rng.random() < 0.35:  # generators have a resolution of their own; the rest is enlarged
            generated = history.reduced(generated, float(rng.uniform(1.2, 3.0)), rng)
        picture, mask = edits.regenerate(host, generated, self._region(host, 0.25, rng), rng)
        return picture if original else history.random_history(picture, rng, untouched=0.7), mask
