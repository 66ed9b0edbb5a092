"""From what a user calls weights to a model in memory; nothing here uses the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imlctl.errors import WeightsError
from imlctl.weights.load import Card, Loaded, load
from imlctl.weights.pull import look_up, pulled_before
from imlctl.weights.registry import SCHEME, Entry, hub_form, user_folder
from imlctl.weights.selftest import check_on_first_use
from imlctl.weights.user_registry import known_weights

_LOCALIZERS = ("efficient-iml", "diff-iml")


@dataclass(frozen=True, slots=True)
class Found:
    """A file of weights on this machine.

    Attributes:
        name: As the user named it.
        path: Where it is.
        sha256: What its hash must be; None for a file of the user's own.
        entry: Its entry in a registry, if it has one.
    """

    name: str
    path: Path
    sha256: str | None
    entry: Entry | None


def open_weights(wanted: str | Path = "") -> Loaded:
    """Load a model, check it against what is known of it, and test it when it is new here.

    Args:
        wanted: A name of a registry, ``hf://owner/repo[@revision]/file``, or a safetensors file;
            empty for the registry's default. A `Path` is always a file.

    Raises:
        WeightsError: The weights are not here, damaged, not what was expected, or no model.
    """
    found = find(wanted or known_weights().default, kind="model")
    loaded = load(found.path, name=found.name, expected_sha256=found.sha256)
    if loaded.card.architecture not in _LOCALIZERS:
        raise WeightsError(
            f"holds {loaded.card.architecture!r}, which marks no pixels by itself",
            source=loaded.name,
            remedy="It is only a part of a model; imlctl weights list shows models.",
        )
    if found.entry is not None:
        _check_against(loaded.card, found.entry)
    check_on_first_use(loaded, user_folder("cache") / "self-tests")
    return loaded


def find(wanted: str | Path, *, kind: str = "") -> Found:
    """Find a file of weights on this machine, without opening it.

    Args:
        wanted: As for `open_weights`, but not empty.
        kind: What its entry, if it has one, must be; empty for anything.

    Raises:
        WeightsError: There is none, or it is of another kind.
    """
    if isinstance(wanted, Path):
        return Found(str(wanted), wanted, None, None)
    if not wanted.startswith(SCHEME) and wanted not in known_weights().entries:
        path = Path(wanted)
        form = hub_form(wanted)
        if form and not path.exists() and path.suffix != ".safetensors":
            raise WeightsError(
                "is no file on this machine",
                source=wanted,
                remedy=f"A file of the Hub is written {form}.",
            )
        if path.suffix or path.name != wanted or path.exists():  # a path, not a mistyped name
            return Found(wanted, path, None, None)
    target = look_up(wanted)
    entry = target if isinstance(target, Entry) else None
    if entry is not None and kind and entry.kind != kind:
        raise WeightsError(
            f"is of kind {entry.kind!r}, and a {kind} is needed",
            source=wanted,
            remedy="See imlctl weights list.",
        )
    if entry is not None and entry.source != "hub":
        return Found(wanted, entry.path, entry.sha256, entry)
    here, expected = pulled_before(target)
    if here is None or not expected:
        raise WeightsError(
            "is not on this machine, and weights are fetched only when asked for",
            source=wanted,
            remedy=f"Fetch it with: imlctl weights pull {wanted}",
        )
    return Found(wanted, here, expected, entry)


def _stated(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what is None, which TOML cannot say."""
    return {
        key: _stated(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if value is not None
    }


def _check_against(card: Card, entry: Entry) -> None:
    """Refuse a file that is of another architecture or configuration than its entry says."""
    for what, said, holds in (
        ("architecture", entry.architecture, card.architecture),
        ("configuration", entry.config, _stated(card.config)),
        ("threshold", entry.threshold, card.rule.threshold),
    ):
        if said and said != holds:
            raise WeightsError(
                f"holds the {what} {holds!r}, and its entry in the registry says {said!r}",
                source=entry.name,
                remedy="Correct the entry, or get the file that belongs to it.",
            )
