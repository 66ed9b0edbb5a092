from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imlctl.data.manifest import share_of
from imlctl.errors import ConfigError
from imlctl.forge.photos import list_photos, load_pool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


_SIZES = ((100, 300), (300, 140), (160, 150))


def save_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(mask).save(path)


class TestListPhotos:
    def test_names_are_relative_sorted_and_of_pictures(self, tmp_path: Path) -> None:
        for name in ("b.JPG", "a/z.png", "a/notes.txt", "c.webp"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        assert [name for _, name in list_photos([tmp_path])] == ["a/z.png", "b.JPG", "c.webp"]

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"gone: no such folder of photographs"):
            list_photos([tmp_path / "gone"])

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no photographs found"):
            list_photos([tmp_path])


class TestLoadPool:
    def test_splits_are_disjoint_and_complete(self, save_photos: Callable[..., Path]) -> None:
        folder = save_photos(8)
        train, held = (
            load_pool([folder], validation=v, validation_share=0.5) for v in (False, True)
        )
        assert len(train) > 0
        assert len(held) > 0
        assert sorted(train.names + held.names) == [f"{i}.png" for i in range(8)]
        assert all(share_of(name) < 0.5 for name in held.names)

    def test_pixels_are_those_of_the_file(
        self, save_photos: Callable[..., Path], photo: Callable[..., Any]
    ) -> None:
        pool = load_pool([save_photos(3)], validation_share=0)
        for seed, pixels in enumerate(pool.photos):
            assert np.array_equal(pixels, photo(seed, 144, 144))

    def test_sixteen_bits_become_eight(self, tmp_path: Path) -> None:
        levels = np.linspace(0, 65535, 144 * 144).reshape(144, 144).astype(np.uint16)
        Image.fromarray(levels).save(tmp_path / "deep.png")
        (pixels,) = load_pool([tmp_path], validation_share=0).photos
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels[..., 0], levels >> 8)

    def test_reports_what_it_cannot_use(self, save_photos: Callable[..., Path]) -> None:
        folder = save_photos(1)
        Image.new("RGB", (300, 127)).save(folder / "narrow.png")
        (folder / "torn.png").write_bytes((folder / "0.png").read_bytes()[:900])
        (folder / "text.jpg").write_text("no picture")
        pool = load_pool([folder], validation_share=0)
        assert pool.names == ("0.png",)
        assert len(pool.skipped) == 3
        for name in ("narrow.png: smaller than 128 pixels", "torn.png", "text.jpg"):
            assert any(name in line for line in pool.skipped)

    def test_hidden_files_are_no_photographs(self, save_photos: Callable[..., Path]) -> None:
        folder = save_photos(2)
        (folder / "1.png").rename(folder / "._1.png")
        assert load_pool([folder], validation_share=0).names == ("0.png",)

    def test_objects_of_0_and_1_are_read_as_all_masks_are(
        self, save_photos: Callable[..., Path], tmp_path: Path
    ) -> None:
        mask = np.zeros((144, 144), np.uint8)
        mask[20:60, 30:90] = 1
        (tmp_path / "objects").mkdir()
        Image.fromarray(mask).save(tmp_path / "objects" / "0__1.png")
        pool = load_pool([save_photos(1)], objects=tmp_path / "objects", validation_share=0)
        assert np.array_equal(pool.objects[0][0], mask > 0)

    def test_objects_belong_to_the_photograph_of_their_stem(
        self, save_photos: Callable[..., Path], tmp_path: Path
    ) -> None:
        mask = np.zeros((144, 144), bool)
        mask[20:60, 30:90] = True
        objects = tmp_path / "objects"
        save_mask(objects / "1__7.png", mask)
        save_mask(objects / "1__8.png", mask.T)
        save_mask(objects / "2__1.png", mask[:100])  # of another size
        save_mask(objects / "3__1.png", mask & False)  # marks nothing
        save_mask(objects / "99__1.png", mask)  # of no photograph here
        (objects / "0__1.png").write_bytes(b"torn")
        pool = load_pool([save_photos(4)], objects=objects, validation_share=0)
        assert pool.names == ("0.png", "1.png", "2.png", "3.png")
        assert list(pool.objects) == [1]
        first, second = pool.objects[1]
        assert first.dtype == bool
        assert np.array_equal(first, mask)
        assert np.array_equal(second, mask.T)
        assert len(pool.skipped) == 1
        assert "0__1.png: is not a readable mask" in pool.skipped[0]

    def test_a_stem_may_hold_the_separator(self, tmp_path: Path, photo: Callable[..., Any]) -> None:
        Image.fromarray(photo(0, 144, 144)).save(tmp_path / "a__b.png")
        save_mask(tmp_path / "objects" / "a__b__3.png", np.ones((144, 144), bool))
        pool = load_pool([tmp_path], objects=tmp_path / "objects", validation_share=0)
        assert 0 in pool.objects

    def test_missing_folder_of_objects(
        self, save_photos: Callable[..., Path], tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError, match="gone: no such folder of object masks"):
            load_pool([save_photos(1)], objects=tmp_path / "gone")
