from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from imlctl.forge import history, scenes, synthesizer
from imlctl.forge.history import Circulation
from imlctl.forge.photos import PhotoPool
from imlctl.forge.synthesizer import Mix, Sample, Synthesizer

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = tuple(f.name for f in fields(Mix))
NONE = dict.fromkeys(KINDS, 0.0)
ONLY = {kind: Mix(**{**NONE, kind: 1.0}) for kind in KINDS}


def equal(a: Sample, b: Sample) -> bool:
    return (
        a.kind == b.kind and np.array_equal(a.pixels, b.pixels) and np.array_equal(a.mask, b.mask)
    )


class TestMix:
    def test_a_little_over_a_third_is_authentic_by_default(self) -> None:
        shares = asdict(Mix())
        assert 0.33 < shares["authentic"] / sum(shares.values()) < 0.4

    def test_names_the_kinds(self) -> None:
        assert set(asdict(Mix())) == {
            *("authentic", "splice", "copy_move", "removal", "regenerated", "retouch")
        }

    @pytest.mark.parametrize("shares", [NONE, {"splice": -0.1}])
    def test_refuses_what_is_no_distribution(self, shares: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="must not be negative, nor all zero"):
            Mix(**shares)


@pytest.mark.parametrize("size", [64, 128])
def test_samples_have_the_size_asked_for(size: int, pool: PhotoPool) -> None:
    make = Synthesizer(pool, size=size)
    for index in range(25):
        sample = make(index)
        assert sample.side == size
        assert size // 2 <= min(sample.mask.shape)
        assert max(sample.mask.shape) <= size
        assert sample.pixels.shape == (*sample.mask.shape, 3)
        assert sample.pixels.dtype == np.uint8
        assert sample.pixels.flags.c_contiguous
        assert sample.mask.dtype == bool
        assert sample.kind in KINDS


def test_only_authentic_samples_have_an_empty_mask(pool: PhotoPool) -> None:
    make = Synthesizer(pool, size=64)
    for index in range(120):
        sample = make(index)
        assert sample.mask.any() == (sample.kind != "authentic")


def test_a_number_names_a_sample_for_good(pool: PhotoPool) -> None:
    first, second = (Synthesizer(pool, size=64, seed=3) for _ in range(2))
    forwards = [first(i) for i in range(20)]
    backwards = [second(i) for i in reversed(range(20))][::-1]
    assert all(map(equal, forwards, backwards))


def test_numbers_and_seeds_make_different_samples(pool: PhotoPool) -> None:
    samples = [Synthesizer(pool, size=64, seed=s)(i) for s in (0, 1) for i in range(20)]
    assert len({sample.pixels.tobytes() for sample in samples}) == 40


def test_kinds_come_in_their_shares(pool: PhotoPool) -> None:
    mix = Mix()
    make = Synthesizer(pool, size=64, mix=mix)
    count = 400
    seen = Counter(make(i).kind for i in range(count))
    shares = asdict(mix)
    # A quarter of the regenerated are regenerated whole, which is authentic everywhere.
    shares["authentic"] += shares["regenerated"] / 4
    shares["regenerated"] *= 3 / 4
    for kind, share in shares.items():
        spread = (share * (1 - share) / count) ** 0.5
        assert abs(seen[kind] / count - share) < 4 * spread, kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_mix_of_one_kind_makes_that_kind(kind: str, pool: PhotoPool) -> None:
    make = Synthesizer(pool, size=64, mix=Mix(**{**NONE, kind: 1.0}))
    seen = {make(i).kind for i in range(15)}
    assert seen - {"authentic"} == {kind} - {"authentic"}
    assert kind in seen


def test_without_regenerated_photographs_there_are_more_splices(pool: PhotoPool) -> None:
    bare = replace(pool, regenerated={})
    make = Synthesizer(bare, size=64, mix=Mix(**{**NONE, "regenerated": 1.0}))
    kinds = [make(i).kind for i in range(40)]
    assert kinds.count("splice") >= 38  # a sliver may vanish when it is feathered
    assert set(kinds) <= {"splice", "authentic"}


