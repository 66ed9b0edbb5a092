"""Options that several commands share, each spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(help="Name in the registry of weights.", show_default="the registry's default"),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Weights of your own, a safetensors file.", show_default=False),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps or xpu.")]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Probability from which a pixel is marked, between 0 and 1.",
        show_default="what the weights carry",
    ),
]
Preset = Annotated[
    Path, typer.Argument(help="Training preset (TOML); see configs/.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace outputs that exist.")]
