"""`imlctl bench`: how fast, how costly, and how right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    fps: Annotated[
        bool, typer.Option("--fps", help="Measure speed and cost of the model alone.")
    ] = False,
    f1: Annotated[
        Path | None,
        typer.Option(
            "--f1",
            help="Measure accuracy on a folder of <set>/tampered, masks, authentic.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="Name in the registry of weights.", show_default="the registry's default"
        ),
    ] = "",
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights of your own, a safetensors file.", show_default=False),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(
            help="Side of the picture in pixels; may be repeated.", show_default="512, 1024, 2048"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps or xpu.")] = "auto",
    against: Annotated[
        bool,
        typer.Option(
            "--against-mit-b3",
            help="Time SegFormer's MiT-B3 encoder in the same run, and give the ratio.",
        ),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Probability from which a pixel is marked.", show_default="what the weights carry"
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each size.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure this machine and these weights: --fps for speed and cost, --f1 for accuracy."""
    from imlctl.errors import UsageError
    from imlctl.pipeline import Localizer, Settings

    if fps == (f1 is not None):
        raise UsageError("needs one of --fps and --f1", source="bench")
    localizer = Localizer(
        Settings(model=model, weights=weights, device=device, threshold=threshold)
    )
    if f1 is not None:
        _accuracy(localizer, f1, json)
    else:
        _speed(localizer, size or [512, 1024, 2048], runs, against, json)
