"""Publishing on a Hub, and pulling what was published."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from imlctl.errors import WeightsError
from imlctl.weights.hub import push
from imlctl.weights.load import load
from imlctl.weights.open import open_weights
from imlctl.weights.pull import pull
from imlctl.weights.registry import parse_entries, to_toml
from imlctl.weights.selftest import attach

if TYPE_CHECKING:
    from pathlib import Path

KEY = "hf_ofthelab"
# The client's, about a parameter that it passes to its own HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def publication(model_file: Path, tmp_path: Path) -> dict[str, Any]:
    card = tmp_path / "card.md"
    card.write_text("---\nlicense: apache-2.0\n---\n# Ours\n")
    named = {"repo": "lab/model", "name": "ours", "licence": "Apache-2.0"}
    return {"weights": model_file, "card": card, **named}


@pytest.fixture
def logged_in(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("lab/model").token = KEY
    monkeypatch.setenv("HF_TOKEN", KEY)


@pytest.mark.usefixtures("logged_in")
def test_published_pulled_and_used(hub: Any, publication: dict[str, Any], add_entry: Any) -> None:
    before = publication["weights"].read_bytes()
    entry = push(**publication)
    assert publication["weights"].read_bytes() == before
    files = hub.repo("lab/model").commits[entry.revision]
    assert files["README.md"] == publication["card"].read_bytes()
    assert len(files[entry.file]) == entry.size
    pasted = tomllib.loads(to_toml("[weights.ours]", entry.to_dict()))
    assert parse_entries(pasted["weights"]) == {"ours": entry}
    add_entry(entry)
    assert pull("ours").checked == "registry"
    loaded = open_weights("ours")
    assert loaded.sha256 == entry.sha256
    assert loaded.card.self_test  # published weights always carry one
    assert replace(loaded.card, self_test={}) == load(publication["weights"]).card


@pytest.mark.usefixtures("logged_in")
def test_weights_with_a_self_test_are_published_as_they_are(
    hub: Any, publication: dict[str, Any]
) -> None:
    attach(publication["weights"])
    entry = push(**publication)
    data = hub.repo("lab/model").commits[entry.revision][entry.file]
    assert data == publication["weights"].read_bytes()


@pytest.mark.usefixtures("logged_in")
def test_the_key_is_told_to_the_hub_only(
    hub: Any, publication: dict[str, Any], capsys: pytest.CaptureFixture[str], caplog: Any
) -> None:
    with caplog.at_level("DEBUG"):
        push(**publication)
    assert any(KEY in asked.headers.get("authorization", "") for asked in hub.log)
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err + caplog.text


def test_nobody_is_logged_in(hub: Any, publication: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="needs a login") as caught:
        push(**publication)
    assert "hf auth login" in caught.value.remedy
    assert hub.log == []


def test_a_key_without_the_right(
    hub: Any, publication: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repo("lab/model").token = KEY
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(WeightsError, match="private and this login may not see it") as caught:
        push(**publication)
    assert "hf_another" not in str(caught.value)
    assert hub.repo("lab/model").commits == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"repo": "model"}, "no repository of the form owner/name"),
        ({"name": "a b"}, "needs a name of letters"),
        ({"licence": ""}, "needs a licence"),
    ],
)
@pytest.mark.usefixtures("logged_in")
def test_what_could_not_be_an_entry_is_not_sent(
    change: dict[str, str], words: str, hub: Any, publication: dict[str, Any]
) -> None:
    with pytest.raises(WeightsError, match=words):
        push(**publication | change)
    assert hub.log == []


@pytest.mark.usefixtures("logged_in")
def test_damaged_weights_and_a_missing_card_are_not_sent(
    hub: Any, publication: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="model card cannot be read"):
        push(**publication | {"card": tmp_path / "gone.md"})
    (tmp_path / "latin.md").write_bytes("# Größe".encode("latin-1"))
    with pytest.raises(WeightsError, match="model card cannot be read"):
        push(**publication | {"card": tmp_path / "latin.md"})
    publication["weights"].write_bytes(publication["weights"].read_bytes()[:-50])
    with pytest.raises(WeightsError, match="is damaged"):
        push(**publication)
    assert hub.log == []
