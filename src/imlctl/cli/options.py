"""Options that several commands share, each spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from imlctl import resources


def option(about: str, *names: str, **more: Any) -> Any:
    """Describe an option; a switch needs its name, or typer would add its opposite."""
    return typer.Option(*names, help=about, **more)


Device = Annotated[
    str,
    option(
        "auto, cpu, cuda, cuda:N, mps or xpu.",
        autocompletion=lambda: ["auto", "cpu", "cuda", "mps", "xpu"],
    ),
]
Preset = Annotated[
    str,
    typer.Argument(
        help="Training preset: the name of a built-in one, or a TOML file.",
        autocompletion=lambda: list(resources.presets()),
    ),
]
Changes = Annotated[
    list[str] | None,
    option(
        "Set a key of the preset, such as optim.steps=100; repeatable.",
        "--set",
        metavar="KEY=VALUE",
    ),
]
Run = Annotated[Path, option("Folder of the run; an interrupted one is continued.", "--out", "-o")]
Quiet = Annotated[bool, option("No progress on standard error.", "--quiet", "-q")]
Force = Annotated[bool, option("Replace existing outputs.", "--force", "-f")]
Json = Annotated[bool, option("Print JSON.", "--json")]
