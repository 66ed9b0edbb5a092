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
    str | None,
    typer.Option(
        help="Other weights: a name, a safetensors file, or hf://owner/repo[@revision]/file.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps or xpu.")]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Probability from which a pixel is marked, between 0 and 1.",
        show_default="what the weights carry",
    ),
]
Steps = Annotated[
    int, typer.Option(min=1, max=1000, help="Denoising steps, for models that sample.")
]
Ensemble = Annotated[
    int, typer.Option(min=1, help="Samples that are averaged, for models that sample.")
]
Tta = Annotated[bool, typer.Option("--tta", help="Analyse the mirrored picture too.")]
TtaFusion = Annotated[
    str,
    typer.Option(
        help="How --tta brings the two together: mean, or max, which marks more of everything."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the noise, for models that sample.")]
Preset = Annotated[
    Path, typer.Argument(help="Training preset (TOML); see configs/.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace outputs that exist.")]
