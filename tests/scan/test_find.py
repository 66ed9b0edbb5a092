import codecs
import errno
import inspect
import io
import os
import sys
from contextlib import suppress
from pathlib import Path, PurePath

import numpy as np
import pytest

from imlctl.errors import InputError, UsageError
from imlctl.mask.render import binary_png
from imlctl.scan.find import (
    SUFFIXES,
    LeftOut,
    Picture,
    describe_left_out,
    discover,
    matches,
    read_names,
    tree_name,
)
from imlctl.scan.naming import Kind


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
    reasons = {each.path.name: each.reason for each in discovery.left_out}
    assert reasons == {"c": "the file is empty", "notes.txt": "the file is empty"}


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
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(sorted(real(folder), reverse=True)))
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
    assert [each.reason for each in discovery.left_out] == ["a link to a folder, not followed"] * 2


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
    real = Path.iterdir

    def iterdir(folder):
        if folder.name == "secret":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    discovery = discover([str(tmp_path)], recursive=True)
    assert [str(picture.name) for picture in discovery.pictures] == ["a.jpg", "z/c.jpg"]
    (problem,) = discovery.problems
    (recorded,) = discovery.not_analysed
    assert recorded == LeftOut(tmp_path / "secret", problem.what)
    assert isinstance(problem, InputError)
    assert problem.source == str(tmp_path / "secret")
    assert "Permission denied" in str(problem)
    # A folder of which nothing is known is not called empty.
    assert discover([str(tmp_path / "secret")]).problems


def test_a_folder_without_pictures_says_what_lies_there(tmp_path):
    grow(tmp_path, "a.txt", "sub/a.jpg")
    with pytest.raises(UsageError, match=r"no picture in this folder.*--recursive"):
        discover([str(tmp_path)])
    (tmp_path / "sub" / "a.jpg").unlink()
    with pytest.raises(UsageError, match="Left out: 1 the file is empty") as caught:
        discover([str(tmp_path)], recursive=True)
    assert "--recursive" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="nothing in it"):
        discover([str(tmp_path / "empty")])


MASK = binary_png(np.zeros((4, 5), bool))


def test_pictures_are_known_by_their_content(tmp_path, picture):
    """Whatever they are called: as an output, as the manifest, or without a suffix."""
    names = ["p.jpg", "p.jpg.overlay.png", "SHA256SUMS-x.jpg", "imlctl-ledger.jpg", "none", "a.doc"]
    for name in names:
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "notes.doc").write_text("words")
    discovery = discover([str(tmp_path)])
    assert sorted(str(each.name) for each in discovery.pictures) == sorted(names)
    assert discovery.left_out == (
        LeftOut(tmp_path / "notes.doc", "this is a text file, not a photograph"),
    )


def test_what_imlctl_wrote_is_left_out_and_named(tmp_path):
    grow(tmp_path, "a.jpg")
    for name in ("a.jpg.mask.png", "renamed.png"):
        (tmp_path / name).write_bytes(MASK)
    discovery = discover([str(tmp_path)])
    assert [str(each.name) for each in discovery.pictures] == ["a.jpg"]
    assert {each.reason for each in discovery.left_out} == {"written by imlctl (mask)"}
    assert len(discovery.left_out) == 2
    assert len(discover([str(tmp_path / "renamed.png")]).pictures) == 1  # it was asked for


def test_reasons_are_summed_up():
    left = [LeftOut(Path(f"{n}.txt"), "a text") for n in range(5)] + [LeftOut(Path("z"), "empty")]
    assert list(describe_left_out(left, most=2)) == [
        "left out 0.txt, 1.txt and 3 more: a text",
        "left out z: empty",
    ]


@pytest.mark.parametrize(
    "given", ["https://example.com/a.jpg", "https:/example.com/a.jpg", "HF:/x"]
)
def test_a_url_is_not_fetched(given):
    for discovery in (discover([given]), discover([], listed=[given])):
        assert not discovery.pictures
        assert "URLs are not fetched" in str(discovery.problems[0])


