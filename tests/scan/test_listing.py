import io
import os
from pathlib import PurePath

import pytest

from imlctl.errors import UsageError
from imlctl.scan.listing import Patterns, place_of, read_names


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
def test_patterns_take_and_leave(include, exclude, path, taken):
    assert Patterns(include, exclude).takes(PurePath(path)) is taken


def test_folders_are_left_by_name_or_path():
    patterns = Patterns(exclude=("thumbs", "case/old/"))
    assert patterns.leaves(PurePath("deep/thumbs"))
    assert patterns.leaves(PurePath("case/old"))
    assert not patterns.leaves(PurePath("old"))


def test_names_are_read_one_a_line(tmp_path):
    (tmp_path / "list").write_bytes(b"a.jpg\n\nwith space.jpg\r\n\xff.jpg\n-")
    names = read_names(str(tmp_path / "list"))
    assert names == ("a.jpg", "with space.jpg", os.fsdecode(b"\xff.jpg"), "-")


def test_names_are_read_up_to_zero_bytes():
    stream = io.BytesIO(b"a\nb.jpg\0c.jpg\0")
    assert read_names("-", zero=True, stdin=stream) == ("a\nb.jpg", "c.jpg")


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), (b"\n\n", "no file"), (b"a\0b\0", "-0")]
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
    assert place_of(name) == PurePath(place)
