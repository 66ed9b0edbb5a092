"""What is known, what is here, and whether it is intact."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from imlctl.errors import WeightsError
from imlctl.weights.pull import Item, State, card_of, inventory, pull, verify
from imlctl.weights.registry import WeightsEntry, load_registry

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "hf://lab/model@main/w.bin"


def one(name: str) -> Item:
    (item,) = inventory((name,))
    return item


@pytest.fixture
def own(model_file: Path, add_entry: Any) -> Path:
    digest = hashlib.sha256(model_file.read_bytes()).hexdigest()
    add_entry(
        WeightsEntry(name="own", source="file", file=str(model_file), sha256=digest, licence="MIT")
    )
    return model_file


@pytest.mark.usefixtures("own")
def test_all_names_and_all_that_was_pulled_without_one(hub: Any) -> None:
    hub.repo("lab/model").commit({"w.bin": b"content"})
    pull(TEXT, trust_on_first_use=True)
    hub.log.clear()
    items = {item.name: item for item in inventory()}
    assert list(items) == [*load_registry().entries, "own", TEXT]
    assert items["own"].state is items[TEXT].state is State.HERE
    assert items["taesd"].state is State.ABSENT
    assert items[TEXT].sha256 == hashlib.sha256(b"content").hexdigest()
    assert {i.state for i in map(verify, items.values())} == {State.INTACT, State.ABSENT}
    assert hub.log == []


def test_what_was_pulled_by_name_is_listed_once(hub: Any, add_entry: Any) -> None:
    hub.repo("lab/model").commit({"w.bin": b"content"})
    add_entry(WeightsEntry(name="lab", source="hub", repo="lab/model", file="w.bin", licence="MIT"))
    assert one("lab").state is State.ABSENT
    pull("lab", trust_on_first_use=True)
    assert [i.name for i in inventory() if i.state is State.HERE][-1] == "lab"
    assert one("lab").path == one(TEXT).path


def test_changed_unreadable_and_absent(own: Path) -> None:
    assert verify(one("own")).state is State.INTACT
    own.write_bytes(b"changed")
    changed = verify(one("own"))
    assert changed.state is State.CHANGED
    assert changed.found == hashlib.sha256(b"changed").hexdigest() != changed.sha256
    item = one("own")
    own.unlink()
    assert verify(item).state is State.UNREADABLE
    assert verify(one("own")).state is State.ABSENT


def test_a_file_that_another_program_cached_has_no_known_hash(hub: Any) -> None:
    from huggingface_hub import hf_hub_download

    hub.repo("lab/model").commit({"w.bin": b"content"})
    hf_hub_download("lab/model", "w.bin")
    assert verify(one(TEXT)).state is State.UNKNOWN


def test_what_a_file_says_of_itself(own: Path) -> None:
    card = card_of(one("own"))
    assert (card["architecture"], card["rule"]["threshold"]) == ("efficient-iml", 0.4)
    own.write_bytes(b"short")
    with pytest.raises(WeightsError, match="own: is damaged"):
        card_of(one("own"))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(WeightsError, match="no weights named"):
        inventory(("nonsense",))
