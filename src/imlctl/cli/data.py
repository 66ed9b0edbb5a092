"""`imlctl data`: look at what a model is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imlctl.cli import options

data = typer.Typer(help="Look at training data.", no_args_is_help=True)


@data.command()
def sheet(
    config: options.Preset,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Picture to write (PNG).", show_default=False)
    ],
    count: Annotated[int, typer.Option(min=1, max=400, help="Samples to show.")] = 48,
    start: Annotated[int, typer.Option(min=0, help="Number of the first sample.")] = 0,
    force: options.Force = False,
) -> None:
    """Draw training samples with their masks outlined, and say how fast they are made."""
    from imlctl import atomic
    from imlctl.train.config import load_config
    from imlctl.train.sheet import contact_sheet

    png, rate = contact_sheet(load_config(config), start=start, count=count)
    atomic.write(out, png, overwrite=force)
    typer.echo(f"{out}: {count} samples, {rate:.0f} a second in one process")


@data.callback()
def _data() -> None:
    """Look at training data."""
