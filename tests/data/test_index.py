from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from imlctl.data.index import build_index, counts
from imlctl.data.manifest import share_of
from imlctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Put = Callable[..., Path]


@pytest.fixture
def tree(photo: Put, mask: Put, tmp_path: Path) -> Path:
    """Three forgeries and two photographs."""
    for name in "abc":
        photo(f"set/tampered/{name}.png")
        mask(f"set/masks/{name}.png", name)
    for name in "xy":
        photo(f"set/authentic/{name}.jpg")
    return tmp_path / "set"


def test_entries(tree: Path, tmp_path: Path) -> None:
    index = build_index(tree, tmp_path / "rewritten")
    assert index.remarks == []
    assert not (tmp_path / "rewritten").exists()  # the masks are plain as they are
    assert counts(index.entries) == {("set", "train"): (3, 2)}
    first = index.entries[0]
    assert first.image == tree / "tampered/a.png"
    assert first.mask == tree / "masks/a.png"
    assert len(first.sha256) == 64


def test_each_fault_is_named_and_nothing_stops(
    tree: Path, tmp_path: Path, photo: Put, mask: Put
) -> None:
    (tree / "tampered/torn.png").write_bytes((tree / "tampered/a.png").read_bytes()[:900])
    mask("set/masks/torn.png", "torn")
    for name, shape in (("small", (30, 56)), ("turned", (56, 40))):
        photo(f"set/tampered/{name}.png")
        mask(f"set/masks/{name}.png", name, shape=shape)
    photo("set/tampered/empty.png")
    mask("set/masks/empty.png", "x", white=0)
    photo("set/tampered/full.png")
    mask("set/masks/full.png", "x", black=255)
    photo("set/tampered/alone.png")
    photo("set/tampered/odd.png")
    (tree / "masks/odd.png").write_text("no mask")
    index = build_index(tree, tmp_path / "rewritten")
    assert counts(index.entries) == {("set", "train"): (3, 2)}
    told = {remark.path.name: remark.what for remark in index.remarks}
    assert set(told) == {
        *("torn.png", "small.png", "turned.png", "empty.png"),
        *("full.png", "alone.png", "odd.png"),
    }
    assert "56x30, not 56x40" in told["small.png"]
    assert "marks nothing" in told["empty.png"]
    assert "marks the whole picture" in told["full.png"]
    assert told["alone.png"] == "has no mask"
    assert "is not a readable mask" in told["odd.png"]
    assert index.wrong == 7


def test_a_mask_lies_over_the_upright_picture(tmp_path: Path, photo: Put, mask: Put) -> None:
    """As everywhere else: a picture that EXIF turns has its mask upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, shape in (("right", (56, 40)), ("wrong", (40, 56))):
        photo(f"set/tampered/{name}.jpg", exif=exif)
        mask(f"set/masks/{name}.png", name, shape=shape)
    index = build_index(tmp_path / "set", tmp_path / "rewritten")
    assert [entry.image.stem for entry in index.entries] == ["right"]
    assert "56x40, not 40x56" in index.remarks[0].what


def test_scenes_are_held_out_whole(photo: Put, mask: Put, tmp_path: Path) -> None:
    for scene in range(30):
        photo(f"imd/{scene}/{scene}_orig.jpg")
        for number in range(2):
            photo(f"imd/{scene}/c{scene}_{number}.png")
            mask(f"imd/{scene}/c{scene}_{number}_mask.png", "m")
    index = build_index(tmp_path / "imd", tmp_path / "r", split="train", hold_out=0.4)
    where: dict[str, set[str]] = {}
    for entry in index.entries:
        where.setdefault(entry.image.parent.name, set()).add(entry.split)
    assert all(len(splits) == 1 for splits in where.values())
    held = sum(splits == {"val"} for splits in where.values())
    assert 5 <= held <= 19


@pytest.mark.parametrize(("split", "kept"), [("train", 5), ("test", 4)])
def test_no_picture_is_in_two_splits(split: str, kept: int, tree: Path, tmp_path: Path) -> None:
    """Of another manifest: the same bytes under another name."""
    other = tmp_path / "other" / "authentic"
    other.mkdir(parents=True)
    (other / "copy.jpg").write_bytes((tree / "authentic/x.jpg").read_bytes())
    first = build_index(tmp_path / "other", tmp_path / "r", split="train")
    second = build_index(tree, tmp_path / "r", split=split, against=first.entries)
    assert len(second.entries) == kept
    if kept < 5:
        (remark,) = second.remarks
        assert remark.path == tree / "authentic/x.jpg"
        assert "is the same file as" in remark.what
        assert "split 'train'" in remark.what


def test_within_one_set_too(tree: Path, tmp_path: Path) -> None:
    """Held out by name, a copy under another name would be trained on."""
    data = (tree / "authentic/x.jpg").read_bytes()
    for number in range(12):
        (tree / f"authentic/copy{number}.jpg").write_bytes(data)
    index = build_index(tree, tmp_path / "r", split="train", hold_out=0.5)
    same = [e for e in index.entries if e.image.stem.startswith("copy") or e.image.stem == "x"]
    assert len({entry.split for entry in same}) == 1
    assert len(same) + index.wrong == 13
    assert index.wrong > 0


def test_one_file_cannot_be_both(tree: Path, tmp_path: Path) -> None:
    (tree / "authentic/a.png").write_bytes((tree / "tampered/a.png").read_bytes())
    (remark,) = build_index(tree, tmp_path / "r").remarks
    assert remark.path == tree / "authentic/a.png"
    assert "one is called authentic" in remark.what


def test_workers_change_nothing(tree: Path, tmp_path: Path) -> None:
    many, one = (build_index(tree, tmp_path / "r", workers=n) for n in (4, 1))
    assert many.entries == one.entries


def test_rewritten_masks_stay_as_they_are(photo: Put, mask: Put, tmp_path: Path) -> None:
    photo("fr/ColorFakeImages/f.jpg")
    mask("fr/SegmentationFake/f.npz", "f")
    (first,) = build_index(tmp_path / "fr", tmp_path / "r").entries
    assert first.mask is not None
    assert first.mask.is_relative_to(tmp_path / "r" / "fantasticreality")
    before = first.mask.stat().st_mtime_ns
    (second,) = build_index(tmp_path / "fr", tmp_path / "r").entries
    assert second == first
    assert first.mask.stat().st_mtime_ns == before


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        build_index(tmp_path / "gone", tmp_path)
    with pytest.raises(UsageError, match="unknown layout 'casia3'"):
        build_index(tmp_path, tmp_path, layout="casia3")


def test_names_are_spread_evenly() -> None:
    held = [share_of(f"s/{number}") < 0.25 for number in range(2000)]
    assert np.mean(held) == pytest.approx(0.25, abs=0.04)


def test_splits_are_even(tmp_path: Path, photo: Put) -> None:
    for number in range(120):
        photo(f"set/{number}.png", (20, 20))
    index = build_index(tmp_path / "set", tmp_path / "r", layout="authentic", hold_out=0.25)
    assert np.mean([e.split == "val" for e in index.entries]) == pytest.approx(0.25, abs=0.12)
