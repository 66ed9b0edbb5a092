"""The user's own registry, ``$XDG_CONFIG_HOME/imlctl/weights.toml``: it extends ours.

It holds ``[weights.NAME]`` tables like ours, and ``[[seen]]`` tables: a file of the Hub as it was
when it was first pulled. The former a person writes; the latter are only ever added, so that
comments stay and no record of what was trusted is lost. The first record of a reference counts.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict
from typing import TYPE_CHECKING

from imlctl import atomic
from imlctl.errors import WeightsError
from imlctl.weights.registry import Registry, Seen, load_registry, parse_entries, user_folder

if TYPE_CHECKING:
    from pathlib import Path


def user_registry_path() -> Path:
    """Return where the user's registry is, or would be."""
    return user_folder("config") / "weights.toml"


def known_weights() -> Registry:
    """Read our registry, extended by the user's, if there is one.

    Raises:
        WeightsError: Either cannot be read, or the user's has a name of ours.
    """
    return _extended(_read())


def add_seen(record: Seen) -> Seen:
    """Add a record to the user's registry, unless it has one of this reference.

    Returns:
        The record that counts: the first, which another process may have added.

    Raises:
        WeightsError: The registry cannot be read.
        OutputError: It cannot be written.
    """
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    path = user_registry_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path.with_name(path.name + ".lock")):  # one process at a time
            before = _read()
            seen = _extended(before).seen
            if record.weights not in seen:
                gap = "\n" if before.endswith("\n") or not before else "\n\n"
                text = (before + gap if before else "") + to_toml("[[seen]]", asdict(record))
                seen = _extended(text).seen  # never write what cannot be read back
                atomic.write(path, text.encode(), overwrite=True)
            return seen[record.weights]
    except OSError as error:
        raise atomic.output_error(error, str(path)) from error


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
