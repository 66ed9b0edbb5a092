"""Configurations as plain values and back: what a checkpoint's metadata can hold."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any, Self, TypeVar, get_type_hints

C = TypeVar("C")


class Plain:
    """For dataclasses of numbers, names, tuples of them, and further such dataclasses."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's metadata."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]  # is mixed into dataclasses

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`, also after a trip through JSON; what is missing has its default.

        Raises:
            ValueError: A value is out of range.
            TypeError: A key is unknown, or a value of another type.
        """
        return _read(cls, values)


def _read(kind: type[C], values: dict[str, Any]) -> C:
    kinds = get_type_hints(kind)
    read = {}
    for name, value in values.items():
        if is_dataclass(kinds.get(name)):
            if not isinstance(value, dict):
                raise TypeError(f"{name} must be a table, not {value!r}")
            read[name] = _read(kinds[name], value)
        else:
            read[name] = tuple(value) if isinstance(value, list) else value
    return kind(**read)
