"""The user's own registry, ``$XDG_CONFIG_HOME/imlctl/weights.toml``: it extends ours.

It holds ``[weights.NAME]`` tables like ours, and ``[[seen]]`` tables: a file of the Hub as it was
when it was first pulled. It is only ever added to, so a person's comments stay and no record of
what was trusted is lost. The first record of a reference counts.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imlctl import atomic
from imlctl.errors import WeightsError
from imlctl.weights.registry import (
    SCHEME,
    Entry,
    Registry,
    is_commit,
    is_sha256,
    load_registry,
    parse,
    parse_entries,
    sha256_of,
    user_folder,
)

if TYPE_CHECKING:
    from imlctl.weights.registry import HubReference


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """State of a file of the Hub when it was first pulled."""

    weights: str  # the reference that was pulled, with its revision
    revision: str  # the commit that this revision was then
    sha256: str
    size: int  # in bytes
    checked: str  # what the hash was compared with, see `pull.Pulled`
    date: str  # day of the pull in UTC, ISO 8601
    licence: str = ""  # that was shown, where it restricts the use

    def __post_init__(self) -> None:
        if not is_sha256(self.sha256) or not is_commit(self.revision):
            raise ValueError(f"the record of {self.weights} needs a sha256 and a commit")


@dataclass(frozen=True, slots=True)
class UserRegistry:
    """Entries added by the user, and files seen on the Hub."""

    entries: dict[str, Entry] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)  # the first record of each reference
    licences: frozenset[tuple[str, str]] = frozenset()  # that were shown, with their reference

    def first_seen(self, reference: HubReference) -> Seen | None:
        """Return the first record of a reference, if there is any."""
        return self.seen.get(str(reference))


def user_registry_path() -> Path:
    """Return where the user's registry is, or would be."""
    return user_folder("config") / "weights.toml"


def load_user_registry() -> UserRegistry:
    """Read the user's registry; an absent one is empty.

    Raises:
        WeightsError: It cannot be read, or uses a name of ours.
    """
    path = user_registry_path()
    try:
        registry = _parse(_read(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"cannot be read ({error})",
            source=str(path),
            remedy="Correct it, or move it away to continue without it.",
        ) from error
    taken = registry.entries.keys() & load_registry().entries.keys()
    if taken:
        raise WeightsError(
            f"uses the name {min(taken)!r}, which imlctl's own registry has",
            source=str(path),
            remedy="Give the entry another name.",
        )
    return registry


def known_weights() -> Registry:
    """Return our registry, extended by the user's; WeightsError where either cannot be read."""
    ours = load_registry()
    return Registry(ours.entries | load_user_registry().entries, ours.default)


def add_entry(entry: Entry) -> None:
    """Add an entry to the user's registry.

    Raises:
        WeightsError: The name is taken, or the registry cannot be read.
        OutputError: It cannot be written.
    """
    if entry.name in known_weights().entries:
        raise WeightsError(
            f"the name {entry.name!r} is taken",
            source=str(user_registry_path()),
            remedy="Choose another name, or edit that file.",
        )
    _append(to_toml(f"[weights.{_key(entry.name)}]", entry.to_dict()))


def add_seen(record: Seen) -> Seen:
    """Add a record to the user's registry, unless it would say nothing new.

    Returns the record that counts: the first of this reference, which another process may have
    added. Raises as `add_entry` does.
    """
    values = {key: value for key, value in asdict(record).items() if value != ""}
    return _append(to_toml("[[seen]]", values), record).seen[record.weights]


def to_toml(head: str, values: dict[str, Any]) -> str:
    """Write one table as TOML."""
    return "\n".join([head, *(f"{_key(k)} = {_value(v)}" for k, v in values.items())]) + "\n"


def _key(key: str) -> str:
    plain = key.replace("-", "").replace("_", "")
    return key if plain.isascii() and plain.isalnum() else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):  # JSON's escapes are TOML's, but for one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value, allow_nan=False)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):  # such as HOME=/dev/null
        return ""


def _parse(text: str) -> UserRegistry:
    values = tomllib.loads(text)
    unknown = values.keys() - {"weights", "seen"}
    if unknown:
        raise ValueError(f"unknown key {min(unknown)!r}")
    records = [Seen(**table) for table in values.get("seen", [])]
    return UserRegistry(
        parse_entries(values.get("weights", {})),
        {record.weights: record for record in reversed(records)},  # the first is set last
        frozenset((record.weights, record.licence) for record in records if record.licence),
    )


def _append(table: str, record: Seen | None = None) -> UserRegistry:
    """Add a table at the end, atomically, and one process at a time; not a record that is there."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    path = user_registry_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path.with_name(path.name + ".lock")):
            before = _read(path)
            now = load_user_registry()
            if record is not None and record.weights in now.seen:
                shown = (record.weights, record.licence) in now.licences
                if shown or not record.licence:
                    return now
            gap = "\n" if before.endswith("\n") or not before else "\n\n"
            text = (before + gap if before else "") + table
            after = _parse(text)  # never write what cannot be read back
            atomic.write(path, text.encode(), overwrite=True)
            return after
    except OSError as error:
        raise atomic.output_error(error, str(path)) from error


def describe(name: str, source: str, *, kind: str, sha256: str = "", **fields: Any) -> Entry:
    """Return an entry for weights of the user's own.

    Args:
        name: What to call them.
        source: A safetensors file, whose hash is taken now, or ``hf://owner/repo[@revision]/file``,
            which is pinned if its revision is a commit.
        kind: ``model``, ``encoder`` or ``teacher``; a file of kind model must load.
        sha256: What the hash must be.
        **fields: Further fields of `Entry`.

    Raises:
        WeightsError: The file is not valid, or the entry would contradict itself.
    """
    sha256 = sha256.lower()
    try:
        if source.startswith(SCHEME):
            found = parse(source)
            if found.revision != "main" and not is_commit(found.revision):
                raise ValueError(f"{name}: the tag {found.revision!r} can move; give a commit")
            revision = found.revision if is_commit(found.revision) else ""
            fields |= {"source": "hub", "repo": found.repo, "file": found.file}
            return Entry(name=name, kind=kind, sha256=sha256, revision=revision, **fields)
        path = Path(source)
        digest = sha256_of(path)
        if sha256 and digest != sha256:
            raise ValueError(f"it has sha256 {digest}, expected {sha256}")
        if kind == "model":
            from imlctl.weights.load import load  # imports torch, which names do not need

            fields["architecture"] = load(path, expected_sha256=digest).card.architecture
        fields |= {"source": "file", "file": str(path.resolve()), "size": path.stat().st_size}
        return Entry(name=name, kind=kind, sha256=digest, **fields)
    except ValueError as error:
        raise WeightsError(
            f"cannot be added: {error}", source=source, remedy="Correct that, and add it again."
        ) from error
