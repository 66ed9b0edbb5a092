"""Names of weights: ``hf://`` references, and the registries, ours and the user's.

Both are TOML with ``[weights.NAME]`` tables. The user's, ``$XDG_CONFIG_HOME/imlctl/weights.toml``,
also holds ``[[seen]]`` tables: a file of the Hub as it was when it was first pulled. These are only
ever added, so that comments stay and no record of what was trusted is lost.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from imlctl import atomic
from imlctl.errors import WeightsError

SCHEME = "hf://"
KINDS = ("model", "encoder", "teacher")
_OTHER_NAMES = "A file is named by its path, one of the Hub hf://owner/repo/FILE."

_PACKAGE = Path(__file__).parent
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REPO = re.compile(rf"{_NAME.pattern}/{_NAME.pattern}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")
# Keys that a user's own registry may hold from former versions.
_FORMER = ("preprocessing", "calibration", "config", "threshold")
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError)


def is_commit(revision: str) -> bool:
    """Tell whether a revision is a commit, 40 hexadecimal digits, and so cannot move."""
    return bool(re.fullmatch("[0-9a-f]{40}", revision))


def is_sha256(text: str) -> bool:
    """Tell whether a text is 64 hexadecimal digits in lower case."""
    return bool(re.fullmatch("[0-9a-f]{64}", text))


@dataclass(frozen=True, slots=True)
class HubReference:
    """One file of a repository at one revision, a commit, a tag or a branch."""

    repo: str  # owner/name
    file: str  # path within the repository
    revision: str = "main"

    def __post_init__(self) -> None:
        if not _REPO.fullmatch(self.repo) or ".." in self.repo or "--" in self.repo:
            raise ValueError(f"{self.repo!r} is no repository of the form owner/name")
        if not _REVISION.fullmatch(self.revision) or ".." in self.revision:
            raise ValueError(f"{self.revision!r} is no commit, tag or branch")
        parts = self.file.split("/")
        if not self.file.isprintable() or "\\" in self.file or {"", ".", ".."} & set(parts):
            raise ValueError(f"{self.file!r} is no path within a repository")

    def at(self, revision: str) -> HubReference:
        """Return the same file at another revision."""
        return replace(self, revision=revision)

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}@{quote(self.revision, safe='')}/{self.file}"


def parse_reference(text: str) -> HubReference:
    """Read ``hf://owner/repo[@revision]/file``; a slash in a revision is written ``%2F``."""
    owner, _, rest = text.removeprefix(SCHEME).partition("/")
    head, _, file = rest.partition("/")
    name, at, revision = head.partition("@")
    try:
        return HubReference(f"{owner}/{name}", file, unquote(revision) if at else "main")
    except ValueError as error:
        what = f"is no reference to the Hub: {error}"
        remedy = "Write hf://owner/repo/file or hf://owner/repo@revision/file."
        raise WeightsError(what, source=text, remedy=remedy) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsEntry:
    """One name in the registry; what is empty was not verified or is not known."""

    name: str
    source: str  # of the file: bundled in the package, on the hub, or a file of this machine
    file: str  # its name, path within the repository, or absolute path
    licence: str  # SPDX identifier
    kind: str = "model"  # or encoder (an initialisation), or teacher (of a distillation)
    repo: str = ""  # on the Hub, owner/name
    revision: str = ""  # its commit
    sha256: str = ""
    size: int = 0  # in bytes
    restriction: str = ""  # what the licence does not allow, as a clause
    architecture: str = ""  # that the file must hold
    card: str = ""  # where the model card is

    def __post_init__(self) -> None:
        path, hub, sha256 = Path(self.file), self.source == "hub", self.sha256
        for need, holds in (
            ("a name of letters, digits, dots and dashes", _NAME.fullmatch(self.name)),
            (f"a kind that is one of {', '.join(KINDS)}", self.kind in KINDS),
            ("a source that is bundled, hub or file", self.source in ("bundled", "hub", "file")),
            ("a sha256 of 64 hexadecimal digits", is_sha256(sha256) or (hub and not sha256)),
            ("a revision of 40 hexadecimal digits", not self.revision or is_commit(self.revision)),
            ("a size of 0 or more", self.size >= 0),
            ("a licence", self.licence),
            ("a plain file name", self.source != "bundled" or path.name == self.file),
            ("an absolute path", self.source != "file" or path.is_absolute()),
        ):
            if not holds:
                raise ValueError(f"{self.name}: needs {need}")
        try:
            if hub:
                self.reference  # noqa: B018 - builds and checks it
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    @property
    def reference(self) -> HubReference:
        """Reference to the file on the Hub; only for `source` ``hub``."""
        return HubReference(self.repo, self.file, self.revision or "main")

    @property
    def path(self) -> Path:
        """Path of the file; not for `source` ``hub``, whose files lie in the Hub's cache."""
        return _PACKAGE / "bundled" / self.file if self.source == "bundled" else Path(self.file)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, without the name."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}
        return {key: value for key, value in values.items() if value}


