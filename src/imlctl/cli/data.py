"""`imlctl data`: datasets, and what a model is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imlctl.cli import options
from imlctl.cli.console import complain, note
from imlctl.cli.data_speed import speed
from imlctl.cli.synthesize import synthesize

if TYPE_CHECKING:
    from imlctl.data.index import Index

data = typer.Typer(help="Index datasets, make forgeries, look at samples.", no_args_is_help=True)
data.command()(synthesize)
data.command()(speed)

Workers = Annotated[int, typer.Option(min=1, max=256, help="Pictures read at the same time.")]


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


@data.command()
def index(
    root: Annotated[Path, typer.Argument(help="Folder of the dataset.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Manifest to write: .csv, or .jsonl.", show_default=False),
    ],
    layout: Annotated[
        str, typer.Option(help="How it lies in its folders: auto, or a name; see --layouts.")
    ] = "auto",
    name: Annotated[
        str | None,
        typer.Option("--set", help="Name of the set.", show_default="the layout's own"),
    ] = None,
    split: Annotated[str, typer.Option(help="What the pictures are for.")] = "train",
    hold_out: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="Share of the scenes that goes to the split val."),
    ] = 0.0,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="Manifest whose pictures must not turn up in another split; repeatable.",
            show_default=False,
        ),
    ] = None,
    workers: Workers = 4,
    layouts: Annotated[
        bool,
        typer.Option(
            "--layouts", is_eager=True, callback=lambda v: _layouts(v), help="List the layouts."
        ),
    ] = False,
    force: options.Force = False,
) -> None:
    """Write a dataset's manifest; each picture is opened and checked with its mask.

    What is wrong is named on standard error and left out. Masks that do not mark in white are
    written anew beside the manifest. The exit code is 3 when anything was left out.
    """
    from imlctl.data.index import Splits, build_index
    from imlctl.data.manifest import read_manifest, write_manifest
    from imlctl.errors import ConfigError, Exit, OutputError

    if out.exists() and not force:  # before an hour of reading, not after
        raise OutputError(
            "this output is already there",
            source=str(out),
            remedy="Choose another name, or add --force to replace it.",
        )
    known = [entry for path in against or () for entry in read_manifest(path)]
    splits = Splits(split, hold_out)
    masks = out.with_name(f"{out.stem}-masks")
    found = build_index(
        root, masks, layout=layout, name=name, splits=splits, against=known, workers=workers
    )
    for remark in found.remarks:
        (complain if remark.wrong else note)(str(remark))
    if not found.entries:
        raise ConfigError(f"no usable picture in the layout {found.layout!r}", source=str(root))
    write_manifest(out, found.entries, overwrite=force)
    _summarize(out, found)
    if found.wrong:
        raise typer.Exit(Exit.SOME_FAILED)


def _summarize(out: Path, found: Index) -> None:
    from imlctl.data.index import counts

    typer.echo(f"{out}: layout {found.layout}, {found.wrong} left out")
    for (name, split), (tampered, authentic) in counts(found.entries).items():
        typer.echo(f"  {name} {split}: {tampered} tampered, {authentic} authentic")


def _layouts(wanted: bool) -> None:
    if not wanted:
        return
    from imlctl.data.layouts import LAYOUTS

    for layout in LAYOUTS.values():
        typer.echo(f"{layout.name:17} {layout.about}")
    raise typer.Exit


@data.callback()
def _data() -> None:
    """Index datasets, make forgeries, look at samples."""
