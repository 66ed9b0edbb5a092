"""The user's own registry."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imlctl.errors import OutputError, WeightsError
from imlctl.weights.registry import (
    HubReference,
    Seen,
    WeightsEntry,
    add_seen,
    known_weights,
    load_registry,
    to_toml,
    user_registry_path,
)

if TYPE_CHECKING:
    from pathlib import Path

REFERENCE = HubReference("lab/model", "w.safetensors")
SEEN = Seen(
    weights=str(REFERENCE),
    revision="a" * 40,
    sha256="b" * 64,
    size=7,
    checked="first use",
    date="2026-11-21",
)
MINE = WeightsEntry(
    name="mine",
    source="file",
    file="/somewhere/ω.safetensors",
    sha256="c" * 64,
    size=3,
    licence="MIT",
    restriction='not "for" trade',
)


def write(text: str) -> Path:
    path = user_registry_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def test_absent_is_empty_and_ours_stands_alone() -> None:
    assert known_weights() == load_registry()
    assert not user_registry_path().exists()


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_registry_path() == tmp_path / "config" / "imlctl" / "weights.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_registry_path() == tmp_path / "home" / ".config" / "imlctl" / "weights.toml"


def test_an_added_entry_extends_ours_and_comes_back_whole(add_entry: Any) -> None:
    add_entry(MINE)
    assert known_weights()["mine"] == MINE
    assert known_weights().default == load_registry().default
    assert known_weights()[load_registry().default] is load_registry()[load_registry().default]


def test_what_a_person_wrote_stays(tmp_path: Path, add_entry: Any) -> None:
    path = write("# my notes\n[weights.first]\nsource = 'file'\nfile = '/x'\nlicence = 'MIT'\n"
                 f"sha256 = '{'d' * 64}'")  # fmt: skip
    before = path.read_text()
    add_entry(MINE)
    add_seen(SEEN)
    assert path.read_text().startswith(before)
    registry = known_weights()
    assert list(registry.entries) == [*load_registry().entries, "first", "mine"]
    assert registry.seen == {str(REFERENCE): SEEN}
    assert [p.name for p in path.parent.iterdir() if p.suffix != ".lock"] == [path.name]


def test_the_first_record_counts_and_is_never_replaced() -> None:
    assert add_seen(SEEN) == SEEN
    before = user_registry_path().read_bytes()
    assert add_seen(replace(SEEN, revision="e" * 40, sha256="f" * 64)) == SEEN
    assert user_registry_path().read_bytes() == before
    text = to_toml("[[seen]]", asdict(replace(SEEN, sha256="f" * 64)))
    write(before.decode() + text)  # as if by hand
    assert known_weights().seen == {str(REFERENCE): SEEN}


def test_a_record_of_former_versions_is_read() -> None:
    write(to_toml("[[seen]]", asdict(SEEN) | {"licence": "NC"}))
    assert known_weights().seen == {str(REFERENCE): SEEN}


def test_a_name_of_ours_cannot_be_given_another_meaning() -> None:
    table = to_toml(f"[weights.{load_registry().default}]", MINE.to_dict())
    path = write(table)
    with pytest.raises(WeightsError, match=r"uses the name .* own registry has") as caught:
        known_weights()
    assert caught.value.source == str(path)


@pytest.mark.parametrize(
    "text",
    [
        "not toml",
        "other = 1",
        "[weights.m]\nsource = 'file'",
        "[weights.m]\nsource = 'file'\nfile = 'relative'\nlicence = 'MIT'\nsha256 = 'x'",
        "[[seen]]\nweights = 'hf://a/b@main/c'",
        to_toml("[[seen]]", asdict(SEEN) | {"revision": "main"}),
        "weights = 3",
    ],
)
def test_a_broken_registry_is_refused_and_left_alone(text: str) -> None:
    path = write(text)
    for call in (known_weights, lambda: add_seen(SEEN)):
        with pytest.raises(WeightsError, match="cannot be read") as caught:
            call()
        assert (caught.value.source, path.read_text()) == (str(path), text)


def test_not_utf8_is_refused() -> None:
    write("").write_bytes(b"\xff")
    with pytest.raises(WeightsError, match="cannot be read"):
        known_weights()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="cannot be written"):
        add_seen(SEEN)


TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
VALUES = st.integers(-(2**63), 2**63 - 1) | TEXT


@settings(max_examples=25)
@given(st.dictionaries(st.from_regex("[A-Za-z0-9_-]+", fullmatch=True), VALUES, max_size=4))
def test_what_is_written_is_what_is_read(values: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml("[a]", values)) == {"a": values}
