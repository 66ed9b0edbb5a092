"""Forgeries made on the fly: index in, picture and mask out, the same for the same seed.

Host and donor get *different* random histories, then the forgery is made, then the whole picture
circulates: a mismatch inside the frame is the only consistent cue. Authentic samples go through
the same. `originals` makes some of them what a camera saved, edited once and saved again. A sample
is a crop, or a whole picture reduced; like most photographs, it need not fill its square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from imlctl.forge import Mask, Pixels, Rng, Shape, edits, history, scenes
from imlctl.forge.jpeg import jpeg, random_encoding
from imlctl.forge.shapes import fair_size, fit_object, random_mask, segment

if TYPE_CHECKING:
    from imlctl.forge.photos import PhotoPool

_GRID = 8  # of a JPEG
_UNTOUCHED = 0.35  # of the sources keep the history that they came with
_RAGGED = 0.3  # of the samples do not fill their square
_PADDING = 31  # pixels, at most, that inference adds to a side
_WHOLE_AUTHENTIC, _WHOLE_FORGED = 0.4, 0.2  # of the samples are whole pictures
_LEAST_WHOLE = 0.75  # of the square's side that the shorter side of a whole picture fills
_DRAWN = 0.22  # of the authentic samples are drawn by `scenes`
_REGIONS = (0.72, 0.2, 0.08)  # of the forgeries have one, two and three regions
# Kinds that change a picture inside a shape.
_IN_PLACE = {"copy_move": edits.copy_move, "removal": edits.remove, "retouch": edits.retouch}
_LEAST_CHANGE = 0.05  # of the marked pixels differ, or nothing was done that anyone could find
_FURTHER = ("splice", "splice", "copy_move", "removal", "retouch")  # of a second or third region


@dataclass(frozen=True, slots=True)
class Mix:
    """Relative share of each kind of sample."""

    authentic: float = 0.40
    splice: float = 0.25
    copy_move: float = 0.16
    removal: float = 0.11
    regenerated: float = 0.14
    retouch: float = 0.05

    def __post_init__(self) -> None:
        shares = asdict(self).values()
        if min(shares) < 0 or sum(shares) <= 0:
            raise ValueError("shares of the kinds of forgery must not be negative, nor all zero")


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One training example."""

    pixels: Pixels  # (H, W, 3) uint8, with H and W at most `side`
    mask: Mask  # (H, W) bool, True where the picture was forged
    kind: str  # of the forgery, or ``authentic``
    sources: tuple[str, ...] = ()  # names of the photographs that went into it
    side: int = 0  # of the square that a batch pads it to; 0 for the larger of its own sides


Maker = Callable[[int], Sample]  # makes sample number i, always the same one


