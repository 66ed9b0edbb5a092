from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imlctl.data.manifest import Entry, write_manifest
from imlctl.errors import ConfigError
from imlctl.forge.synthesizer import Sample
from imlctl.train.real_samples import (
    Mixture,
    RealConfig,
    RealSamples,
    RealSource,
    _crop,
    load_entries,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def entries(name: str, count: int, split: str = "train") -> tuple[Entry, ...]:
    from pathlib import Path

    return tuple(
        Entry(Path(f"/{name}/{n}.png"), Path(f"/{name}/{n}m.png"), name, split)
        for n in range(count)
    )


@pytest.fixture
def forgery(tmp_path: Path, photo: Callable[..., Any]) -> Entry:
    """A picture whose every pixel tells where it is from, with a small mask."""
    pixels = photo(3, 200, 320)
    mask = np.zeros((200, 320), np.uint8)
    mask[150:170, 250:280] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    return Entry(tmp_path / "a.png", tmp_path / "m.png", "s", "train")


class TestBalance:
    def test_an_epoch_holds_as_many_of_each_set(self) -> None:
        sets = [(1.0, entries("large", 100)), (1.0, entries("small", 7)), (2.0, entries("w", 9))]
        make = RealSamples(sets, size=64, per_epoch=20)
        assert make.epoch_length == 80
        for epoch in range(3):
            drawn = [make.entry(80 * epoch + i) for i in range(80)]
            assert Counter(e.set for e in drawn) == {"large": 20, "small": 20, "w": 40}
            often = Counter(e.image for e in drawn)
            assert max(often[e.image] for e in sets[0][1]) == 1
            assert {often[e.image] for e in sets[1][1]} == {2, 3}

    def test_the_next_epoch_draws_anew(self) -> None:
        make = RealSamples([(1.0, entries("a", 50))], size=64, per_epoch=20)
        first, second = ([make.entry(20 * e + i) for i in range(20)] for e in (0, 1))
        assert set(first) != set(second)

    def test_without_a_number_each_picture_comes_once(self) -> None:
        make = RealSamples([(1.0, entries("a", 5)), (1.0, entries("b", 3))], size=64)
        drawn = [make.entry(i) for i in range(8)]
        assert set(drawn) == {*entries("a", 5), *entries("b", 3)}
        assert drawn != [*entries("a", 5), *entries("b", 3)]

    def test_any_order_of_asking_gives_the_same(self) -> None:
        sets = [(1.0, entries("a", 9)), (0.5, entries("b", 4))]
        one, other = (RealSamples(sets, size=64, per_epoch=5, seed=3) for _ in range(2))
        asked = [one.entry(i) for i in range(30)]
        assert [other.entry(i) for i in reversed(range(30))] == asked[::-1]
        assert [
            RealSamples(sets, size=64, per_epoch=5, seed=4).entry(i) for i in range(30)
        ] != asked


class TestSamples:
    def test_a_sample_is_a_crop_at_native_resolution(self, forgery: Entry) -> None:
        """Without the pictures' own processing, every crop lies in the picture, pixel for pixel."""
        whole = np.asarray(Image.open(forgery.image))
        truth = np.asarray(Image.open(forgery.mask)) > 0  # type: ignore[arg-type]
        rng, aligned, held = np.random.default_rng(0), 0, 0
        places = {
            whole[y, x].tobytes() + whole[y + 1, x + 1].tobytes(): (y, x)
            for y in range(199)
            for x in range(319)
        }
        for _ in range(200):
            pixels, mask = _crop(whole, truth, 64, rng)
            y, x = places[pixels[0, 0].tobytes() + pixels[1, 1].tobytes()]
            assert np.array_equal(pixels, whole[y : y + 64, x : x + 64])
            assert np.array_equal(mask, truth[y : y + 64, x : x + 64])
            aligned += y % 8 == 0 and x % 8 == 0
            held += bool(mask.any())
        assert 80 <= aligned <= 130  # half, and a few by chance
        assert held >= 130

    def test_small_pictures_are_taken_whole(self) -> None:
        pixels = np.arange(40 * 50 * 3, dtype=np.uint16).astype(np.uint8).reshape(40, 50, 3)
        mask = np.zeros((40, 50), bool)
        mask[-3:] = True
        cut, truth = _crop(pixels, mask, 64, np.random.default_rng(0))
        assert np.array_equal(cut, pixels)
        assert np.array_equal(truth, mask)

    def test_numbers_repeat_and_differ(self, forgery: Entry) -> None:
        make, again = (RealSamples([(1.0, (forgery,))], size=64) for _ in range(2))
        samples = [make(i) for i in range(4)]
        for index in (2, 0):
            assert np.array_equal(again(index).pixels, samples[index].pixels)
            assert np.array_equal(again(index).mask, samples[index].mask)
        assert len({s.pixels.tobytes() for s in samples}) == 4
        for sample in samples:
            assert sample.pixels.shape == (64, 64, 3)
            assert sample.pixels.dtype == np.uint8
            assert sample.mask.shape == (64, 64)
            assert sample.sources == (str(forgery.image),)
            assert sample.kind == ("real" if sample.mask.any() else "authentic")

    def test_a_picture_that_exif_turns_keeps_its_grid_and_its_mask_turns_with_it(
        self, tmp_path: Path, photo: Callable[..., Any]
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        pixels = photo(1, 64, 96)
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        upright = np.zeros((96, 64), np.uint8)
        upright[:20, :10] = 255  # top left of what people see is bottom left of what is stored
        Image.fromarray(upright).save(tmp_path / "m.png")
        from imlctl.train.real_samples import _load

        found, mask = _load(Entry(tmp_path / "a.png", tmp_path / "m.png", "s", "t"))
        assert np.array_equal(found, pixels)
        assert mask.shape == (64, 96)
        assert mask[-10:, :20].all()
        assert mask.sum() == 200

    def test_a_mask_that_does_not_fit_is_named(self, forgery: Entry) -> None:
        assert forgery.mask is not None
        Image.new("L", (30, 30), 255).save(forgery.mask)
        with pytest.raises(ConfigError, match=r"m\.png: does not fit its picture .*a\.png"):
            RealSamples([(1.0, (forgery,))], size=64)(0)

    def test_mask_and_picture_turn_together(self, tmp_path: Path) -> None:
        marked = np.zeros((64, 64), np.uint8)
        marked[:20, :30] = 255
        Image.fromarray(marked).save(tmp_path / "m.png")
        Image.fromarray(marked).convert("RGB").save(tmp_path / "a.png")
        entry = Entry(tmp_path / "a.png", tmp_path / "m.png", "s", "train")
        samples = [RealSamples([(1.0, (entry,))], size=64)(index) for index in range(40)]
        for sample in samples:
            assert np.count_nonzero((sample.pixels[..., 1] > 127) != sample.mask) < 80
        assert len({sample.mask.tobytes() for sample in samples}) == 8


class TestMixture:
    def test_shares_are_exact_and_even(self) -> None:
        def maker(name: str) -> Any:
            blank = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), bool)
            return lambda index: Sample(*blank, name, (str(index),))

        make = Mixture(maker("synthetic"), maker("real"), 0.3)
        made = [make(i) for i in range(1000)]
        assert sum(s.kind == "real" for s in made) == 300
        for start in range(0, 1000, 20):
            assert 5 <= sum(s.kind == "real" for s in made[start : start + 20]) <= 7
        for kind in ("real", "synthetic"):  # none is skipped, none comes twice
            numbers = [int(s.sources[0]) for s in made if s.kind == kind]
            assert numbers == list(range(len(numbers)))


