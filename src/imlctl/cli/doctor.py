"""`imlctl doctor`: check the installation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imlctl import __version__
from imlctl.cli.console import printable
from imlctl.errors import Exit

if TYPE_CHECKING:
    from imlctl.cli.doctor_checks import Check

_JSON_VERSION = 1


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a page.")] = False,
) -> None:
    """Check this installation, and test the bundled weights.

    Looks at packages, device, memory, folders and extras, offline; changes nothing.

    Exit status: 0 when all is well, 2 when something necessary is broken.
    """
    from imlctl.cli import doctor_checks
    from imlctl.cli.doctor_checks import State

    checks = [
        *doctor_checks.packages(),
        *doctor_checks.machine(),
        *doctor_checks.weights(),
        *doctor_checks.storage(),
        *doctor_checks.extras(),
    ]
    broken = [check for check in checks if check.state is State.BROKEN]
    if json:
        _print_json(checks, well=not broken)
    else:
        _print(checks)
        typer.echo(f"Broken: {', '.join(c.name for c in broken)}." if broken else "All is well.")
    if broken:
        raise typer.Exit(Exit.USAGE)


def _print(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False)
    console.print(f"imlctl {__version__} in {printable(Path(__file__).parents[1])}")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, state, says in _lines(checks):
        style = {"broken": "bold red", "note": "yellow"}.get(state, "")
        table.add_row(name, f"{state}: {says}" if state == "broken" else says, style=style)
    console.print(table)


def _lines(checks: list[Check]) -> list[tuple[str, str, str]]:
    """Name, state and text of each line; packages that are well share one."""
    from imlctl.cli.doctor_checks import State

    sound = [c for c in checks if c.group == "packages" and c.state is State.WELL]
    lines = [("packages", "ok", ", ".join(f"{c.name} {c.says}" for c in sound))]
    for check in checks:
        if check in sound:
            continue
        # An extra's text holds its remedy already.
        tail = f". {check.remedy}" if check.remedy and check.remedy not in check.says else ""
        head = f"[{check.name}]" if check.group == "extras" else check.name
        lines.append((head, str(check.state), check.says + tail))
    return lines


def _print_json(checks: list[Check], *, well: bool) -> None:
    from dataclasses import asdict
    from json import dumps

    document = {
        "kind": "doctor",
        "version": _JSON_VERSION,
        "imlctl": __version__,
        "well": well,
        "checks": [asdict(check) for check in checks],
    }
    typer.echo(dumps(document, indent=2, allow_nan=False))