class Synthesizer:
    """Makes sample number i, always the same one for the same seed, in a square of `size` pixels.

    Without regenerated photographs more of them are splices than `mix` says. `originals` is the
    share of the samples whose host is a photograph on its own JPEG grid, without a history of ours,
    and after the edit saved with care.
    """

    def __init__(
        self,
        pool: PhotoPool,
        *,
        size: int = 256,
        mix: Mix | None = None,
        seed: int = 0,
        originals: float = 0.0,
    ) -> None:
        self.pool, self.size, self.seed, self.originals = pool, size, seed, originals
        shares: dict[str, float] = asdict(mix or Mix())
        if not pool.regenerated:
            shares["splice"] += shares.pop("regenerated")
        self.kinds = tuple(shares)
        self.shares = np.array(list(shares.values())) / sum(shares.values())
        self.with_objects = np.array(sorted(pool.objects))
        self.with_regenerated = np.array(sorted(pool.regenerated))
        self.shapes = np.array([photo.shape[:2] for photo in pool.photos])  # (N, 2)
        self.areas = self.shapes.prod(1).astype(float)  # a large photograph is seen more often
        longer = self.shapes.max(1) / size  # of those that fit when reduced to a half or less
        self.fitting = np.flatnonzero((longer > _LEAST_WHOLE) & (longer < 2))
        self._used: list[str] = []

    def __call__(self, index: int) -> Sample:
        """Make sample `index`."""
        self._used = []
        rng = np.random.default_rng((self.seed, index))
        kind = self.kinds[rng.choice(len(self.kinds), p=self.shares)]
        careful = self.originals > 0 and rng.random() < self.originals
        shape = self._shape(rng)
        whole = rng.random() < (_WHOLE_AUTHENTIC if kind == "authentic" else _WHOLE_FORGED)
        if whole and len(self.fitting) and kind != "regenerated":
            number = int(rng.choice(self.fitting))
            native = self.pool.photos[number].shape[:2]
            shape = self._fit(native, rng)
            plan = history.circulate(shape, rng, native=native, careful=careful)
        else:
            number = -1
            # Large squares are not made from squares of four times their area.
            largest = 2.0 if self.size <= 512 else 1.5
            plan = history.circulate(shape, rng, careful=careful, largest=largest)
        canvas, mask = self._forge(kind, plan.canvas, rng, careful=careful, whole=number)
        pixels, mask = plan(canvas, mask, rng)
        if kind != "authentic" and not mask.any():
            kind = "authentic"  # shrunk to nothing, or cut off, and with it the forgery
        return Sample(pixels, mask, kind, tuple(dict.fromkeys(self._used)), self.size)

    def _shape(self, rng: Rng) -> Shape:
        """The square's, or a little less, as of photographs that inference has to pad."""
        if rng.random() >= _RAGGED:
            return self.size, self.size
        height, width = (self.size - int(n) for n in rng.integers(0, _PADDING + 1, 2))
        return height, width

    def _fit(self, native: Shape, rng: Rng) -> Shape:
        """Height and width of a whole picture in the square, or of nearly the whole of it."""
        side = self.size - (int(rng.integers(_PADDING + 1)) if rng.random() < _RAGGED else 0)
        if max(native) <= side:
            return native
        scale = side / max(native)
        if rng.random() < 0.5 or min(native) * scale < _LEAST_WHOLE * side:  # lose a little of it
            scale = max(scale, float(rng.uniform(_LEAST_WHOLE, 1)) * side / min(native))
        height, width = (min(side, max(32, round(n * scale))) for n in native)
        return height, width

    def _forge(
        self, kind: str, shape: Shape, rng: Rng, *, careful: bool, whole: int
    ) -> tuple[Pixels, Mask]:
        """Make a picture of `shape`, forged as `kind` says, and its mask."""
        nothing = np.zeros(shape, bool)
        if kind == "regenerated":
            picture, mask = self._regenerated(shape, rng, careful=careful)
            if not mask.any():
                return picture, mask
        elif kind == "authentic" and whole < 0 and rng.random() < _DRAWN:
            return self._drawn(shape, rng), nothing
        else:
            host, outline = self._host(kind, shape, rng, careful=careful, whole=whole)
            if kind == "authentic":
                return host, nothing
            picture, mask = self._edit(kind, host, outline, rng)
        for _ in range(int(rng.choice(len(_REGIONS), p=_REGIONS))):
            further = _FURTHER[int(rng.integers(len(_FURTHER)))]
            picture, other = self._edit(further, picture, None, rng)
            mask = mask | other
        return picture, mask

    def _host(
        self, kind: str, shape: Shape, rng: Rng, *, careful: bool, whole: int
    ) -> tuple[Pixels, Mask | None]:
        """Choose what is to be edited, with the outline of a thing if it was chosen for one."""
        outline = None
        if whole >= 0:
            self._used.append(self.pool.names[whole])
            host = self.pool.photos[whole]
            if not careful:
                host = history.random_history(host, rng, _UNTOUCHED)
        elif careful:
            host = self._original(np.arange(len(self.pool)), shape, rng)[0]
        elif kind in _IN_PLACE and len(self.with_objects) and rng.random() < 0.3:
            host, outline = self._with_outline(shape, rng)
        else:
            host = self._source(int(rng.integers(len(self.pool))), shape, rng)
        if rng.random() < (0.2 if careful else 0.4):  # born as a JPEG, with its grid at the corner
            host = jpeg(np.ascontiguousarray(host), random_encoding(rng))
        return host, outline

    def _edit(self, kind: str, host: Pixels, outline: Mask | None, rng: Rng) -> tuple[Pixels, Mask]:
        """Edit a picture once; a patch of white put on white is no edit."""
        if kind == "splice":
            picture, mask = self._splice(host, rng)
        else:
            if outline is None and rng.random() < 0.3:
                outline = segment(host, rng)
            if kind == "copy_move" and outline is not None:
                picture, mask = edits.clone(host, outline, rng)
            else:
                where = self._region(cast("Shape", host.shape[:2]), rng)
                picture, mask = _IN_PLACE[kind](host, where if outline is None else outline, rng)
        if (picture[mask] != host[mask]).any(-1).mean() < _LEAST_CHANGE:
            return host, np.zeros_like(mask)
        return picture, mask

    def _splice(self, host: Pixels, rng: Rng) -> tuple[Pixels, Mask]:
        shape = cast("Shape", host.shape[:2])
        if len(self.with_objects) and rng.random() < 0.25:
            index, thing = self._thing(rng)
            donor, mask = self._object(index, thing, shape, rng)
            if mask.sum() >= 64:
                donor = history.random_history(donor, rng, _UNTOUCHED)
                return edits.composite(host, donor, mask, rng)
        donor = self._source(int(rng.integers(len(self.pool))), shape, rng)
        return edits.composite(host, donor, self._cut_out(donor, 0.35, rng), rng)

    def _thing(self, rng: Rng) -> tuple[int, Mask]:
        """Draw an object: the number of its photograph, and its mask there."""
        index = int(rng.choice(self.with_objects))
        masks = self.pool.objects[index]
        return index, masks[rng.integers(len(masks))]

    def _cut_out(self, pixels: Pixels, own: float, rng: Rng) -> Mask:
        """A region that follows the picture, a share `own` of the time; otherwise a shape."""
        cut = segment(pixels, rng) if rng.random() < own else None
        return self._region(cast("Shape", pixels.shape[:2]), rng) if cut is None else cut

    def _region(self, shape: Shape, rng: Rng) -> Mask:
        """An object's outline a fifth of the time, so that shapes are not objects by habit."""
        if len(self.with_objects) and rng.random() < 0.2:
            return fit_object(rng, self._thing(rng)[1], *shape)
        return random_mask(rng, *shape)

    def _with_outline(self, shape: Shape, rng: Rng) -> tuple[Pixels, Mask | None]:
        """A crop as of `_source`, and the outline of a thing in it, if there is one."""
        index, thing = self._thing(rng)
        self._used.append(self.pool.names[index])
        drawn = thing.astype(np.uint8) * 255
        crop, cut = self._crop((self.pool.photos[index], drawn), shape, rng)
        outline: Mask = cut > 127
        crop = history.random_history(crop, rng, _UNTOUCHED)
        return crop, outline if fair_size(outline) else None

    def _original(self, among: NDArray[np.intp], shape: Shape, rng: Rng) -> list[Pixels]:
        """A crop of a photograph as it was saved, and of its regenerated version if it has one.

        Chosen among those large enough for `shape`, if there are any; the larger the more often.
        """
        fits = among[(self.shapes[among] >= shape).all(1)]
        among = fits if len(fits) else among
        shares = self.areas[among]
        index = int(rng.choice(among, p=shares / shares.sum()))
        return self._crop(self._versions(index), shape, rng, native=True)

    def _versions(self, index: int) -> list[Pixels]:
        """A photograph, and what a generator made of it."""
        self._used.append(self.pool.names[index])
        made = self.pool.regenerated
        return [self.pool.photos[index], *([made[index]] if index in made else [])]

    def _source(self, index: int, shape: Shape, rng: Rng) -> Pixels:
        """A crop of one photograph with a random history, of `shape`."""
        self._used.append(self.pool.names[index])
        crop = self._crop([self.pool.photos[index]], shape, rng)[0]
        return history.random_history(crop, rng, _UNTOUCHED)

    def _crop(
        self, versions: Sequence[Pixels], shape: Shape, rng: Rng, *, native: bool = False
    ) -> list[Pixels]:
        """Cut the same rectangle from each version of a photograph.

        At native resolution where the photograph allows; on its 8x8 grid always with `native`, and
        a quarter of the time otherwise.
        """
        room = min(n / s for n, s in zip(versions[0].shape, shape, strict=False))
        scale, draw = min(1.0, room), 1.0 if native else rng.random()
        if draw < 0.12:  # enlarged: soft, as the pixels of a large photograph are
            scale = min(room, float(rng.uniform(0.33, 0.7)))
        elif room < 1 or draw < 0.4:  # the scale at which copies circulate
            scale = min(room, float(np.exp(rng.uniform(-0.35, 0.9))))
        limits = versions[0].shape[:2]
        cut = [min(n, max(8, round(s * scale))) for n, s in zip(limits, shape, strict=True)]
        grid = _GRID if native or rng.random() < 0.25 else 1
        spare = [(n - c) // grid for n, c in zip(limits, cut, strict=True)]
        y, x = (int(rng.integers(n + 1)) * grid for n in spare)
        area = scale > 1 and rng.random() < 0.5
        method = cv2.INTER_AREA if area else int(rng.choice(history.INTERPOLATIONS))
        mirrored = rng.choice((-1, 1)) < 0
        pieces = [photo[y : y + cut[0], x : x + cut[1]] for photo in versions]
        if tuple(cut) != shape:
            pieces = [history.resize(piece, *shape, method) for piece in pieces]
        if mirrored:
            return [cast("Pixels", cv2.flip(piece, 1)) for piece in pieces]
        return [np.ascontiguousarray(piece) for piece in pieces]

    def _object(self, index: int, outline: Mask, shape: Shape, rng: Rng) -> tuple[Pixels, Mask]:
        """An object with its surroundings, placed somewhere in the frame."""
        self._used.append(self.pool.names[index])
        photo = self.pool.photos[index]
        ys, xs = np.nonzero(outline)
        extent = max(np.ptp(ys), np.ptp(xs)) + 1
        scale = min(2.0, min(shape) * float(rng.uniform(0.2, 0.9)) / extent)
        cy, cx = (ys.min() + ys.max()) / 2, (xs.min() + xs.max()) / 2
        ty, tx = rng.uniform(0.25, 0.75, 2) * shape
        if 0.8 < scale < 1.25:  # near enough: keep the object's own pixels
            scale, ty, tx = 1.0, round(ty - cy) + cy, round(tx - cx) + cx
        move = np.array([[scale, 0, tx - scale * cx], [0, scale, ty - scale * cy]])
        smooth = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)
        method = cv2.INTER_NEAREST if scale == 1.0 else int(rng.choice(smooth))
        size, edge = shape[::-1], cv2.BORDER_REFLECT_101
        donor = cv2.warpAffine(photo, move, size, flags=method, borderMode=edge)
        mask = cv2.warpAffine(outline.astype(np.uint8), move, size, flags=cv2.INTER_NEAREST)
        return cast("Pixels", donor), np.asarray(mask > 0)

    def _drawn(self, shape: Shape, rng: Rng) -> Pixels:
        """An authentic picture of `scenes`; things and screens show photographs of the pool."""
        thing = None
        if len(self.with_objects):
            index, outline = self._thing(rng)
            thing = self.pool.photos[index], outline
        shown = self._crop([self.pool.photos[int(rng.integers(len(self.pool)))]], shape, rng)[0]
        return scenes.draw(shape, rng, thing=thing, shown=shown)

    def _regenerated(self, shape: Shape, rng: Rng, *, careful: bool) -> tuple[Pixels, Mask]:
        """Real and regenerated pixels of one crop share everything but the generator."""
        if careful:
            host, generated = self._original(self.with_regenerated, shape, rng)
        else:
            index = int(rng.choice(self.with_regenerated))
            host, generated = self._crop(self._versions(index), shape, rng)
        if rng.random() < 0.25:  # the whole frame through the generator is authentic everywhere
            return generated, np.zeros(shape, bool)
        if rng.random() < 0.35:  # generators have a resolution of their own; the rest is enlarged
            generated = history.reduced(generated, float(rng.uniform(1.2, 3.0)), rng)
        picture, mask = edits.regenerate(host, generated, self._cut_out(host, 0.25, rng), rng)
        return picture if careful else history.random_history(picture, rng, untouched=0.7), mask
