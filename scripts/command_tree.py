"""The commands of imlctl as plain data, for what is generated from them: pages and reference.

Read by duck typing: Typer brings its own Click, and what a parameter is called in it has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from imlctl.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument or an option.

    Attributes:
        spellings: Of an option, short ones first; none of an argument.
        value: What stands for its value; empty for a switch.
        help: Sentences.
        default: In words, "off" or "none" included; empty where a value is required.
        limits: In words; empty without any.
        many: Whether it may be repeated.
    """

    spellings: tuple[str, ...]
    value: str
    help: str
    default: str
    limits: str
    many: bool

    @property
    def required(self) -> bool:
        """True if the command does not run without it."""
        return not self.default


@dataclass(frozen=True, slots=True)
class Command:
    """A command, or a group of commands.

    Attributes:
        words: What is typed, from ``imlctl`` on.
        help: Paragraphs, each on one line.
        parameters: In the order of ``--help``.
        children: Of a group.
    """

    words: tuple[str, ...]
    help: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    children: tuple[Command, ...]

    @property
    def page(self) -> str:
        """Name of its man page."""
        return "-".join(self.words)

    @property
    def summary(self) -> str:
        """First sentence of its help, without the full stop."""
        return self.help[0].split(". ")[0].rstrip(".")

    @property
    def arguments(self) -> list[Parameter]:
        """Parameters given by position."""
        return [p for p in self.parameters if not p.spellings]

    @property
    def options(self) -> list[Parameter]:
        """Parameters given by name."""
        return [p for p in self.parameters if p.spellings]


def tree() -> Command:
    """Return the root of all commands."""
    return _command(typer.main.get_command(app), ("imlctl",))


def walk(command: Command) -> Iterator[Command]:
    """Yield a command and all below it."""
    yield command
    for child in command.children:
        yield from walk(child)


def _command(found: Any, words: tuple[str, ...]) -> Command:
    paragraphs = (" ".join(text.split()) for text in (found.help or "").split("\n\n"))
    children = getattr(found, "commands", {})
    return Command(
        words,
        tuple(filter(None, paragraphs)),
        tuple(_parameter(p) for p in found.params if not getattr(p, "hidden", False)),
        tuple(_command(child, (*words, name)) for name, child in children.items()),
    )


def _parameter(found: Any) -> Parameter:
    named = found.param_type_name == "option"
    value = found.metavar or found.name.upper().replace("_", "-")
    return Parameter(
        spellings=(*sorted(found.opts, key=len), *found.secondary_opts) if named else (),
        value="" if getattr(found, "is_flag", False) else value,
        help=" ".join((found.help or "").split()),
        default="" if found.required else _default(found),
        limits=_limits(found),
        many=bool(getattr(found, "multiple", False)) or found.nargs != 1,
    )


def _default(found: Any) -> str:
    if isinstance(found.show_default, str):
        return found.show_default
    value = found.default
    if value is None or value in ("", [], ()):
        return "off" if getattr(found, "is_flag", False) else "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _limits(found: Any) -> str:
    kind = getattr(found, "type", None)  # where older versions keep them
    least, most = (getattr(found, end, getattr(kind, end, None)) for end in ("min", "max"))
    if least is None or most is None:
        return f"{least} or more" if least is not None else ""
    return f"{least} to {most}"
