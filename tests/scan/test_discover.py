import errno
import inspect
import os
import sys
from pathlib import Path, PurePath

import pytest

from imlctl.errors import InputError, UsageError
from imlctl.scan.discover import SUFFIXES, Picture, discover
from imlctl.scan.listing import Patterns


def grow(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def found(*inputs, **keywords):
    return [
        str(picture.name) for picture in discover([str(i) for i in inputs], **keywords).pictures
    ]


def test_a_file_is_taken_whatever_its_suffix_and_even_if_missing(tmp_path):
    grow(tmp_path, "evidence", "a.doc")
    given = [str(tmp_path / name) for name in ("a.doc", "evidence", "gone.jpg")]
    discovery = discover(given)
    assert [str(picture.path) for picture in discovery.pictures] == given
    assert [str(picture.name) for picture in discovery.pictures] == [
        "a.doc",
        "evidence",
        "gone.jpg",
    ]
    assert discovery.many
    assert not discover(given[:1]).many


def test_a_folder_gives_its_pictures_in_byte_order(tmp_path):
    grow(tmp_path, "b.JPG", "a.png", "B.jpg", "ä.webp", "a-b.tif", "notes.txt", "c")
    discovery = discover([str(tmp_path)])
    assert [str(picture.name) for picture in discovery.pictures] == [
        *("B.jpg", "a-b.tif", "a.png", "b.JPG", "ä.webp")
    ]
    assert discovery.many
    (note,) = discovery.notes
    assert "1 .txt" in note
    assert "1 without suffix" in note


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".webp", ".tiff", ".bmp", ".gif"])
def test_suffixes_of_all_formats_are_looked_for(tmp_path, suffix):
    grow(tmp_path, "a" + suffix.upper())
    assert suffix in SUFFIXES
    assert found(tmp_path) == ["a" + suffix.upper()]


def test_folders_within_are_searched_only_when_asked(tmp_path):
    grow(tmp_path, "a.jpg", "sub/b.jpg", "sub/deep/c.jpg", "sub.jpg/d.jpg")
    assert found(tmp_path) == ["a.jpg"]
    assert found(tmp_path, recursive=True) == [
        *("a.jpg", "sub/b.jpg", "sub/deep/c.jpg", "sub.jpg/d.jpg")
    ]


