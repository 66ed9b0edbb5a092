"""Pulling weights, what makes them trusted, and which of the known ones are on this machine.

Weights are trusted by a hash that was known before they arrived. Where nobody knows the hash yet,
the user has to say so (trust on first use). What arrived then is recorded in the user's registry,
and from that day the record is the hash that is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, cast

from imlctl.errors import UsageError, WeightsError
from imlctl.weights import hub
from imlctl.weights.files import GET_AGAIN, mismatch, read_document, unreadable, weights_hash
from imlctl.weights.registry import (
    SCHEME,
    HubReference,
    Seen,
    WeightsEntry,
    add_seen,
    is_commit,
    is_sha256,
    known_weights,
    parse_reference,
)


class Pulled(NamedTuple):
    """Weights that are here and are what they should be."""

    name: str
    path: Path
    sha256: str
    revision: str  # commit on the Hub; empty where it is no file of the Hub
    checked: str  # against: ``registry``, ``given``, ``earlier pull``, or ``first use`` for nothing


class LocalWeights(NamedTuple):
    """A file of weights on this machine."""

    name: str  # as the user named it
    path: Path
    sha256: str  # what its hash must be; empty for a file of the user's own
    entry: WeightsEntry | None  # in a registry


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
    """Weights that are known, by a name or by the reference they were pulled with."""

    name: str  # of the entry, or the reference
    entry: WeightsEntry | None  # in a registry
    path: Path | None  # where the file is, or would be; None where the cache does not have it
    sha256: str  # what it must be; empty where nobody knows
    state: State
    found: str = ""  # its hash, once it was read


def pull(
    wanted: str,
    *,
    trust_on_first_use: bool = False,
    sha256: str = "",
    force: bool = False,
    quiet: bool = False,
    notice: Callable[[str], None] = lambda _: None,
) -> Pulled:
    """Fetch weights, unless they are here, and check that they are the right ones.

    Args:
        wanted: A name of a registry, or ``hf://owner/repo[@revision]/file``.
        trust_on_first_use: Accept what arrives if no hash is known, and record it.
        sha256: The hash, from a source that the user trusts.
        force: Fetch again even if they are here.
        quiet: Show no progress.
        notice: Called before the first fetch with a licence that restricts.

    Raises:
        WeightsError: They cannot be had, or are not what they should be.
    """
    sha256 = sha256.lower()
    if sha256 and not is_sha256(sha256):
        raise UsageError("needs 64 hexadecimal digits", source="--sha256")
    entry, reference, seen = _look_up(wanted)
    expected, checked = _expectation(wanted, entry.sha256 if entry else "", sha256, seen)
    if reference is None:
        path = cast("WeightsEntry", entry).path
        found = weights_hash(path, wanted)
        if found != expected:
            raise mismatch(wanted, path, found, expected, GET_AGAIN)
        return Pulled(wanted, path, found, "", checked)
    if not expected and not trust_on_first_use:
        what = f"no hash of {reference} is known, so the file could not be checked"
        remedy = "Give its hash with --sha256, or add --trust-on-first-use to accept the file and"
        remedy += " to check later pulls against it."
        raise WeightsError(what, source=wanted, remedy=remedy)
    if entry and entry.restriction and not seen:
        notice(f"{wanted} has a licence that restricts its use: {entry.restriction}.")
    fetched = hub.fetch(reference, force=force, quiet=quiet)
    found = weights_hash(fetched.path, wanted)
    if expected and found != expected:
        raise _wrong(wanted, reference, fetched, found, expected, seen)
    if is_commit(reference.revision) and fetched.revision != reference.revision:
        what = f"the Hub answered with commit {fetched.revision}"
        remedy = "Check HF_ENDPOINT: a mirror must serve the commit that is asked for."
        raise WeightsError(what, source=str(reference), remedy=remedy)
    size, today = fetched.path.stat().st_size, datetime.now(UTC).date().isoformat()
    first = add_seen(Seen(str(reference), fetched.revision, found, size, checked, today))
    if found != first.sha256:  # another process was the first, a moment ago, and saw something else
        raise _wrong(wanted, reference, fetched, found, first.sha256, first)
    if fetched.revision != first.revision:  # another commit with the same file: keep to the first
        fetched = hub.fetch(reference.at(first.revision), quiet=True)
    return Pulled(wanted, fetched.path, found, fetched.revision, checked)


def _look_up(wanted: str) -> tuple[WeightsEntry | None, HubReference | None, Seen | None]:
    """Return a name's entry, the reference that it stands for, and the record of the first pull."""
    registry = known_weights()
    if wanted.startswith(SCHEME):
        entry, reference = None, parse_reference(wanted)
    else:
        entry = registry[wanted]
        if entry.source != "hub":
            return entry, None, None
        reference = entry.reference
    return entry, reference, registry.seen.get(str(reference))


