from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from imlctl.data.manifest import (
    Entry,
    authentic_pictures,
    evaluation_pictures,
    read_manifest,
    share_of,
    write_manifest,
)
from imlctl.errors import ConfigError, OutputError

HEAD = "image,mask,set,split\n"


def entries(folder: Path) -> list[Entry]:
    return [
        Entry(folder / "a, b.jpg", folder / "m/a.png", "one", "train", "0" * 64),
        Entry(folder / 'quo"te\n.png', None, "one", "val"),
        Entry(Path("/elsewhere/ü.jpg"), None, "two", "test"),
        Entry(folder / "c.jpg", folder / "c.png", "two"),
        Entry(folder / "bad-\udcff.jpg", None, "two", "test"),
    ]


@pytest.mark.parametrize("name", ["m.csv", "m.json", "m.jsonl", "m.ndjson", "M.JSONL", "m.txt"])
def test_round_trip(name: str, tmp_path: Path) -> None:
    wanted = entries(tmp_path)
    write_manifest(tmp_path / name, wanted)
    assert read_manifest(tmp_path / name) == wanted


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_dataset_and_manifest_move_together(name: str, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    write_manifest(before / name, entries(before))
    before.rename(after)
    assert read_manifest(after / name) == entries(after)


def test_is_readable_by_people_and_spreadsheets(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.csv", entries(tmp_path)[:1])
    zeros = "0" * 64
    assert (tmp_path / "m.csv").read_text() == (
        f'image,mask,set,split,sha256\n"a, b.jpg",m/a.png,one,train,{zeros}\n'
    )


def test_a_manifest_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("\ufeffsplit,note,set,mask,image\r\ntrain,mine,s,,x/1.jpg\r\n", "utf-8")
    assert read_manifest(path) == [Entry(tmp_path / "x/1.jpg", None, "s", "train")]
    lines = tmp_path / "m.jsonl"
    lines.write_text('\n{"image": "x/1.jpg", "mask": null, "set": "s", "split": "train"}\n')
    assert read_manifest(lines) == read_manifest(path)
    listed = tmp_path / "m.json"
    listed.write_text('[\n {"image": "x/1.jpg", "set": "s",\n  "split": "train"}\n]\n')
    assert read_manifest(listed) == read_manifest(path)


def test_a_set_is_called_after_its_manifest(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("image,mask,camera\na.png,m.png,x\n")
    assert read_manifest(path) == [Entry(tmp_path / "a.png", tmp_path / "m.png", "mine", "")]


def test_is_taken_from_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.csv").write_text(HEAD + "1.jpg,,s,train\n")
    monkeypatch.chdir(tmp_path)
    assert read_manifest(Path("m.csv"))[0].image == tmp_path / "1.jpg"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "", "lacks the column 'image'"),
        # The mask column misspelt: each forgery would pass for an authentic picture.
        ("m.csv", "image,masks,set\na,b,s\n", "lacks the column 'mask'"),
        ("m.csv", HEAD, "lists no pictures"),
        ("m.csv", HEAD + ",,s,train\n", "line 2 names no image"),
        ("m.csv", HEAD + 'a,"b,s,train\n', "is not valid CSV"),
        ("m.csv", "image,mask,set,split,sha256\na,,s,t,123\n", "line 2: sha256 must have 64"),
        ("m.jsonl", "{", "line 1 is not valid JSON"),
        ("m.ndjson", "[]", "line 1 is not an object"),
        ("m.jsonl", '{"mask": "x"}', "line 1 names no image"),
        ("m.jsonl", '{"image": 3, "set": "s", "split": "t"}', "line 1: image must be text"),
        ("m.jsonl", "", "lists no pictures"),
        ("m.json", "[1]", "entry 1 is not an object"),
        ("m.json", "[", "is not valid JSON"),
        ("m.json", "[]", "lists no pictures"),
    ],
)
def test_what_is_wrong_is_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.csv: cannot be read \(No such file"):
        read_manifest(tmp_path / "gone.csv")


def test_does_not_replace_unasked(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("mine")
    with pytest.raises(OutputError, match="already there"):
        write_manifest(path, entries(tmp_path))
    assert path.read_text() == "mine"
    write_manifest(path, entries(tmp_path), overwrite=True)
    assert len(read_manifest(path)) == 5


def test_shares_are_even_and_fixed() -> None:
    values = [share_of(f"{n}") for n in range(4000)]
    assert all(0 <= v < 1 for v in values)
    for bound in (0.1, 0.5, 0.9):
        assert sum(v < bound for v in values) / 4000 == pytest.approx(bound, abs=0.03)
    assert share_of("a") == share_of("a") == pytest.approx(0.7914, abs=1e-4)


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 6)).save(path)
    return path