@dataclass(frozen=True, slots=True)
class Seen:
    """State of a file of the Hub when it was first pulled."""

    weights: str  # the reference that was pulled, with its revision
    revision: str  # the commit that this revision was then
    sha256: str
    size: int  # in bytes
    checked: str  # what the hash was compared with, see `pull.Pulled`
    date: str  # day of the pull in UTC, ISO 8601

    def __post_init__(self) -> None:
        if not is_sha256(self.sha256) or not is_commit(self.revision):
            raise ValueError(f"the record of {self.weights} needs a sha256 and a commit")


@dataclass(frozen=True, slots=True)
class Registry:
    """Entries by name, the name to use when none is given, and files seen on the Hub."""

    entries: dict[str, WeightsEntry]
    default: str
    seen: dict[str, Seen] = field(default_factory=dict)  # the first record of each reference

    def __post_init__(self) -> None:
        if self.default not in self.entries:
            raise ValueError(f"the default {self.default!r} is not an entry")

    def __getitem__(self, name: str) -> WeightsEntry:
        """Return an entry; raises WeightsError if there is no such name."""
        if name not in self.entries:
            what = f"there are no weights named {name!r}"
            remedy = f"Known names: {', '.join(self.entries)}. {_OTHER_NAMES}"
            raise WeightsError(what, source="weights.toml", remedy=remedy)
        return self.entries[name]


@cache
def load_registry() -> Registry:
    """Read the registry that comes with the package; raises WeightsError if it is damaged."""
    # A wheel carries the registry beside this file; a checkout has it at its root.
    candidates = (_PACKAGE / "weights.toml", _PACKAGE.parents[2] / "weights.toml")
    path = next((p for p in candidates if p.is_file()), candidates[0])
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return Registry(parse_entries(values["weights"]), values["default"])
    except _UNREADABLE as error:
        raise _unreadable(error, path, "Install imlctl again.") from error


def known_weights() -> Registry:
    """Read our registry, extended by the user's; raises WeightsError if either cannot be read."""
    return _extended(_user_text())


def parse_entries(tables: dict[str, Any]) -> dict[str, WeightsEntry]:
    """Build entries of a ``weights`` table; ValueError, TypeError or KeyError if it is wrong."""
    return {
        name: WeightsEntry(name=name, **{k: v for k, v in table.items() if k not in _FORMER})
        for name, table in dict(tables).items()
    }


def add_seen(record: Seen) -> Seen:
    """Add a record to the user's registry, unless it has one of this reference.

    Returns the record that counts: the first, which another process may have added. Raises an
    `ImlctlError` if the registry cannot be read or written.
    """
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    path = user_registry_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path.with_name(path.name + ".lock")):  # one process at a time
            before = _user_text()
            seen = _extended(before).seen
            if record.weights not in seen:
                gap = "\n" if before.endswith("\n") or not before else "\n\n"
                text = (before + gap if before else "") + to_toml("[[seen]]", asdict(record))
                seen = _extended(text).seen  # never write what cannot be read back
                atomic.write(path, text.encode(), overwrite=True)
            return seen[record.weights]
    except OSError as error:
        raise atomic.output_error(error, str(path)) from error


def _user_text() -> str:
    path = user_registry_path()
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):  # such as HOME=/dev/null
        return ""
    except (OSError, ValueError) as error:
        raise _unreadable(error, path) from error


def _extended(text: str) -> Registry:
    """Add what the user's registry says to ours."""
    ours = load_registry()
    try:
        values = tomllib.loads(text)
        if unknown := values.keys() - {"weights", "seen"}:
            raise ValueError(f"unknown key {min(unknown)!r}")
        entries = parse_entries(values.get("weights", {}))
        seen: dict[str, Seen] = {}
        for table in values.get("seen", []):
            record = Seen(**{k: v for k, v in table.items() if k != "licence"})
            seen.setdefault(record.weights, record)
        if taken := entries.keys() & ours.entries.keys():
            raise ValueError(f"it uses the name {min(taken)!r}, which imlctl's own registry has")
    except _UNREADABLE as error:
        raise _unreadable(error, user_registry_path()) from error
    return Registry(ours.entries | entries, ours.default, seen)


def _unreadable(
    error: Exception, path: Path, remedy: str = "Correct it, or move it away to do without it."
) -> WeightsError:
    return WeightsError(f"cannot be read ({error})", source=str(path), remedy=remedy)


def to_toml(head: str, values: dict[str, str | int]) -> str:
    """Write one table as TOML; keys must be bare, as names of fields are."""
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    # JSON's escapes are TOML's, but for one character.
    return "\n".join([head, *lines, ""]).replace("\x7f", "\\u007f")


def user_registry_path() -> Path:
    """Return where the user's registry is, or would be."""
    return user_folder("config") / "weights.toml"


def user_folder(kind: str) -> Path:
    """Return our folder below ``$XDG_CONFIG_HOME`` or ``$XDG_CACHE_HOME``; `kind` is lower case."""
    base = os.environ.get(f"XDG_{kind.upper()}_HOME", "")
    # The specification says to ignore a relative path.
    root = Path(base) if Path(base).is_absolute() else Path.home() / f".{kind}"
    return root / "imlctl"