@pytest.mark.parametrize("spelling", ["in/out", "in/out/", "in/../in/out", "link"])
def test_an_output_folder_inside_the_inputs_is_not_searched(tmp_path, monkeypatch, spelling):
    grow(tmp_path, "in/a.jpg", "in/out/a.jpg.mask.png", "in/outer/b.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "in" / "out")
    monkeypatch.chdir(tmp_path)
    discovery = discover(["in"], recursive=True, out=spelling)
    assert [str(picture.name) for picture in discovery.pictures] == ["a.jpg", "outer/b.jpg"]
    assert LeftOut(Path("in/out"), "the output folder") in discovery.left_out


def test_a_folder_that_is_its_own_output_folder_is_searched(tmp_path):
    grow(tmp_path, "a.jpg", "a.jpg.json", "imlctl-ledger.sqlite", "SHA256SUMS")
    (tmp_path / "a.jpg.mask.png").write_bytes(b"\x89PNG\r\n\x1a\n")  # of a version without marks
    discovery = discover([str(tmp_path)], out=str(tmp_path), kinds=[Kind.JSON])
    assert [str(each.name) for each in discovery.pictures] == ["a.jpg"]
    assert {each.reason for each in discovery.left_out} == {"an output of this scan"}


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
    patterns = {"include": ["*.jpg"], "exclude": ["thumbs"]}
    discovery = discover([str(tmp_path)], recursive=True, **patterns)
    assert [str(p.name) for p in discovery.pictures] == ["a.jpg", "case/e.jpg"]
    reasons = {each.path.name: each.reason for each in discovery.left_out}
    assert reasons == {
        "thumbs": "a folder left out by --exclude",
        "b.png": "left out by --include or --exclude",
    }
    named = discover([str(tmp_path / "b.png")], **patterns)
    assert len(named.pictures) == 1
    with pytest.raises(UsageError, match="2 left out by --include or --exclude"):
        discover([str(tmp_path)], include=["*.JPG"])


def test_files_from_a_list_keep_their_paths(tmp_path):
    discovery = discover([], listed=["x/a.jpg", "y/a.jpg", "-", "..", str(tmp_path / "b.jpg")])
    assert [str(p.path) for p in discovery.pictures] == [
        *("x/a.jpg", "y/a.jpg", "-", str(tmp_path / "b.jpg"))
    ]
    assert [str(p.name) for p in discovery.pictures][:3] == ["x/a.jpg", "y/a.jpg", "-"]
    assert discovery.pictures[3].name == (tmp_path / "b.jpg").relative_to("/")
    assert [problem.source for problem in discovery.problems] == [".."]
    assert discovery.many


@pytest.mark.parametrize(
    ("include", "exclude", "path", "taken"),
    [
        ((), (), "a.jpg", True),
        (("IMG_*",), (), "deep/IMG_1.jpg", True),
        (("IMG_*",), (), "IMG/1.jpg", False),
        (("img_*",), (), "IMG_1.jpg", False),
        (("case/*",), (), "case/deep/a.jpg", True),
        (("case/*",), (), "other/case/a.jpg", False),
        ((), ("*thumb*",), "a_thumb.jpg", False),
        (("*.jpg",), ("a*",), "a.jpg", False),
        (("*.jpg", "*.png"), (), "a.png", True),
    ],
)
def test_patterns_take_and_leave(tmp_path, include, exclude, path, taken):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
    found = ()
    with suppress(UsageError):  # there is no picture in this folder
        found = discover([str(tmp_path)], recursive=True, include=include, exclude=exclude).pictures
    assert bool(found) is taken


def test_folders_are_left_by_name_or_path():
    excluded = ("thumbs", "case/old/")
    assert matches(PurePath("deep/thumbs"), excluded)
    assert matches(PurePath("case/old"), excluded)
    assert not matches(PurePath("old"), excluded)


def test_names_are_read_one_a_line(tmp_path):
    (tmp_path / "list").write_bytes(b"a.jpg\n\nwith space.jpg\r\n\xff.jpg\n-")
    names = read_names(str(tmp_path / "list"))
    assert names == ("a.jpg", "with space.jpg", os.fsdecode(b"\xff.jpg"), "-")


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + "ä.jpg\r\nb.jpg\r\n".encode(),
        "ä.jpg\r\nb.jpg\r\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "ä.jpg\nb.jpg".encode("utf-16-be"),
        "ä.jpg\r\nb.jpg\r\n".encode("utf-16-le"),
        "ä.jpg\r\nb.jpg\r\n".encode("utf-16-be"),
    ],
)
def test_lists_from_windows_lose_no_picture(tmp_path, data):
    (tmp_path / "list").write_bytes(data)
    assert read_names(str(tmp_path / "list")) == ("ä.jpg", "b.jpg")


def test_names_are_read_up_to_zero_bytes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(b"a\nb.jpg\0c.jpg\0"))
    monkeypatch.setattr(sys, "stdin", stream)
    assert read_names("-", zero=True) == ("a\nb.jpg", "c.jpg")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"\n\n", "no file"),
        (b"a.jpg\0b.jpg\0", "-0"),
        (b"\xff\xfea\0\x00", "utf-16"),
        ("a.jpg\n".encode("utf-32"), "as UTF-8"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / "list").write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_names(str(tmp_path / "list"))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("/data/a/b.jpg", "data/a/b.jpg"),
        ("../x/./b.jpg", "x/b.jpg"),
        ("x/../b.jpg", "b.jpg"),
    ],
)
def test_a_listed_file_keeps_its_path(name, place):
    assert tree_name(name) == PurePath(place)
