from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from imlctl.bench.cases import Case, authentic_pictures, find_cases
from imlctl.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 6)).save(path)
    return path


class TestFindCases:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for name in ("one/tampered/b.png", "one/masks/b.png", "one/tampered/a.jpg"):
            save(tmp_path / name)
        for name in ("one/masks/a.png", "one/authentic/c.tif", "two/authentic/d.bmp"):
            save(tmp_path / name)
        (tmp_path / "one" / "tampered" / "notes.txt").touch()
        (tmp_path / "readme.md").touch()
        return tmp_path

    def test_sets_in_order_with_their_masks(self, tree: Path) -> None:
        one, two = tree / "one", tree / "two"
        assert find_cases(tree) == [
            Case("one", one / "tampered" / "a.jpg", one / "masks" / "a.png"),
            Case("one", one / "tampered" / "b.png", one / "masks" / "b.png"),
            Case("one", one / "authentic" / "c.tif", None),
            Case("two", two / "authentic" / "d.bmp", None),
        ]

    def test_one_set_alone(self, tree: Path) -> None:
        assert find_cases(tree / "two") == find_cases(tree)[3:]
        assert find_cases(tree / "one") == find_cases(tree)[:3]

    def test_missing_mask(self, tree: Path) -> None:
        save(tree / "one" / "tampered" / "z.png")
        with pytest.raises(ConfigError, match=r"z.png: has no mask of the same stem"):
            find_cases(tree)

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"gone: no such folder"):
            find_cases(tmp_path / "gone")

    def test_another_layout(self, tmp_path: Path) -> None:
        save(tmp_path / "pictures" / "a.png")
        with pytest.raises(ConfigError, match=r"no evaluation pictures found.*Expected <set>/"):
            find_cases(tmp_path)

    def test_sources_of_copy_moves_lie_beside(self, tree: Path) -> None:
        source = save(tree / "one" / "masks_source" / "b.png")
        assert [case.source for case in find_cases(tree / "one")] == [None, source, None]

    def test_a_folder_has_no_splits(self, tree: Path) -> None:
        with pytest.raises(ConfigError, match="a folder has no splits"):
            find_cases(tree, split="test")


class TestManifest:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("a.png", "b.png", "m.png", "s.png"):
            save(tmp_path / "files" / name)
        return tmp_path

    def test_csv(self, folder: Path) -> None:
        (folder / "list.csv").write_text(
            "image,mask,masks_source,set,split,camera\n"
            "files/a.png,files/m.png,files/s.png,one,test,x\n"
            "files/b.png,,,one,train,y\n"
            "files/b.png,,,,test,y\n",
            "utf-8-sig",
        )
        a, b, m, s = (folder / "files" / f"{name}.png" for name in "abms")
        cases = [Case("one", a, m, s), Case("one", b, None), Case("list", b, None)]
        assert find_cases(folder / "list.csv") == cases
        assert find_cases(folder / "list.csv", split="test") == [cases[0], cases[2]]
        assert authentic_pictures(folder / "list.csv", split="test") == [cases[2]]

    def test_json_lines(self, folder: Path) -> None:
        rows = [
            {"image": "files/a.png", "mask": "files/m.png", "set": "one", "extra": 5},
            {"image": "files/b.png", "mask": None},
        ]
        (folder / "list.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
        one, two = find_cases(folder / "list.jsonl")
        assert (one.set, one.mask) == ("one", folder / "files" / "m.png")
        assert (two.set, two.mask) == ("list", None)

    @pytest.mark.parametrize(
        ("name", "text", "says"),
        [
            ("l.csv", "file\na.png\n", r"l.csv: has no column named image"),
            (
                "l.csv",
                "image,mask\nfiles/a.png,files/gone.png\n",
                r"l.csv:2: names as its mask a file",
            ),
            ("l.csv", "image\nfiles/gone.png\n", r"l.csv:2: names as its image a file"),
            ("l.csv", "image,split\nfiles/a.png,train\n", r"no picture of the split 'test'"),
            ("l.jsonl", "{", r"l.jsonl:1: is not JSON"),
            ("l.jsonl", '{"mask": "x"}', r"l.jsonl:1: names no picture"),
            ("l.jsonl", '{"image": 5}', r"l.jsonl:1: names no picture"),
            ("l.jsonl", "[]", r"l.jsonl:1: names no picture"),
        ],
    )
    def test_mistakes_are_named(self, folder: Path, name: str, text: str, says: str) -> None:
        (folder / name).write_text(text)
        with pytest.raises(ConfigError, match=says):
            find_cases(folder / name, split="test" if "split" in text else "")


class TestAuthenticPictures:
    def test_of_a_tree(self, tmp_path: Path) -> None:
        clean = save(tmp_path / "one" / "authentic" / "c.png")
        save(tmp_path / "one" / "tampered" / "t.png")
        save(tmp_path / "one" / "masks" / "t.png")
        assert authentic_pictures(tmp_path) == [Case("one", clean, None)]

    def test_of_any_folder(self, tmp_path: Path) -> None:
        paths = [save(tmp_path / name) for name in ("a.png", "deep/er/b.png")]
        assert [case.image for case in authentic_pictures(tmp_path)] == paths

    def test_a_folder_without_any(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no authentic pictures found"):
            authentic_pictures(tmp_path)
        with pytest.raises(ConfigError, match="no such folder"):
            authentic_pictures(tmp_path / "gone")
