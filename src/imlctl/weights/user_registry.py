"""The user's own registry, ``$XDG_CONFIG_HOME/imlctl/weights.toml``: it extends ours.

It holds ``[weights.NAME]`` tables like ours, and ``[[seen]]`` tables: a file of the Hub as it was
when it was first pulled. It is only ever added to, so a person's comments stay and no record of
what was trusted is lost. The first record of a reference counts.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imlctl import atomic
from imlctl.errors import WeightsError
from imlctl.weights.files import sha256_of
from imlctl.weights.registry import (
    SCHEME,
    Entry,
    Registry,
    Seen,
    is_commit,
    load_registry,
    parse,
    parse_entries,
    user_folder,
)


def user_registry_path() -> Path:
    """Return where the user's registry is, or would be."""
    return user_folder("config") / "weights.toml"


def known_weights() -> Registry:
    """Read our registry, extended by the user's, if there is one.

    Raises:
        WeightsError: Either cannot be read, or the user's has a name of ours.
    """
    return _extended(_read())


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
    """Add a record to the user's registry, unless it has one of this reference.

    Returns the record that counts: the first, which another process may have added. Raises as
    `add_entry` does.
    """
    return _append(to_toml("[[seen]]", asdict(record)), record.weights).seen[record.weights]


def to_toml(head: str, values: dict[str, str | int]) -> str:
    """Write one table as TOML."""
    return "\n".join([head, *(f"{_key(k)} = {_value(v)}" for k, v in values.items())]) + "\n"


def _key(key: str) -> str:
    plain = key.replace("-", "").replace("_", "")
    return key if plain.isascii() and plain.isalnum() else _value(key)


def _value(value: str | int) -> str:
    # JSON's escapes are TOML's, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read() -> str:
    path = user_registry_path()
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):  # such as HOME=/dev/null
        return ""
    except (OSError, ValueError) as error:
        raise _unreadable(error) from error


def _extended(text: str) -> Registry:
    """Add what the user's registry says to ours."""
    ours = load_registry()
    try:
        values = tomllib.loads(text)
        unknown = values.keys() - {"weights", "seen"}
        if unknown:
            raise ValueError(f"unknown key {min(unknown)!r}")
        entries = parse_entries(values.get("weights", {}))
        seen: dict[str, Seen] = {}
        for table in values.get("seen", []):
            table.pop("licence", None)  # of former versions
            record = Seen(**table)
            seen.setdefault(record.weights, record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(error) from error
    taken = entries.keys() & ours.entries.keys()
    if taken:
        raise WeightsError(
            f"uses the name {min(taken)!r}, which imlctl's own registry has",
            source=str(user_registry_path()),
            remedy="Give the entry another name.",
        )
    return Registry(ours.entries | entries, ours.default, seen)


def _unreadable(error: Exception) -> WeightsError:
    return WeightsError(
        f"cannot be read ({error})",
        source=str(user_registry_path()),
        remedy="Correct it, or move it away to continue without it.",
    )


def _append(table: str, reference: str = "") -> Registry:
    """Add a table at the end, one process at a time, unless it is a second of a reference."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    path = user_registry_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path.with_name(path.name + ".lock")):
            before = _read()
            now = _extended(before)
            if reference in now.seen:
                return now
            gap = "\n" if before.endswith("\n") or not before else "\n\n"
            text = (before + gap if before else "") + table
            after = _extended(text)  # never write what cannot be read back
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
    fields |= {"name": name, "kind": kind, "sha256": sha256.lower()}
    try:
        if source.startswith(SCHEME):
            found = parse(source)
            if is_commit(found.revision):
                fields["revision"] = found.revision
            elif found.revision != "main":
                raise ValueError(f"{name}: the tag {found.revision!r} can move; give a commit")
            return Entry(source="hub", repo=found.repo, file=found.file, **fields)
        path = Path(source)
        digest = sha256_of(path)
        if sha256 and digest != fields["sha256"]:
            raise ValueError(f"it has sha256 {digest}, expected {fields['sha256']}")
        if kind == "model":
            from imlctl.weights.load import load  # imports torch, which names do not need

            fields["architecture"] = load(path, expected_sha256=digest).card.architecture
        fields |= {"file": str(path.resolve()), "size": path.stat().st_size, "sha256": digest}
        return Entry(source="file", **fields)
    except ValueError as error:
        raise WeightsError(
            f"cannot be added: {error}", source=source, remedy="Correct that, and add it again."
        ) from error
