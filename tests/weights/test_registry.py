"""The registry of weights."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from imlctl.errors import WeightsError
from imlctl.weights.registry import Registry, WeightsEntry, load_registry, parse_entries

if TYPE_CHECKING:
    from pathlib import Path


from imlctl.weights.registry import HubReference, is_commit, parse_reference

GOOD: dict[str, Any] = {
    "source": "bundled",
    "file": "a.safetensors",
    "sha256": "0" * 64,
    "size": 1,
    "licence": "Apache-2.0",
    "card": "docs/a.md",
}
HUB: dict[str, Any] = {
    "source": "hub",
    "repo": "lab/model",
    "file": "w.safetensors",
    "licence": "MIT",
}


def test_the_shipped_registry_describes_the_shipped_files() -> None:
    registry = load_registry()
    assert registry[registry.default].kind == "model"
    bundled = [e for e in registry.entries.values() if e.source == "bundled"]
    assert registry[registry.default] in bundled
    for entry in bundled:
        data = entry.path.read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry.sha256
        assert len(data) == entry.size <= 12 * 2**20
        assert entry.architecture


def test_the_public_entries() -> None:
    """Exactly the repositories that are known to exist; what is unverified is left out."""
    public = {e.name: e for e in load_registry().entries.values() if e.source == "hub"}
    repos = {name: entry.repo for name, entry in public.items()}
    assert repos == {
        **{f"mit-b{n}": f"nvidia/mit-b{n}" for n in range(6)},
        "resnet50": "timm/resnet50.tv_in1k",
        "resnet101": "timm/resnet101.tv_in1k",
        "sd-vae-ft-mse": "stabilityai/sd-vae-ft-mse",
        "taesd": "madebyollin/taesd",
    }
    for entry in public.values():
        assert (entry.sha256, entry.revision, entry.size) == ("", "", 0)
        assert entry.reference.revision == "main"
        assert bool(entry.restriction) == entry.name.startswith("mit-b")


def test_keys_of_former_versions_are_passed_over() -> None:
    entry = load_registry()["efficientiml"].to_dict()
    former = {"preprocessing": {"mean": [0.0] * 3}, "calibration": "somehow"}
    old = entry | former | {"config": {"width": 3}, "threshold": 0.5}
    assert parse_entries({"mine": old})["mine"].to_dict() == entry


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(WeightsError, match="efficientiml"):
        load_registry()["nonsense"]


@pytest.mark.parametrize(
    "change",
    [
        {"source": "somewhere"},
        {"sha256": "abc"},
        {"sha256": ""},
        {"file": "../a"},
        {"file": "/etc/passwd"},
        {"kind": "pickle"},
        {"licence": ""},
        {"size": -1},
        {"revision": "main"},
        {"source": "file"},
        {"source": "hub"},
        {"source": "hub", "repo": "lab", "file": "w"},
        {"source": "hub", "repo": "lab/model", "file": "../w"},
    ],
)
def test_bad_entries_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="m: "):
        WeightsEntry(name="m", **{**GOOD, **change})


@pytest.mark.parametrize("name", ["", "hf://a/b/c", "a/b", "-x", "a b", "a\x1b[2J"])
def test_names_cannot_be_mistaken_for_files_or_drive_a_terminal(name: str) -> None:
    with pytest.raises(ValueError, match="needs a name of"):
        WeightsEntry(name=name, **GOOD)


def test_where_files_are(tmp_path: Path) -> None:
    assert WeightsEntry(name="m", **GOOD).path.parent.name == "bundled"
    own = tmp_path / "w.safetensors"
    assert WeightsEntry(name="m", **{**GOOD, "source": "file", "file": str(own)}).path == own
    pinned = WeightsEntry(name="m", **HUB, revision="a" * 40)
    assert str(pinned.reference) == f"hf://lab/model@{'a' * 40}/w.safetensors"


def test_only_what_is_known_is_told() -> None:
    assert WeightsEntry(name="m", **HUB).to_dict() == {**HUB, "kind": "model"}


def test_default_must_exist() -> None:
    with pytest.raises(ValueError, match="default"):
        Registry(parse_entries({"a": GOOD}), "b")


@pytest.mark.parametrize("change", [{"unknown": 1}, {"sha256": 3}, {"name": "n"}])
def test_bad_tables_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        parse_entries({"a": GOOD | change})


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
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


def test_the_revision_is_spelled_out() -> None:
    assert str(parse_reference("hf://a/b/w.bin")) == "hf://a/b@main/w.bin"
    assert parse_reference("hf://a/b/w.bin").at(COMMIT).revision == COMMIT


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
        parse_reference(text)
    assert "hf://owner/repo@revision/file" in caught.value.remedy


def test_only_forty_lower_digits_are_a_commit() -> None:
    assert is_commit(COMMIT)
    assert not any(map(is_commit, ("main", COMMIT[:39], COMMIT + "0", COMMIT.upper())))