class TestManifests:
    @pytest.fixture
    def manifest(self, tmp_path: Path) -> Path:
        listed = [*entries("a", 3), *entries("a", 2, "val"), *entries("b", 4)]
        listed.append(Entry(tmp_path / "clean.png", None, "b", "train"))
        write_manifest(tmp_path / "m.csv", listed)
        return tmp_path / "m.csv"

    def test_splits_sets_and_kinds(self, manifest: Path) -> None:
        config = RealConfig((RealSource(manifest),))
        assert [(w, len(e)) for w, e in load_entries(config, "train")] == [(1.0, 3), (1.0, 5)]
        assert [(w, len(e)) for w, e in load_entries(config, "validation")] == [(1.0, 2)]
        only = RealConfig((RealSource(manifest, ("b",), kind="authentic", weight=0.5),))
        ((weight, (entry,)),) = load_entries(only, "train")
        assert (weight, entry.image.name) == (0.5, "clean.png")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"sets": ("c",)}, "no pictures of split 'train' in 'c'"),
            ({"split": "later"}, "no pictures of split 'later'"),
        ],
    )
    def test_nothing_found(self, change: dict[str, Any], message: str, manifest: Path) -> None:
        with pytest.raises(ConfigError, match=message):
            load_entries(RealConfig((RealSource(manifest, **change),)), "train")

    @pytest.mark.parametrize("wrong", [{"weight": 0}, {"validation": "train"}])
    def test_sources_are_checked(self, wrong: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="weight must be positive"):
            RealSource(tmp_path, **wrong)
