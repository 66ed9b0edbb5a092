"""Write docs/reference.md: ``python scripts/make_reference.py``.

From the command tree, the exit codes, scripts/man.toml, the schema of records, and the dataclasses
that presets are read into, whose docstrings explain their keys.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from command_tree import tree, walk
from make_man import words

from imlctl.core.diff_iml import ENCODERS
from imlctl.data.layouts import LAYOUTS
from imlctl.errors import Exit
from imlctl.forge.to_disk import KINDS
from imlctl.resources import presets
from imlctl.train.config import TrainConfig
from imlctl.train.distill import DistillConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "reference.md"
SCHEMA = ROOT / "docs" / "record.schema.json"
_SIMPLE = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}
_COMMENTED = re.compile(r"(?m)((?:^    # .*\n)*)^    (\w+): .*?(?:  # (.*))?$")
_ATTRIBUTE = re.compile(r"(?m)^        (\w+): (.*(?:\n {9,}.*)*)")


def page() -> str:
    """Return the whole page."""
    blocks = [
        "# Reference",
        "<!-- Made by scripts/make_reference.py; do not edit. -->",
        "Commands, exit status, environment and files; fields of a record; keys of a preset.\n"
        "`man imlctl` has the options of every command, with defaults and examples.",
        *_commands(),
        *_codes(),
        *_surroundings(),
        *_records(),
        *_presets(),
        *_names(),
    ]
    return "\n\n".join(blocks) + "\n"


def _commands() -> Iterator[str]:
    yield "## Commands"
    rows = []
    for command in walk(tree()):
        if not command.children:
            pieces = [" ".join(command.words), *(p.value for p in command.arguments)]
            pieces += [f"{p.spellings[0]} {p.value}" for p in command.options if p.required]
            rows.append((f"`{' '.join(pieces)}`", f"{command.summary}.", _page_link(command.page)))
    yield _table(("command", "what it does", "all options"), rows)
    yield (
        "`imlctl --install-completion` turns on tab completion for bash, zsh, fish or PowerShell;\n"
        "`imlctl --show-completion` prints what it would install."
    )


def _page_link(name: str) -> str:
    return f"[{name}(1)](../man/{name}.1)"


def _codes() -> Iterator[str]:
    said = words()
    meanings = said["exit"] | said["page"]["imlctl"]["exit"]
    yield "## Exit status"
    yield _table(("status", "meaning"), [(f"{code:d}", meanings[str(code.value)]) for code in Exit])


def _surroundings() -> Iterator[str]:
    said = words()
    yield "## Environment variables"
    variables = [item for group in said["environment"].values() for item in group.items()]
    yield _table(("variable", "meaning"), [(f"`{name}`", text) for name, text in variables])
    yield "## Files"
    files = said["files"].values()
    yield _table(("file", "contents"), [(f"`{place}`", text) for place, text in files])


def _records() -> Iterator[str]:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    yield "## Records"
    yield (
        "One JSON object for each picture: the file that `--json` writes, a line of\n"
        "`records.jsonl`, a row of the ledger. The exact schema is\n"
        "[record.schema.json](record.schema.json), version "
        f"{schema['properties']['schema_version']['const']}."
    )
    yield _properties(schema)
    for name, part in schema["$defs"].items():
        yield f"### A record's `{name}`"
        yield _properties(part)


def _properties(schema: dict[str, Any]) -> str:
    rows = [
        (f"`{key}`", _kind(part), part.get("description", ""))
        for key, part in schema["properties"].items()
    ]
    return _table(("key", "kind", "meaning"), rows)


def _kind(part: dict[str, Any]) -> str:
    """A schema in words."""
    if "anyOf" in part:
        return " or ".join(map(_kind, part["anyOf"]))
    if "$ref" in part:
        return f"`{part['$ref'].rpartition('/')[2]}`"
    if "const" in part:
        return f"`{json.dumps(part['const'])}`"
    if "enum" in part:
        return " or ".join(f"`{json.dumps(value)}`" for value in part["enum"])
    kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
    if "array" in kinds and "items" in part:
        listed = f"list of {_kind(part['items'])}"
        return " or ".join(listed if kind == "array" else kind for kind in kinds)
    if "object" in kinds and "properties" in part:
        return f"object with {', '.join(f'`{key}`' for key in part['properties'])}"
    return " or ".join(kinds)


def _presets() -> Iterator[str]:
    yield "## Presets"
    yield (
        "A preset is a TOML file, or the name of one that comes with imlctl:\n"
        f"{_listed(presets())}.\n"
        "An unknown key, or a value of the wrong type, is an error. Relative paths are taken from\n"
        "the working directory. `--set KEY=VALUE` changes a key for one run."
    )
    shown: dict[type, str] = {}
    for command, kind in (("train", TrainConfig), ("distill", DistillConfig)):
        yield f"### `imlctl {command}`"
        yield from _preset(kind, "", shown, command)


def _preset(kind: type, table: str, shown: dict[type, str], command: str) -> Iterator[str]:
    """The keys of a table, and then the tables within it."""
    if table:
        yield f"#### `{table}` of {command}"
    if kind in shown:
        yield f"As {shown[kind]}."
        return
    shown[kind] = f"`{table}` of {command}"
    summary, about = _docstring(kind)
    yield summary
    hints = get_type_hints(kind)
    rows = []
    for field in _fields(kind):
        inner = "See below." if _inner(hints[field.name]) else ""
        meaning = about.get(field.name, inner)
        rows.append((f"`{field.name}`", _type(hints[field.name]), _default(field), meaning))
    yield _table(("key", "type", "default", "meaning"), rows)
    for field in _fields(kind):
        for inner in _inner(hints[field.name]):
            name = f"{table.strip('[]')}.{field.name}".lstrip(".")
            many = get_origin(hints[field.name]) is tuple
            yield from _preset(inner, f"[[{name}]]" if many else f"[{name}]", shown, command)


def _fields(kind: Any) -> tuple[Field[Any], ...]:
    return fields(kind)


def _inner(hint: Any) -> list[type]:
    """Dataclasses that a type holds."""
    parts = (hint, *get_args(hint))
    return [part for part in parts if is_dataclass(part) and isinstance(part, type)]


def _docstring(kind: type) -> tuple[str, dict[str, str]]:
    text, _, attributes = (kind.__doc__ or "").partition("    Attributes:\n")
    about = {name: " ".join(said.split()) for name, said in _ATTRIBUTE.findall(attributes)}
    about |= _comments(kind)
    paragraphs = filter(None, (" ".join(part.split()) for part in text.split("\n\n")))
    return _code("\n\n".join(paragraphs)), {name: _code(said) for name, said in about.items()}


def _comments(kind: type) -> dict[str, str]:
    """Comments above a field or beside it, as sentences."""
    found = {}
    for above, name, beside in _COMMENTED.findall(inspect.getsource(kind)):
        said = " ".join(f"{above} {beside}".replace("    # ", " ").split())
        if said:
            sentence = said[0].upper() + said[1:] if said[1:2].islower() else said
            found[name] = sentence.rstrip(".") + "."
    return found


def _code(text: str) -> str:
    """From reStructuredText, which docstrings are in."""
    return text.replace("``", "`")


def _type(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_type(each) for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in get_args(hint))
    if get_origin(hint) is tuple:
        first, *others = get_args(hint)
        many = "list of" if others[-1:] == [...] else f"{1 + len(others)} x"
        return f"{many} {_type(first)}"
    return "table" if is_dataclass(hint) else _SIMPLE[hint]


def _default(field: Field[Any]) -> str:
    if field.default is MISSING:
        return "required" if field.default_factory is MISSING else ""
    if field.default is None:
        return "none"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{json.dumps(value, default=str)}`"


def _names() -> Iterator[str]:
    yield "## Names"
    yield f"Condition encoders, for `encoder`: {_listed(ENCODERS)}."
    yield f"Kinds of forgery, for `--kind`: {_listed(KINDS)}."
    yield "Layouts of datasets, for `--layout`:"
    yield _table(("layout", "folders"), [(f"`{x.name}`", x.about) for x in LAYOUTS.values()])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def main() -> None:
    """Write the page."""
    OUT.write_text(page(), "utf-8", newline="\n")
    print(OUT.relative_to(ROOT))


if __name__ == "__main__":
    main()
