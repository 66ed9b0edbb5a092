import os
from pathlib import PurePath, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imlctl.errors import UsageError
from imlctl.scan.shard import Shard


@given(st.binary(min_size=1).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_")))
def test_every_picture_is_in_exactly_one_part(raw):
    name = PurePosixPath(os.fsdecode(raw))
    for count in (1, 2, 7):
        assert sum(Shard(n, count).holds(name) for n in range(1, count + 1)) == 1


def test_parts_are_of_about_the_same_size():
    names = [PurePath(f"case/{n:05}.jpg") for n in range(8000)]
    sizes = [sum(Shard(n, 8).holds(name) for name in names) for n in range(1, 9)]
    assert sum(sizes) == 8000
    assert 850 < min(sizes) <= max(sizes) < 1150


def test_the_division_is_the_same_on_every_machine_and_for_ever():
    assert Shard(1, 8).holds(PurePosixPath("deep/b.png"))
    assert Shard(1, 8).holds(PureWindowsPath("deep\\b.png"))


def test_a_part_is_written_as_people_count():
    assert Shard.parse("2/8") == Shard(2, 8)
    assert Shard(2, 8).label == "2-of-8"


@pytest.mark.parametrize("text", ["0/8", "9/8", "1/0", "2", "a/b", "1/2/3", "-1/4", ""])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(text)
