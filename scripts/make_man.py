"""Write the man pages from the command tree and scripts/man.toml: ``python scripts/make_man.py``.

Pages are in the macros of man(7), which groff and mandoc both read.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command_tree import tree, walk

from imlctl import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from command_tree import Command, Parameter

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "man"
WORDS = Path(__file__).with_name("man.toml")
_WIDTH = 79  # of a line of the source
# In text that is to be copied, the font's typographic signs would be wrong.
_EXACT = {"-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
_LITERAL = re.compile(r"`([^`]+)`|(?<![\w-])(--[a-z][a-z0-9-]*|-[a-z0-9](?![\w-]))")


def words() -> dict[str, Any]:
    """Return scripts/man.toml."""
    return tomllib.loads(WORDS.read_text("utf-8"))


def pages() -> dict[str, str]:
    """Return every page by its file name.

    Raises:
        ValueError: A command has no table in scripts/man.toml, or a table no command.
    """
    said = words()
    commands = {command.page: command for command in walk(tree())}
    wrong = commands.keys() ^ said["page"].keys()
    if wrong:
        raise ValueError(f"commands and the tables in {WORDS.name} differ in {sorted(wrong)}")
    return {f"{name}.1": _page(command, commands, said) for name, command in commands.items()}


def _page(command: Command, commands: dict[str, Command], said: dict[str, Any]) -> str:
    table = said["page"][command.page]
    lines = [
        '.\\" Made by scripts/make_man.py from the command tree; do not edit.',
        f'.TH {_exact(command.page.upper())} 1 {said["date"]} "imlctl {__version__}" '
        '"imlctl manual"',
        ".nh",
        ".nr HY 0",  # neither hyphens nor stretched spaces where somebody may copy
        ".ad l",
        *_section("NAME", [_named(command)]),
        *_section("SYNOPSIS", _synopsis(command)),
        *_section("DESCRIPTION", _paragraphs([*_described(command), *table.get("more", [])])),
        *_section("COMMANDS", _commands(command)),
        *_section("ARGUMENTS", _items((_bare(p), _meaning(p)) for p in command.arguments)),
        *_section("OPTIONS", _options(command)),
        *_section("EXIT STATUS", _statuses(said["exit"] | table.get("exit", {}))),
        *_section("ENVIRONMENT", _environment(table, said["environment"])),
        *_section("FILES", _files(table, said["files"])),
        *_section("EXAMPLES", _examples(table["examples"])),
        *_section("SEE ALSO", _see_also(command, table, commands)),
    ]
    return "\n".join(lines) + "\n"


def _named(command: Command) -> str:
    what = re.split("[;:]", command.summary)[0]  # apropos shows one line
    return f"{_exact(command.page)} \\- {_plain(_lowered(what)).replace(chr(10), ' ')}"


def _section(title: str, lines: list[str]) -> list[str]:
    return [f'.SH "{title}"' if " " in title else f".SH {title}", *lines] if lines else []


def _described(command: Command) -> list[str]:
    return [text for text in command.help if not text.startswith("Exit status:")]


def _synopsis(command: Command) -> list[str]:
    parts = [f"\\fB{_exact(' '.join(command.words))}\\fR"]
    parts += [_argument(p) for p in command.arguments]
    parts += [_spelled(p) for p in command.options if p.required]
    parts += ["\\fICOMMAND\\fR"] if command.children else []
    return [" ".join([*parts, "[\\fIOPTION\\fR]..."])]


def _argument(parameter: Parameter) -> str:
    return _bare(parameter) if parameter.required else f"[{_bare(parameter)}]"


def _bare(parameter: Parameter) -> str:
    return f"\\fI{_exact(parameter.value)}\\fR" + ("..." if parameter.many else "")


def _spelled(parameter: Parameter) -> str:
    """The first spelling and its value, as a synopsis has it."""
    value = f" \\fI{_exact(parameter.value)}\\fR" if parameter.value else ""
    return f"\\fB{_exact(parameter.spellings[0])}\\fR{value}"


def _options(command: Command) -> list[str]:
    own = [(_all_spellings(p), _meaning(p)) for p in command.options]
    return _items([*own, ("\\fB\\-h\\fR, \\fB\\-\\-help\\fR", "Show a short help and exit.")])


def _all_spellings(parameter: Parameter) -> str:
    names = ", ".join(f"\\fB{_exact(name)}\\fR" for name in parameter.spellings)
    return f"{names} \\fI{_exact(parameter.value)}\\fR" if parameter.value else names


def _meaning(parameter: Parameter) -> str:
    facts = [f"default: {parameter.default}" if parameter.default else "required"]
    facts += [parameter.limits] if parameter.limits else []
    return _plain(f"{parameter.help} [{'; '.join(facts)}]".strip())


def _commands(command: Command) -> list[str]:
    return _items((_reference(child), _plain(f"{child.summary}.")) for child in command.children)


def _statuses(table: dict[str, str]) -> list[str]:
    return _items((f"\\fB{code}\\fR", _plain(table[code])) for code in sorted(table, key=int))


def _environment(table: dict[str, Any], groups: dict[str, dict[str, str]]) -> list[str]:
    chosen = ["terminal", *table.get("environment", [])]
    return _items(
        (f"\\fB{name}\\fR", _plain(text))
        for group in chosen
        for name, text in groups[group].items()
    )


def _files(table: dict[str, Any], known: dict[str, list[str]]) -> list[str]:
    chosen = [known[name] for name in table.get("files", [])]
    return _items((f"\\fI{_exact(path)}\\fR", _plain(text)) for path, text in chosen)


def _examples(examples: list[list[str]]) -> list[str]:
    lines = []
    for number, (what, commands) in enumerate(examples):
        lines += [] if number == 0 else [".PP"]
        lines += [f"{_plain(what)}:", ".PP", ".RS 4", ".EX"]
        lines += [_guarded(_exact(line)) for line in commands.split("\n")]
        lines += [".EE", ".RE"]
    return lines


def _see_also(command: Command, table: dict[str, Any], commands: dict[str, Command]) -> list[str]:
    above = [other for other in commands.values() if command in other.children]
    others = [commands[f"imlctl-{name}"] for name in table.get("see", [])]
    related = dict.fromkeys(map(_reference, [*above, *command.children, *others]))
    return [",\n".join(related)]


def _reference(command: Command) -> str:
    return f"\\fB{_exact(command.page)}\\fR(1)"


def _paragraphs(texts: list[str]) -> list[str]:
    lines: list[str] = []
    for text in texts:
        lines += [".PP"] if lines else []
        lines.append(_plain(text))
    return lines


def _items(items: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> list[str]:
    return [line for head, text in items for line in (".TP", _guarded(head), text)]


def _plain(text: str) -> str:
    """Prose: backquoted words and options become bold."""
    pieces, end = [], 0
    for match in _LITERAL.finditer(text):
        pieces.append(_prose(text[end : match.start()]))
        pieces.append(f"\\fB{_exact(match[1] or match[2])}\\fR")
        end = match.end()
    pieces.append(_prose(text[end:]))
    whole = "".join(pieces)
    lines = textwrap.wrap(whole, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(_guarded, lines))


def _prose(text: str) -> str:
    return text.replace("\\", "\\e").replace("~", "\\(ti").replace("^", "\\(ha")


def _exact(text: str) -> str:
    """Text that somebody may copy."""
    text = text.replace("\\", "\\e")
    return "".join(_EXACT.get(character, character) for character in text)


def _guarded(line: str) -> str:
    """A line that begins with a dot or a quote would be taken for a macro."""
    return f"\\&{line}" if line.startswith((".", "'")) else line


def _lowered(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def main() -> None:
    """Write all pages, and remove those of commands that are gone."""
    OUT.mkdir(exist_ok=True)
    made = pages()
    for old in OUT.glob("*.1"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (OUT / name).write_text(text, "utf-8", newline="\n")
    print(f"{len(made)} pages in {OUT.relative_to(ROOT)}/")


if __name__ == "__main__":
    main()
