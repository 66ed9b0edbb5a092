"""Inventory of known weights: which are installed, and whether they are intact."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from imlctl.errors import WeightsError
from imlctl.weights.pull import look_up, pulled_before
from imlctl.weights.registry import Entry, HubReference, parse, read_header, sha256_of, unreadable
from imlctl.weights.user_registry import known_weights, load_user_registry

if TYPE_CHECKING:
    from pathlib import Path


class State(StrEnum):
    """State of weights on this machine."""

    HERE = "installed"
    ABSENT = "not installed"
    INTACT = "intact"
    CHANGED = "CHANGED"  # another hash than it must have
    UNKNOWN = "no known hash"
    UNREADABLE = "UNREADABLE"


@dataclass(frozen=True, slots=True)
class Item:
    """Weights that are known, by a name or by the reference they were pulled with.

    Attributes:
        name: Of the entry, or the reference.
        entry: In a registry; None for a reference that was pulled without one.
        path: Where the file is, or would be; None where the cache does not have it.
        sha256: What it must be; empty where nobody knows.
        state: Whether the file is here, or how it compares.
        found: Its hash, once it was read.
    """

    name: str
    entry: Entry | None
    path: Path | None
    sha256: str
    state: State
    found: str = ""


def inventory(names: tuple[str, ...] = ()) -> tuple[Item, ...]:
    """Return all known weights, or those that are named; reads no file of weights.

    Raises:
        WeightsError: A registry cannot be read, or does not have a name.
    """
    if names:
        return tuple(_item(name, look_up(name)) for name in names)
    entries = known_weights().entries
    ours = [_item(name, entry) for name, entry in entries.items()]
    named = {str(e.reference) for e in entries.values() if e.source == "hub"}
    others = [text for text in load_user_registry().seen if text not in named]
    return (*ours, *(_item(text, parse(text)) for text in others))


def _item(name: str, target: Entry | HubReference) -> Item:
    entry = target if isinstance(target, Entry) else None
    if entry is not None and entry.source != "hub":
        state = State.HERE if entry.path.is_file() else State.ABSENT
        return Item(name, entry, entry.path, entry.sha256, state)
    path, sha256 = pulled_before(target)
    return Item(name, entry, path, sha256, State.HERE if path else State.ABSENT)


def verify(item: Item) -> Item:
    """Read weights that are here, whole, and compare their hash; needs no network."""
    if item.state is not State.HERE or item.path is None:
        return item
    try:
        found = sha256_of(item.path, item.name)
    except WeightsError:
        return replace(item, state=State.UNREADABLE)
    if not item.sha256:
        return replace(item, state=State.UNKNOWN, found=found)
    state = State.INTACT if found == item.sha256 else State.CHANGED
    return replace(item, state=state, found=found)


def card_of(item: Item) -> dict[str, Any]:
    """Return what a model's file says of itself, without building the model.

    Raises:
        WeightsError: It is damaged, or says nothing.
    """
    if item.path is None:
        return {}
    try:
        data = item.path.read_bytes()
        text = read_header(data, item.name).get("__metadata__", {}).get("imlctl", "{}")
        return dict(json.loads(text))
    except OSError as error:
        raise unreadable(error, item.name) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"has metadata that this version cannot read ({error})", source=item.name
        ) from error
