"""The registry of weights."""

from __future__ import annotations

import hashlib

import pytest

from imlctl.errors import WeightsError
from imlctl.weights.registry import Entry, load_registry, parse_registry

GOOD = {
    "source": "bundled",
    "file": "a.safetensors",
    "sha256": "0" * 64,
    "size": 1,
    "licence": "Apache-2.0",
    "card": "docs/a.md",
}


def test_the_shipped_registry_describes_the_shipped_files():
    registry = load_registry()
    assert registry.default in registry.entries
    for entry in registry.entries.values():
        data = entry.path.read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry.sha256
        assert len(data) == entry.size <= 12 * 2**20


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(WeightsError, match="efficientiml"):
        load_registry()["nonsense"]


@pytest.mark.parametrize(
    "change",
    [{"source": "somewhere"}, {"sha256": "abc"}, {"file": "../a"}, {"file": "/etc/passwd"}],
)
def test_bad_entries_are_refused(change):
    with pytest.raises(ValueError, match="m: "):
        Entry(name="m", **{**GOOD, **change})


def test_default_must_exist():
    with pytest.raises(ValueError, match="default"):
        parse_registry({"default": "b", "weights": {"a": GOOD}})