def _expectation(name: str, known: str, given: str, seen: Seen | None) -> tuple[str, str]:
    """Return the hash to compare with and where it is from; none is ("", "first use")."""
    sources = (("registry", known), ("given", given), ("earlier pull", seen.sha256 if seen else ""))
    here = [(value, source) for source, value in sources if value]
    if len({value for value, _ in here}) > 1:
        what = "has two hashes: " + " and ".join(f"{value} ({source})" for value, source in here)
        raise WeightsError(what, source=name, remedy="Find out which is right before using it.")
    return here[0] if here else ("", "first use")


def _wrong(
    name: str,
    reference: HubReference,
    fetched: hub.Fetched,
    found: str,
    expected: str,
    seen: Seen | None,
) -> WeightsError:
    if seen is None or fetched.revision == seen.revision:
        remedy = "If a transfer went wrong, pull again with --force;"
        remedy += " if not, do not trust its source."
        return mismatch(name, fetched.path, found, expected, remedy)
    what = (
        f"{reference.revision!r} was commit {seen.revision} with sha256 {expected} when it was"
        f" first pulled, and is now commit {fetched.revision} with sha256 {found}"
    )
    remedy = "The first file stays in use. If the change is intended, pull"
    remedy += f" {reference.at(fetched.revision)} by its commit."
    return WeightsError(what, source=name, remedy=remedy)


def find(wanted: str | Path, *, kind: str = "") -> LocalWeights:
    """Find a file of weights on this machine, without opening it; WeightsError if there is none.

    `wanted` is a name of a registry, ``hf://owner/repo[@revision]/file``, or a safetensors file; a
    `Path` is always a file. Its entry, if it has one, must be of `kind`, where one is given.
    """
    if isinstance(wanted, Path):
        return LocalWeights(str(wanted), wanted, "", None)
    if not wanted.startswith(SCHEME) and wanted not in known_weights().entries:
        path = Path(wanted)
        if path.suffix or path.name != wanted or path.exists():  # a path, not a mistyped name
            return LocalWeights(wanted, path, "", None)
    item = _item(wanted)
    if item.entry is not None and kind and item.entry.kind != kind:
        what = f"is of kind {item.entry.kind!r}, and a {kind} is needed"
        raise WeightsError(what, source=wanted, remedy="See imlctl weights list.")
    if item.path is None or not item.sha256:
        what = "is not on this machine, and weights are fetched only when asked for"
        remedy = f"Fetch it with: imlctl weights pull {wanted}"
        raise WeightsError(what, source=wanted, remedy=remedy)
    return LocalWeights(wanted, item.path, item.sha256, item.entry)


def inventory(names: tuple[str, ...] = ()) -> tuple[Item, ...]:
    """Return all known weights, or those named, unread; WeightsError for an unknown name."""
    registry = known_weights()
    named = {str(e.reference) for e in registry.entries.values() if e.source == "hub"}
    others = (text for text in registry.seen if text not in named)
    return tuple(_item(name) for name in names or (*registry.entries, *others))


def _item(name: str) -> Item:
    """Look up a name or a reference; a file of the Hub is that of the commit of its first pull."""
    entry, reference, seen = _look_up(name)
    sha256 = entry.sha256 if entry else ""
    if reference is None:
        there = cast("WeightsEntry", entry).path
        return Item(name, entry, there, sha256, State.HERE if there.is_file() else State.ABSENT)
    cached = hub.cached(reference.at(seen.revision) if seen else reference)
    path, state = (cached.path, State.HERE) if cached else (None, State.ABSENT)
    return Item(name, entry, path, sha256 or (seen.sha256 if seen else ""), state)


def verify(item: Item) -> Item:
    """Read weights that are here, whole, and compare their hash; needs no network."""
    if item.state is not State.HERE or item.path is None:
        return item
    try:
        found = weights_hash(item.path, item.name)
    except WeightsError:
        return replace(item, state=State.UNREADABLE)
    intact = State.INTACT if found == item.sha256 else State.CHANGED
    return replace(item, state=intact if item.sha256 else State.UNKNOWN, found=found)


def card_of(item: Item) -> dict[str, Any]:
    """Return what a model's file says of itself, without building the model; raises if damaged."""
    try:
        return read_document(item.path.read_bytes(), item.name) or {} if item.path else {}
    except OSError as error:
        raise unreadable(error, item.name) from error