def test_the_order_does_not_depend_on_the_disk(tmp_path, monkeypatch):
    grow(tmp_path, *(f"{folder}/{name}.jpg" for folder in "yxz" for name in "cab"))
    expected = found(tmp_path, recursive=True)
    real = os.scandir

    class Reversed:
        def __init__(self, folder):
            with real(folder) as scan:
                self.entries = sorted(scan, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(os, "scandir", Reversed)
    assert found(tmp_path, recursive=True) == expected == sorted(expected)


def test_hidden_evidence_is_evidence(tmp_path):
    grow(tmp_path, ".hidden.jpg", ".cache/b.jpg")
    assert found(tmp_path, recursive=True) == [".cache/b.jpg", ".hidden.jpg"]


def test_links_to_folders_are_not_followed_and_said(tmp_path):
    grow(tmp_path, "in/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "loop.jpg").symlink_to(tmp_path / "in")
    discovery = discover([str(tmp_path / "in")], recursive=True)
    assert [str(picture.name) for picture in discovery.pictures] == ["a.jpg"]
    assert len(discovery.notes) == 2
    assert all("not followed" in note for note in discovery.notes)


def test_a_folder_given_through_a_link_is_searched(tmp_path):
    grow(tmp_path, "in/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert found(tmp_path / "link") == ["a.jpg"]


def test_links_to_pictures_are_pictures(tmp_path):
    grow(tmp_path, "store/0001", "in/x.txt")
    (tmp_path / "in" / "a.jpg").symlink_to(tmp_path / "store" / "0001")
    assert found(tmp_path / "in") == ["a.jpg"]


def test_what_looks_like_a_picture_and_cannot_be_read_is_reported(tmp_path):
    grow(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    discovery = discover([str(tmp_path)])
    assert [str(picture.name) for picture in discovery.pictures] == ["a.jpg"]
    assert sorted(Path(problem.source).name for problem in discovery.problems) == [
        *("circle.jpg", "dangling.jpg", "pipe.jpg")
    ]


def test_a_folder_that_cannot_be_read_is_reported_and_the_rest_is_found(tmp_path, monkeypatch):
    grow(tmp_path, "a.jpg", "secret/b.jpg", "z/c.jpg")
    real = os.scandir

    def scandir(folder):
        if Path(folder).name == "secret":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    discovery = discover([str(tmp_path)], recursive=True)
    assert [str(picture.name) for picture in discovery.pictures] == ["a.jpg", "z/c.jpg"]
    (problem,) = discovery.problems
    assert isinstance(problem, InputError)
    assert problem.source == str(tmp_path / "secret")
    assert "Permission denied" in str(problem)
    # A folder of which nothing is known is not called empty.
    assert discover([str(tmp_path / "secret")]).problems


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    grow(tmp_path, "a.txt", "sub/a.jpg")
    with pytest.raises(UsageError, match=r"\.jpg.*--recursive"):
        discover([str(tmp_path)])
    (tmp_path / "sub" / "a.jpg").unlink()
    with pytest.raises(UsageError, match=r"\.jpg") as caught:
        discover([str(tmp_path)], recursive=True)
    assert "--recursive" not in str(caught.value)


def test_our_own_outputs_beside_their_picture_are_left_out(tmp_path):
    ours = [f"a.jpg.{kind}.png" for kind in ("mask", "overlay", "heatmap")]
    grow(tmp_path, "a.jpg", "a.jpg.json", *ours, "b.jpg.mask.png", "cat.mask.png")
    discovery = discover([str(tmp_path)])
    assert [str(picture.name) for picture in discovery.pictures] == [
        *("a.jpg", "b.jpg.mask.png", "cat.mask.png")  # of which the pictures are not here
    ]
    assert discovery.notes == (f"{tmp_path}: left out 4 of our own outputs.",)


@pytest.mark.parametrize("spelling", ["in/out", "in/out/", "in/../in/out", "link"])
def test_an_output_folder_inside_the_inputs_is_not_searched(tmp_path, monkeypatch, spelling):
    grow(tmp_path, "in/a.jpg", "in/out/a.jpg.mask.png", "in/outer/b.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "in" / "out")
    monkeypatch.chdir(tmp_path)
    discovery = discover(["in"], recursive=True, out=spelling)
    assert [str(picture.name) for picture in discovery.pictures] == ["a.jpg", "outer/b.jpg"]
    assert any("output folder" in note for note in discovery.notes)


def test_a_folder_that_is_its_own_output_folder_is_searched(tmp_path):
    grow(tmp_path, "a.jpg", "a.jpg.mask.png")
    assert found(tmp_path, out=str(tmp_path)) == ["a.jpg"]


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"two\nlines.jpg", b"-rf.jpg", b" .jpg"])
def test_odd_names_are_found(tmp_path, monkeypatch, name):
    grow(tmp_path, os.fsdecode(name))
    monkeypatch.chdir(tmp_path)
    (picture,) = discover(["."]).pictures
    assert os.fsencode(picture.path) == name
    assert picture.path.exists()


def test_a_dash_is_the_standard_input_and_a_file_of_that_name_is_not(tmp_path, monkeypatch):
    grow(tmp_path, "-")
    monkeypatch.chdir(tmp_path)
    assert discover(["-"]).pictures == (Picture(None, PurePath("stdin")),)
    assert discover(["./-"]).pictures == (Picture(Path("-"), PurePath("-")),)
    assert str(discover(["-"]).pictures[0]) == "standard input"
    with pytest.raises(UsageError, match="twice"):
        discover(["-", "-"])


def test_the_same_picture_given_twice_is_analysed_once(tmp_path):
    grow(tmp_path, "a.jpg")
    assert found(tmp_path / "a.jpg", f"{tmp_path}/./a.jpg", tmp_path) == ["a.jpg"]


@pytest.mark.parametrize("inputs", [[], [""]])
def test_nothing_given_is_refused(inputs):
    with pytest.raises(UsageError, match="no picture is given"):
        discover(inputs)


def test_a_missing_parent_folder_is_reported(tmp_path):
    discovery = discover([str(tmp_path / "missing" / "..")])
    assert not discovery.pictures
    assert len(discovery.problems) == 1


def test_a_tree_deeper_than_python_recurses_is_searched(tmp_path):
    depth = 150
    grow(tmp_path, "d/" * depth + "a.jpg")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        (picture,) = discover([str(tmp_path)], recursive=True).pictures
    finally:
        sys.setrecursionlimit(before)
    assert len(picture.name.parts) == depth + 1


@pytest.mark.parametrize("name", ["/a.jpg", "../a.jpg", "a/../b.jpg", ""])
def test_a_picture_cannot_be_named_outside_the_output_folder(name):
    with pytest.raises(ValueError, match="output folder"):
        Picture(Path("a.jpg"), PurePath(name))


def test_patterns_choose_among_the_pictures_of_folders(tmp_path):
    grow(tmp_path, "a.jpg", "b.png", "thumbs/c.jpg", "case/thumbs/d.jpg", "case/e.jpg")
    patterns = Patterns(include=("*.jpg",), exclude=("thumbs",))
    discovery = discover([str(tmp_path)], recursive=True, patterns=patterns)
    assert [str(p.name) for p in discovery.pictures] == ["a.jpg", "case/e.jpg"]
    assert f"{tmp_path / 'thumbs'}: excluded, not searched." in discovery.notes
    assert f"{tmp_path}: left out 1 pictures by --include and --exclude." in discovery.notes
    named = discover([str(tmp_path / "b.png")], patterns=patterns)
    assert len(named.pictures) == 1
    with pytest.raises(UsageError, match="leave none of the 2 pictures"):
        discover([str(tmp_path)], patterns=Patterns(include=("*.JPG",)))


def test_files_from_a_list_keep_their_paths(tmp_path):
    discovery = discover([], listed=["x/a.jpg", "y/a.jpg", "-", "..", str(tmp_path / "b.jpg")])
    assert [str(p.path) for p in discovery.pictures] == [
        *("x/a.jpg", "y/a.jpg", "-", str(tmp_path / "b.jpg"))
    ]
    assert [str(p.name) for p in discovery.pictures][:3] == ["x/a.jpg", "y/a.jpg", "-"]
    assert discovery.pictures[3].name == (tmp_path / "b.jpg").relative_to("/")
    assert [problem.source for problem in discovery.problems] == [".."]
    assert discovery.many


def test_the_ledger_and_the_manifest_are_not_evidence(tmp_path):
    grow(tmp_path, "a.jpg", "imlctl-ledger.sqlite", "imlctl-ledger-1-of-2.sqlite-wal", "SHA256SUMS")
    discovery = discover([str(tmp_path)])
    assert discovery.notes == (f"{tmp_path}: left out 3 of our own outputs.",)