def test_objects_are_not_needed(pool: PhotoPool) -> None:
    make = Synthesizer(replace(pool, objects={}), size=64, mix=Mix(**{**NONE, "splice": 1.0}))
    assert any(make(i).mask.any() for i in range(3))


def test_small_photographs_are_enlarged(photo: Callable[..., Any]) -> None:
    small = PhotoPool(("a",), (photo(0, 128, 140),), {}, {})
    make = Synthesizer(small, size=256, mix=Mix(authentic=1, splice=1))
    for index in range(6):
        assert make(index).side == 256
        assert max(make(index).mask.shape) > 200


def test_many_samples_do_not_fill_their_square(pool: PhotoPool) -> None:
    make = Synthesizer(pool, size=128)
    samples = [make(i) for i in range(200)]
    padded = [s for s in samples if s.mask.shape != (128, 128)]
    assert 0.25 < len(padded) / len(samples) < 0.75
    ragged = [s for s in padded if s.mask.shape[0] % 32 or s.mask.shape[1] % 32]
    assert len(ragged) > 0.6 * len(padded)


def test_whole_photographs_are_reduced_until_they_fit(photo: Callable[..., Any]) -> None:
    """Red at the left, blue at the right: a whole photograph has both, at its own aspect."""
    wide = photo(0, 180, 240)
    wide[:, :24], wide[:, -24:] = (255, 0, 0), (0, 0, 255)
    make = Synthesizer(PhotoPool(("a",), (wide,), {}, {}), size=128, mix=ONLY["authentic"])
    whole = 0
    for sample in map(make, range(80)):
        left, right = (sample.pixels[:, side].mean(0) for side in (2, -3))
        red_to_blue = left[0] > 170 > left[2] + 60 and right[2] > 170 > right[0] + 60
        whole += red_to_blue and abs(sample.mask.shape[1] / sample.mask.shape[0] - 4 / 3) < 0.05
    assert 10 < whole < 50


def test_some_authentic_samples_are_drawn(pool: PhotoPool, monkeypatch: Any) -> None:
    asked = []
    drawn = scenes.draw
    monkeypatch.setattr(scenes, "draw", lambda *a, **k: asked.append(1) or drawn(*a, **k))
    make = Synthesizer(pool, size=64, mix=ONLY["authentic"])
    assert not any(make(i).mask.any() for i in range(120))
    assert 5 < len(asked) < 40


def test_forgeries_of_one_picture_may_be_several(pool: PhotoPool, monkeypatch: Any) -> None:
    made: list[int] = []
    edit = Synthesizer._edit

    def counted(self: Synthesizer, *args: Any) -> Any:
        made[-1] += 1
        return edit(self, *args)

    monkeypatch.setattr(Synthesizer, "_edit", counted)
    make = Synthesizer(pool, size=64, mix=ONLY["splice"])
    for index in range(150):
        made.append(0)
        make(index)
    counts = Counter(made)
    assert counts[1] > counts[2] > counts[3] > 0
    assert set(counts) == {1, 2, 3}


