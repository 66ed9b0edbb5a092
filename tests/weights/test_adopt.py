"""Entries for weights of the user's own."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from imlctl.errors import WeightsError
from imlctl.weights.user_registry import describe

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "a" * 40


def test_a_file(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_file.parent)
    entry = describe("own", model_file.name, kind="model", licence="MIT", card="card.md")
    data = model_file.read_bytes()
    assert entry.path == model_file.resolve()
    assert (entry.sha256, entry.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (entry.architecture, entry.card) == ("efficient-iml", "card.md")


def test_an_encoder_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(b"tensors of another architecture")
    assert describe("enc", str(path), kind="encoder", licence="MIT").kind == "encoder"
    with pytest.raises(WeightsError, match="is damaged"):
        describe("enc", str(path), kind="model", licence="MIT")


def test_a_reference(hub: Any) -> None:
    pinned = describe("m", f"hf://lab/model@{COMMIT}/w.bin", kind="teacher", licence="MIT")
    assert (pinned.repo, pinned.revision, pinned.file) == ("lab/model", COMMIT, "w.bin")
    assert describe("m", "hf://lab/model/w.bin", kind="teacher", licence="MIT").revision == ""
    assert hub.log == []


@pytest.mark.parametrize(
    ("source", "change", "words"),
    [
        ("hf://lab/model@v1/w.bin", {}, "the tag 'v1' can move; give a commit"),
        ("hf://lab/model/w.bin", {"kind": "other"}, "needs a kind that is one of"),
        ("hf://lab/model/w.bin", {"sha256": "abc"}, "needs a sha256 of 64"),
        ("hf://lab/model/w.bin", {"name": "a/b"}, "needs a name of letters"),
        ("gone.safetensors", {}, "cannot be read"),
    ],
)
def test_refused(source: str, change: dict[str, str], words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        describe(**{"name": "m", "source": source, "kind": "model", "licence": "MIT", **change})


def test_a_file_with_another_hash(model_file: Path) -> None:
    with pytest.raises(WeightsError, match=f"expected {'0' * 64}"):
        describe("m", str(model_file), kind="model", licence="MIT", sha256="0" * 64)
