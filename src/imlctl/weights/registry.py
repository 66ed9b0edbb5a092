"""The registry of weights, `weights.toml`: what a name stands for, and where its file is."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from imlctl.errors import WeightsError

_PACKAGE = Path(__file__).parent
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in the registry.

    Attributes:
        name: What a user types.
        source: ``bundled``: the file lies in the package.
        file: File name.
        sha256: Of the file, 64 hexadecimal digits.
        size: Of the file, in bytes.
        licence: SPDX identifier.
        card: Where the model card is.
    """

    name: str
    source: str
    file: str
    sha256: str
    size: int
    licence: str
    card: str

    def __post_init__(self) -> None:
        if self.source != "bundled":
            raise ValueError(f"{self.name}: unknown source {self.source!r}")
        if not _SHA256.fullmatch(self.sha256) or Path(self.file).name != self.file:
            raise ValueError(
                f"{self.name}: needs a plain file name and a sha256 of 64 hexadecimal digits"
            )

    @property
    def path(self) -> Path:
        """Where the file is."""
        return _PACKAGE / "bundled" / self.file


@dataclass(frozen=True, slots=True)
class Registry:
    """All entries by name, and the name to use when none is given."""

    entries: dict[str, Entry]
    default: str

    def __getitem__(self, name: str) -> Entry:
        """Return an entry.

        Raises:
            WeightsError: There is no such name.
        """
        try:
            return self.entries[name]
        except KeyError:
            raise WeightsError(
                f"there are no weights named {name!r}",
                source="weights.toml",
                remedy=f"Known names: {', '.join(self.entries)}. For a file use --weights.",
            ) from None


@cache
def load_registry() -> Registry:
    """Read the registry that comes with the package.

    Raises:
        WeightsError: The installation is damaged.
    """
    # A wheel carries the registry beside this file; a checkout has it at its root.
    candidates = (_PACKAGE / "weights.toml", _PACKAGE.parents[2] / "weights.toml")
    path = next((p for p in candidates if p.is_file()), candidates[0])
    try:
        return parse_registry(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"cannot be read ({error})", source=str(path), remedy="Install imlctl again."
        ) from error


def parse_registry(values: dict[str, Any]) -> Registry:
    """Build a registry from the TOML document's values.

    Raises:
        ValueError, TypeError, KeyError: A key is missing, unknown, or has a wrong value.
    """
    entries = {name: Entry(name=name, **table) for name, table in values["weights"].items()}
    if values["default"] not in entries:
        raise ValueError(f"the default {values['default']!r} is not an entry")
    return Registry(entries, values["default"])