class TestEvaluationPictures:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for name in ("one/tampered/b.png", "one/masks/b.png", "one/tampered/a.jpg"):
            save(tmp_path / name)
        for name in ("one/masks/a_mask.png", "one/authentic/c.tif", "two/authentic/d.bmp"):
            save(tmp_path / name)
        (tmp_path / "one" / "tampered" / "notes.txt").touch()
        (tmp_path / "readme.md").touch()
        return tmp_path

    def test_sets_in_order_with_their_masks(self, tree: Path) -> None:
        one, two = tree / "one", tree / "two"
        assert evaluation_pictures(tree) == [
            Entry(one / "tampered" / "a.jpg", one / "masks" / "a_mask.png", "one"),
            Entry(one / "tampered" / "b.png", one / "masks" / "b.png", "one"),
            Entry(one / "authentic" / "c.tif", None, "one"),
            Entry(two / "authentic" / "d.bmp", None, "two"),
        ]

    def test_one_set_alone(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert evaluation_pictures(tree / "two") == evaluation_pictures(tree)[3:]
        assert evaluation_pictures(tree / "one") == evaluation_pictures(tree)[:3]
        monkeypatch.chdir(tree / "one")
        assert [entry.set for entry in evaluation_pictures(Path())] == ["one"] * 3

    def test_every_missing_mask_is_named(self, tree: Path) -> None:
        missing = [save(tree / "one" / "tampered" / name) for name in ("y.png", "z.png")]
        with pytest.raises(ConfigError, match="2 tampered pictures without a mask") as caught:
            evaluation_pictures(tree)
        assert all(str(path) in str(caught.value) for path in missing)

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"gone: cannot be read"):
            evaluation_pictures(tmp_path / "gone")

    def test_another_layout(self, tmp_path: Path) -> None:
        save(tmp_path / "pictures" / "a.png")
        with pytest.raises(ConfigError, match=r"holds no evaluation pictures.*Expected <set>/"):
            evaluation_pictures(tmp_path)

    def test_a_folder_has_no_splits(self, tree: Path) -> None:
        with pytest.raises(ConfigError, match="a folder has no splits"):
            evaluation_pictures(tree, split="test")

    def test_a_split_of_a_manifest(self, tmp_path: Path) -> None:
        a, b, m = (save(tmp_path / "files" / f"{name}.png") for name in "abm")
        path = tmp_path / "list.csv"
        path.write_text(
            "image,mask,set,split,camera\n"
            "files/a.png,files/m.png,one,test,x\n"
            "files/b.png,,one,train,y\n"
            "files/b.png,,,test,y\n",
            "utf-8-sig",
        )
        forged = Entry(a, m, "one", "test")
        assert evaluation_pictures(path, split="test") == [forged, Entry(b, None, "list", "test")]
        assert len(evaluation_pictures(path)) == 3
        assert authentic_pictures(path, split="test") == [Entry(b, None, "list", "test")]
        with pytest.raises(ConfigError, match="no picture of the split 'val'"):
            evaluation_pictures(path, split="val")

    def test_every_missing_file_of_a_manifest_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "l.csv").write_text("image,mask\ngone.png,\nlost.png,m.png\n")
        with pytest.raises(ConfigError, match=r"l.csv: names 3 files .*gone.*lost.*m\.png"):
            evaluation_pictures(tmp_path / "l.csv")


class TestAuthenticPictures:
    def test_of_a_tree(self, tmp_path: Path) -> None:
        clean = save(tmp_path / "one" / "authentic" / "c.png")
        save(tmp_path / "one" / "tampered" / "t.png")
        save(tmp_path / "one" / "masks" / "t.png")
        assert authentic_pictures(tmp_path) == [Entry(clean, None, "one")]

    def test_of_any_folder(self, tmp_path: Path) -> None:
        paths = [save(tmp_path / name) for name in ("a.png", "deep/er/b.png")]
        assert [entry.image for entry in authentic_pictures(tmp_path)] == paths

    def test_a_folder_without_any(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="holds no authentic pictures"):
            authentic_pictures(tmp_path)
        with pytest.raises(ConfigError, match="cannot be read"):
            authentic_pictures(tmp_path / "gone")
