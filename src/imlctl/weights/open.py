"""From what a user calls weights to a model in memory; nothing here uses the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imlctl.errors import WeightsError
from imlctl.weights.load import Loaded, load
from imlctl.weights.pull import find
from imlctl.weights.registry import known_weights, user_folder
from imlctl.weights.selftest import check_on_first_use

if TYPE_CHECKING:
    from pathlib import Path

_LOCALIZERS = ("efficient-iml", "diff-iml")


def open_weights(wanted: str | Path = "") -> Loaded:
    """Load a model, check it against what is known of it, and test it when it is new here.

    What is wanted is as for `pull.find`; nothing stands for the registry's default.

    Raises:
        WeightsError: The weights are not here, damaged, not what was expected, or no model.
    """
    found = find(wanted or known_weights().default, kind="model")
    loaded = load(found.path, name=found.name, expected_sha256=found.sha256)
    card, entry = loaded.card, found.entry
    if card.architecture not in _LOCALIZERS:
        what = f"holds {card.architecture!r}, which marks no pixels by itself"
        remedy = "It is only a part of a model; imlctl weights list shows models."
        raise WeightsError(what, source=loaded.name, remedy=remedy)
    if entry and entry.architecture not in ("", card.architecture):
        what = f"holds {card.architecture!r}, and its entry says {entry.architecture!r}"
        remedy = "Correct the entry, or get the file that belongs to it."
        raise WeightsError(what, source=loaded.name, remedy=remedy)
    check_on_first_use(loaded, user_folder("cache") / "self-tests")
    return loaded
