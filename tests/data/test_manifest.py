from __future__ import annotations

from pathlib import Path

import pytest

from imlctl.data.manifest import Entry, read_manifest, share_of, write_manifest
from imlctl.errors import ConfigError, OutputError

HEAD = "image,mask,set,split\n"


def entries(folder: Path) -> list[Entry]:
    return [
        Entry(folder / "a, b.jpg", folder / "m/a.png", "one", "train", "0" * 64),
        Entry(folder / 'quo"te\n.png', None, "one", "val"),
        Entry(Path("/elsewhere/ü.jpg"), None, "two", "test"),
        Entry(folder / "bad-\udcff.jpg", None, "two", "test"),
    ]


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "M.JSONL", "m.txt"])
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


def test_is_taken_from_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.csv").write_text(HEAD + "1.jpg,,s,train\n")
    monkeypatch.chdir(tmp_path)
    assert read_manifest(Path("m.csv"))[0].image == tmp_path / "1.jpg"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "", "lacks the column 'image'"),
        ("m.csv", "image,mask,set\na,,s\n", "lacks the column 'split'"),
        ("m.csv", HEAD, "lists no pictures"),
        ("m.csv", HEAD + ",,s,train\n", "line 2 names no image"),
        ("m.csv", HEAD + "a,,s,train\nb,,,train\n", "line 3: set and split must not be empty"),
        ("m.csv", HEAD + "a\n", "line 2: set and split must not be empty"),
        ("m.csv", HEAD + 'a,"b,s,train\n', "is not valid CSV"),
        ("m.csv", "image,mask,set,split,sha256\na,,s,t,123\n", "line 2: sha256 must have 64"),
        ("m.jsonl", "{", "line 1 is not valid JSON"),
        ("m.jsonl", "[]", "line 1 is not a table"),
        ("m.jsonl", '{"image": 3, "set": "s", "split": "t"}', "line 1: image must be text"),
        ("m.jsonl", "", "lists no pictures"),
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
    assert len(read_manifest(path)) == 4


def test_shares_are_even_and_fixed() -> None:
    values = [share_of(f"{n}") for n in range(4000)]
    assert all(0 <= v < 1 for v in values)
    for bound in (0.1, 0.5, 0.9):
        assert sum(v < bound for v in values) / 4000 == pytest.approx(bound, abs=0.03)
    assert share_of("a") == share_of("a") == pytest.approx(0.7914, abs=1e-4)
