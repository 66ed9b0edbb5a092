"""A TOML file made into frozen dataclasses, checked key by key before anything runs."""

from __future__ import annotations

import math
import tomllib
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from imlctl.errors import ConfigError

C = TypeVar("C")


def load_preset(path: Path, kind: type[C]) -> C:
    """Read a preset into the dataclass `kind`.

    Relative paths in it are taken from the working directory, as on a command line.

    Raises:
        ConfigError: The file cannot be read, or a key or value is wrong; says which.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", source=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"is not valid TOML: {error}", source=str(path)) from error
    return build(kind, values, str(path))


def build(kind: type[C], values: Any, where: str) -> C:
    """Make a frozen dataclass of nested tables, refusing unknown keys and wrong types.

    Args:
        kind: The dataclass.
        values: Its table.
        where: Name of the table, for messages.

    Raises:
        ConfigError: Says which key of which table is wrong.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"must be a table, not {values!r}", source=where)
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            f"unknown key {unknown[0]!r}", source=where, remedy=f"Known keys: {', '.join(known)}."
        )
    missing = [
        f.name
        for f in fields(kind)  # type: ignore[arg-type]
        if f.default is MISSING and f.default_factory is MISSING and f.name not in values
    ]
    if missing:
        raise ConfigError(f"lacks {missing[0]!r}", source=where, remedy="Add it to the preset.")
    try:
        return kind(**{k: _convert(hints[k], v, f"{where}: {k}") for k, v in values.items()})
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error), source=where) from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Turn one TOML value into the type a field asks for."""
    if get_origin(hint) in (Union, types.UnionType):  # only `X | None` is used
        hint = next(a for a in get_args(hint) if a is not type(None))
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"must be a list, not {value!r}", source=where)
        inner = get_args(hint)[0]
        return tuple(_convert(inner, v, where) for v in value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (type(value) is bool and hint is not bool)
    ):
        raise ConfigError(f"must be {hint.__name__}, not {value!r}", source=where)
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"must be a finite number, not {value!r}", source=where)
    return value
