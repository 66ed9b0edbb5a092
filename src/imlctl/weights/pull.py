"""Pulling weights, and what makes them trusted: a hash that was known before they arrived.

Where nobody knows the hash yet, the user has to say so (trust on first use). What arrived then is
recorded in the user's registry, and from that day the record is the hash that is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from imlctl.errors import UsageError, WeightsError
from imlctl.weights import hub
from imlctl.weights.registry import (
    SCHEME,
    Entry,
    HubReference,
    is_commit,
    is_sha256,
    mismatch,
    parse,
    sha256_of,
)
from imlctl.weights.user_registry import Seen, add_seen, known_weights, load_user_registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pulled:
    """Weights that are here and are what they should be.

    Attributes:
        name: What was asked for.
        path: Where the file is.
        sha256: Of the file.
        revision: Its commit on the Hub; empty where it is no file of the Hub.
        checked: What the hash was compared with: ``registry``, ``given``, ``earlier pull``, or
            ``first use`` for nothing.
    """

    name: str
    path: Path
    sha256: str
    revision: str
    checked: str


def look_up(wanted: str) -> Entry | HubReference:
    """Return what a name or an ``hf://`` reference stands for.

    Raises:
        WeightsError: It stands for nothing.
    """
    return parse(wanted) if wanted.startswith(SCHEME) else known_weights()[wanted]


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
        notice: Receives what a person has to know before the fetch: a licence that restricts.

    Raises:
        WeightsError: They cannot be had, or are not what they should be.
    """
    sha256 = sha256.lower()
    if sha256 and not is_sha256(sha256):
        raise UsageError("needs 64 hexadecimal digits", source="--sha256")
    target = look_up(wanted)
    if isinstance(target, Entry) and target.source != "hub":
        return _here(target, sha256)
    known, reference = on_the_hub(target)
    registry = load_user_registry()
    seen = registry.first_seen(reference)
    expected, checked = _expectation(wanted, known, sha256, seen)
    if not expected and not trust_on_first_use:
        raise WeightsError(
            f"no hash of {reference} is known, so the file could not be checked",
            source=wanted,
            remedy="Give its hash with --sha256, or add --trust-on-first-use to accept the file and"
            " to check later pulls against it.",
        )
    restricted = target if isinstance(target, Entry) and target.restriction else None
    licence = restricted.licence if restricted else ""
    if restricted and (str(reference), licence) not in registry.licences:
        notice(f"{wanted} has a licence that restricts its use: {restricted.restriction}.")
    fetched = hub.fetch(reference, force=force, quiet=quiet)
    found = sha256_of(fetched.path, wanted)
    if expected and found != expected:
        raise _wrong(wanted, reference, fetched, found, expected, seen)
    if is_commit(reference.revision) and fetched.revision != reference.revision:
        raise WeightsError(
            f"the Hub answered with commit {fetched.revision}",
            source=str(reference),
            remedy="Check HF_ENDPOINT: a mirror must serve the commit that is asked for.",
        )
    first = add_seen(
        Seen(
            weights=str(reference),
            revision=fetched.revision,
            sha256=found,
            size=fetched.path.stat().st_size,
            checked=checked,
            date=datetime.now(UTC).date().isoformat(),
            licence=licence,
        )
    )
    if found != first.sha256:  # another process was the first, a moment ago, and saw something else
        raise _wrong(wanted, reference, fetched, found, first.sha256, first)
    if fetched.revision != first.revision:  # another commit with the same file: keep to the first
        fetched = hub.fetch(reference.at(first.revision), quiet=True)
    return Pulled(wanted, fetched.path, found, fetched.revision, checked)


def _expectation(name: str, known: str, given: str, seen: Seen | None) -> tuple[str, str]:
    """Return the hash to compare with and where it is from; none is ("", "first use")."""
    sources = (("registry", known), ("given", given), ("earlier pull", seen.sha256 if seen else ""))
    here = [(value, source) for source, value in sources if value]
    if len({value for value, _ in here}) > 1:
        raise WeightsError(
            "has two hashes: " + " and ".join(f"{value} ({source})" for value, source in here),
            source=name,
            remedy="Find out which is right before using it.",
        )
    return here[0] if here else ("", "first use")


def _here(entry: Entry, given: str) -> Pulled:
    """Check weights that are a file of this machine."""
    expected, checked = _expectation(entry.name, entry.sha256, given, None)
    found = sha256_of(entry.path, entry.name)
    if found != expected:
        raise mismatch(entry.name, entry.path, found, expected, "Get the file again.")
    return Pulled(entry.name, entry.path, found, "", checked)


def on_the_hub(target: Entry | HubReference) -> tuple[str, HubReference]:
    """Return the hash that the registry knows, and where the file is."""
    if isinstance(target, HubReference):
        return "", target
    return target.sha256, target.reference


def pulled_before(target: Entry | HubReference) -> tuple[Path | None, str]:
    """Return the cached file of the Hub, at the commit of its first pull, and its known hash.

    None where the cache lacks the file, and "" where nobody knows the hash.
    """
    known, reference = on_the_hub(target)
    seen = load_user_registry().first_seen(reference)
    here = hub.cached(reference.at(seen.revision) if seen else reference)
    return here.path if here else None, known or (seen.sha256 if seen else "")


def _wrong(
    name: str,
    reference: HubReference,
    fetched: hub.Fetched,
    found: str,
    expected: str,
    seen: Seen | None,
) -> WeightsError:
    if seen is not None and fetched.revision != seen.revision:
        return WeightsError(
            f"{reference.revision!r} was commit {seen.revision} with sha256 {expected} when it was "
            f"first pulled, and is now commit {fetched.revision} with sha256 {found}",
            source=name,
            remedy="The first file stays in use. If the change is intended, pull "
            f"{reference.at(fetched.revision)} by its commit.",
        )
    return mismatch(
        name,
        fetched.path,
        found,
        expected,
        "If a transfer went wrong, pull again with --force; if not, do not trust its source.",
    )