@pytest.mark.usefixtures("still")
def test_an_edit_that_changes_nothing_is_none() -> None:
    white = np.full((160, 160, 3), 255, np.uint8)
    make = Synthesizer(PhotoPool(("a",), (white,), {}, {}), size=64, mix=ONLY["copy_move"])
    for sample in map(make, range(30)):
        assert sample.kind == "authentic" or (sample.pixels < 255).any()


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples as they are before they circulate, and not saved anew before they are edited."""
    monkeypatch.setattr(history, "circulate", lambda shape, rng, **_: Circulation(shape, ()))
    monkeypatch.setattr(synthesizer, "jpeg", lambda pixels, _: pixels)
    monkeypatch.setattr(synthesizer, "_WHOLE_AUTHENTIC", 0.0)
    monkeypatch.setattr(synthesizer, "_WHOLE_FORGED", 0.0)
    monkeypatch.setattr(synthesizer, "_RAGGED", 0.0)
    monkeypatch.setattr(synthesizer, "_DRAWN", 0.0)


def untouched(pool: PhotoPool, **settings: Any) -> int:
    """Of 180 authentic samples, those whose pixels are still a photograph's."""
    make = Synthesizer(pool, size=64, mix=ONLY["authentic"], **settings)
    views = np.concatenate(
        [
            np.lib.stride_tricks.sliding_window_view(p, (6, 6), (0, 1))[..., 0, :, :].reshape(
                -1, 36
            )
            for p in (x for photo in pool.photos for x in (photo, photo[:, ::-1]))
        ]
    )
    raw = {view.tobytes() for view in views}
    return sum(
        np.ascontiguousarray(make(i).pixels[20:26, 20:26, 0]).tobytes() in raw for i in range(180)
    )


def test_authentic_samples_have_histories_and_circulate(pool: PhotoPool) -> None:
    """Most authentic samples are processed too, so that processing alone is no cue."""
    assert 0 < untouched(pool) < 60


@pytest.mark.usefixtures("still")
def test_originals_are_photographs_as_they_were_saved(pool: PhotoPool) -> None:
    assert untouched(pool, originals=1.0) == 180
    assert untouched(pool) < 90


@pytest.mark.usefixtures("still")
def test_an_original_lies_on_the_grid_of_its_jpeg(pool: PhotoPool) -> None:
    """Each photograph holds the place of each pixel within its block of 8x8."""
    places = tuple(
        np.dstack([np.indices(p.shape[:2])[i] % 8 for i in (0, 1, 1)]).astype(np.uint8) * 20
        for p in pool.photos
    )
    marked = PhotoPool(pool.names, places, {}, {})
    make = Synthesizer(marked, size=64, mix=ONLY["authentic"], originals=1.0)
    firsts = {tuple(map(int, make(i).pixels[8, 8])) for i in range(40)}
    assert firsts == {(0, 0, 0), (0, 140, 140)}  # the second of a mirrored one


@pytest.mark.usefixtures("still")
def test_large_photographs_are_originals_more_often(photo: Callable[..., Any]) -> None:
    photos = (photo(0, 128, 128), photo(1, 384, 384))
    make = Synthesizer(
        PhotoPool(("small", "large"), photos, {}, {}),
        size=64,
        mix=ONLY["authentic"],
        originals=1.0,
    )
    drawn = [make(i).sources[0] for i in range(100)]
    assert 80 <= drawn.count("large") < 100  # nine tenths of the pixels


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "authentic"])
def test_an_original_is_touched_only_near_its_mask(kind: str, pool: PhotoPool) -> None:
    """All else is some photograph's, but for a feathered rim."""
    make = Synthesizer(pool, size=128, mix=ONLY[kind], originals=1.0)
    looked = 0
    for sample in map(make, range(40)):
        photo = pool.photos[pool.names.index(sample.sources[0])]
        away = cv2.dilate(sample.mask.astype(np.uint8), np.ones((61, 61), np.uint8)) == 0
        if not away.any() or sample.kind != kind:
            continue
        looked += 1
        height, width = (n - 128 + 1 for n in photo.shape[:2])
        crops = (
            turned[y : y + 128, x : x + 128]
            for turned in (photo, photo[:, ::-1])
            for y in range(0, height, 8)
            for x in range(width + 8)
            if (x % 8 == 0) == (turned is photo) or x % 8
        )
        row, column = np.argwhere(away)[0]
        pixel = sample.pixels[row, column]
        assert any(
            crop.shape == (128, 128, 3)
            and (crop[row, column] == pixel).all()
            and (crop[away] == sample.pixels[away]).all()
            for crop in crops
        )
    assert looked >= 5
