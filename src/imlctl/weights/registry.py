"""The registry of weights, `weights.toml`: what a name stands for, and where its file is."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from imlctl.errors import WeightsError
from imlctl.weights.reference import HubReference, is_commit

KINDS = ("model", "encoder", "teacher")
_OF_FORMER_VERSIONS = ("preprocessing", "calibration")  # keys that a user's own registry may hold
_PACKAGE = Path(__file__).parent
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_sha256(text: str) -> bool:
    """Whether a text is 64 hexadecimal digits in lower case."""
    return bool(_SHA256.fullmatch(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name in the registry.

    Attributes:
        name: What a user types.
        source: ``bundled``: the file lies in the package; ``hub``: in a repository of the Hub;
            ``file``: anywhere on this machine.
        file: File name, path within the repository, or absolute path.
        licence: SPDX identifier.
        kind: ``model``, ``encoder`` (an initialisation) or ``teacher`` (of a distillation).
        repo: Repository on the Hub, ``owner/name``.
        revision: Its commit, 40 hexadecimal digits; empty where none was verified.
        sha256: Of the file, 64 hexadecimal digits; empty where none was verified.
        size: Of the file, in bytes; 0 where it was not verified.
        restriction: What the licence does not allow, as a clause; empty where it allows any use.
        architecture: What the file must hold.
        config: Configuration it must hold; empty where it travels in the file alone.
        threshold: What the file must have been calibrated to; None for whatever it carries.
        card: Where the model card is.
    """

    name: str
    source: str
    file: str
    licence: str
    kind: str = "model"
    repo: str = ""
    revision: str = ""
    sha256: str = ""
    size: int = 0
    restriction: str = ""
    architecture: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    card: str = ""

    def __post_init__(self) -> None:
        """Refuse an entry that contradicts itself."""
        for problem, found in (
            ("a name of letters, digits, dots and dashes", not _NAME.fullmatch(self.name)),
            (f"a kind that is one of {', '.join(KINDS)}", self.kind not in KINDS),
            ("a sha256 of 64 hexadecimal digits", self.sha256 and not is_sha256(self.sha256)),
            ("a revision of 40 hexadecimal digits", self.revision and not is_commit(self.revision)),
            ("a size of 0 or more", self.size < 0),
            ("a licence", not self.licence),
        ):
            if found:
                raise ValueError(f"{self.name}: needs {problem}")
        self._check_source()

    def _check_source(self) -> None:
        if self.source == "hub":
            try:
                self.reference  # noqa: B018 - builds and checks it
            except ValueError as error:
                raise ValueError(f"{self.name}: {error}") from error
        elif self.source == "bundled":
            if not self.sha256 or Path(self.file).name != self.file:
                raise ValueError(f"{self.name}: needs a plain file name and a sha256")
        elif self.source == "file":
            if not self.sha256 or not Path(self.file).is_absolute():
                raise ValueError(f"{self.name}: needs an absolute path and a sha256")
        else:
            raise ValueError(f"{self.name}: unknown source {self.source!r}")

    @property
    def reference(self) -> HubReference:
        """Where the file is on the Hub; only for `source` ``hub``."""
        return HubReference(self.repo, self.file, self.revision or "main")

    @property
    def path(self) -> Path:
        """Where the file is; not for `source` ``hub``, whose files lie in the Hub's cache."""
        return _PACKAGE / "bundled" / self.file if self.source == "bundled" else Path(self.file)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, without the name."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}
        return {key: value for key, value in values.items() if value not in ("", 0, None, {})}


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
                remedy=f"Known names: {', '.join(self.entries)}. A file is named by its path.",
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
    entries = parse_entries(values["weights"])
    if values["default"] not in entries:
        raise ValueError(f"the default {values['default']!r} is not an entry")
    return Registry(entries, values["default"])


def parse_entries(tables: dict[str, Any]) -> dict[str, Entry]:
    """Build the entries of a registry's ``weights`` table.

    Raises:
        ValueError, TypeError: A key is missing, unknown, or has a wrong value.
    """
    return {
        name: Entry(name=name, **{k: v for k, v in table.items() if k not in _OF_FORMER_VERSIONS})
        for name, table in dict(tables).items()
    }
