"""References to the Hub."""

from __future__ import annotations

import pytest

from imlctl.errors import WeightsError
from imlctl.weights.reference import HubReference, is_commit, parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://a/b/w.safetensors", HubReference("a/b", "w.safetensors", "main")),
        ("hf://a/b@v1.0/w.safetensors", HubReference("a/b", "w.safetensors", "v1.0")),
        (f"hf://a/b@{COMMIT}/w.bin", HubReference("a/b", "w.bin", COMMIT)),
        ("hf://a/b@refs%2Fpr%2F1/x/y.bin", HubReference("a/b", "x/y.bin", "refs/pr/1")),
        ("hf://a/b/x y/z@2.bin", HubReference("a/b", "x y/z@2.bin", "main")),
    ],
)
def test_read_and_written_alike(text: str, expected: HubReference) -> None:
    assert parse(text) == expected
    assert parse(str(expected)) == expected


def test_the_revision_is_spelled_out() -> None:
    assert str(parse("hf://a/b/w.bin")) == "hf://a/b@main/w.bin"
    assert parse("hf://a/b/w.bin").at(COMMIT).revision == COMMIT


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://a",
        "hf://a/b",
        "hf://a/b/",
        "hf:///b/w.bin",
        "hf://a/b@/w.bin",
        "hf://a/../w.bin",
        "hf://a/b/../w.bin",
        "hf://a/b//w.bin",
        "hf://a/b/./w.bin",
        "hf://a/b/x\\w.bin",
        "hf://a/b/w.bin\n",
        "hf://a/b@..%2Fx/w.bin",
        "hf://a--x/b/w.bin",
        "hf://a /b/w.bin",
        "hf://.a/b/w.bin",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(WeightsError, match="is no reference to the Hub") as caught:
        parse(text)
    assert "hf://owner/repo@revision/file" in caught.value.remedy


def test_only_forty_lower_digits_are_a_commit() -> None:
    assert is_commit(COMMIT)
    assert not any(map(is_commit, ("main", COMMIT[:39], COMMIT + "0", COMMIT.upper())))
