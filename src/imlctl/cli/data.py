"""`imlctl data`: index datasets, make forgeries, look at training samples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from imlctl.cli import options
from imlctl.cli.console import complain, note
from imlctl.cli.options import option

_KINDS = "mixed (the preset's mix), splice, copy_move, removal, regenerated, retouch, or authentic."

data = typer.Typer(help="Index datasets, make forgeries, look at samples.", no_args_is_help=True)


@data.command()
def synthesize(
    config: options.Preset,
    out: Annotated[
        Path, option("Folder of the set; pictures already there are kept.", "--out", "-o")
    ],
    count: Annotated[int, option("Number of pictures, over all shards.", min=1)] = 1000,
    kind: Annotated[str, option(_KINDS)] = "mixed",
    shard: Annotated[
        str, option("Make one shard of the set, such as 2/8.", show_default="all of it")
    ] = "1/1",
    seed: Annotated[int, option("Seed of all random choices.", min=0)] = 0,
    held_out: Annotated[
        bool, option("Use the photographs held out from training.", "--held-out")
    ] = False,
    name: Annotated[str, option("Name of the set.", "--set")] = "synthetic",
    split: Annotated[str, option("Split to write into the manifest.")] = "train",
) -> None:
    """Write forgeries with their masks and a manifest.

    The same command continues an interrupted run. The same preset, photographs and seed give the
    same pictures, whatever the number of shards.
    """
    from tqdm import tqdm

    from imlctl.forge import to_disk
    from imlctl.scan.naming import Shard
    from imlctl.train.config import load_config
    from imlctl.train.material import load_split

    part = Shard.parse(shard)
    preset = load_config(config)
    pool = load_split(preset, validation=held_out)
    make = to_disk.make_maker(pool, kind, size=preset.optim.size, mix=preset.mix, seed=seed)
    total = len(range(part.index - 1, count, part.count))
    with tqdm(total=total, unit="picture", disable=not sys.stderr.isatty()) as bar:
        where: dict[str, Any] = {"split": split, "part": part.index, "parts": part.count}
        made = to_disk.synthesize(make, count, out, name=name, **where, report=bar.update)
    typer.echo(made)


@data.command()
def sheet(
    config: options.Preset,
    out: Annotated[Path, option("PNG to write.", "--out", "-o")],
    count: Annotated[int, option("Number of samples.", min=1, max=400)] = 48,
    start: Annotated[int, option("Number of the first sample.", min=0)] = 0,
    force: options.Force = False,
) -> None:
    """Draw training samples with their masks outlined."""
    from imlctl import atomic
    from imlctl.train.config import load_config
    from imlctl.train.material import contact_sheet

    atomic.write(out, contact_sheet(load_config(config), start=start, count=count), overwrite=force)
    typer.echo(out)


def _layouts(wanted: bool) -> None:
    if wanted:
        from imlctl.data.layouts import LAYOUTS

        for layout in LAYOUTS.values():
            typer.echo(f"{layout.name:17} {layout.about}")
        raise typer.Exit


@data.command()
def index(
    root: Annotated[Path, typer.Argument(help="Folder of the dataset.")],
    out: Annotated[Path, option("Manifest to write: CSV, or .jsonl.", "--out", "-o")],
    layout: Annotated[
        str, option("Layout of the folders: auto, or a name from --layouts.")
    ] = "auto",
    name: Annotated[
        str | None, option("Name of the set.", "--set", show_default="the layout's own")
    ] = None,
    split: Annotated[str, option("Split of the pictures.")] = "train",
    hold_out: Annotated[
        float, option("Share of the scenes to put into the split val.", min=0, max=0.99)
    ] = 0.0,
    against: Annotated[
        list[Path] | None,
        option("Manifest whose pictures must not appear in another split; repeatable."),
    ] = None,
    workers: Annotated[int, option("Pictures read at the same time.", min=1, max=256)] = 4,
    layouts: Annotated[
        bool, option("List the layouts.", "--layouts", is_eager=True, callback=_layouts)
    ] = False,
    force: options.Force = False,
) -> None:
    """Write the manifest of a dataset.

    Each picture is opened and checked against its mask. Faulty ones are named on standard error and
    left out. Masks that do not mark in white are rewritten beside the manifest. The exit status is
    3 if anything was left out.
    """
    from imlctl import atomic
    from imlctl.data.index import build_index, counts
    from imlctl.data.manifest import read_manifest, write_manifest
    from imlctl.errors import ConfigError, Exit

    if not force:
        atomic.refuse_taken(out)  # before an hour of reading, not after
    known = [entry for path in against or () for entry in read_manifest(path)]
    found = build_index(
        root,
        out.with_name(f"{out.stem}-masks"),
        layout=layout,
        name=name,
        split=split,
        hold_out=hold_out,
        against=known,
        workers=workers,
    )
    for remark in found.remarks:
        (complain if remark.wrong else note)(str(remark))
    if not found.entries:
        raise ConfigError(f"no usable picture in the layout {found.layout!r}", source=str(root))
    write_manifest(out, found.entries, overwrite=force)
    typer.echo(f"{out}: layout {found.layout}, {found.wrong} left out")
    for (named, part), (tampered, authentic) in counts(found.entries).items():
        typer.echo(f"  {named} {part}: {tampered} tampered, {authentic} authentic")
    if found.wrong:
        raise typer.Exit(Exit.SOME_FAILED)
