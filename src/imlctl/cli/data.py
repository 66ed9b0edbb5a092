"""`imlctl data`: index datasets, make forgeries, look at training samples and their speed."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imlctl.cli import options
from imlctl.cli.console import complain, note
from imlctl.cli.options import option

_KINDS = (
    "mixed (the preset's mix), splice, copy_move, removal, regenerated, retouch, authentic, or"
    " diffusion."
)
if TYPE_CHECKING:
    from collections.abc import Iterator

data = typer.Typer(help="Index datasets, make forgeries, look at samples.", no_args_is_help=True)


@data.callback()
def _data() -> None:
    """Index datasets, make forgeries, look at samples."""


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
    pipeline: Annotated[
        str, option("For diffusion: an inpainting pipeline on the Hub, or a folder.")
    ] = "stabilityai/stable-diffusion-2-inpainting",
    revision: Annotated[
        str | None, option("Commit of the pipeline on the Hub; pin it to reproduce.")
    ] = None,
    prompts: Annotated[
        Path | None, option("For diffusion: a text file with one prompt per line.")
    ] = None,
    device: options.Device = "auto",
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
    if kind == "diffusion":
        from imlctl.device import resolve
        from imlctl.forge.to_disk import DiffusionEdits, load_pipeline, read_prompts

        loaded = load_pipeline(pipeline, revision=revision, device=resolve(device))
        make: Any = DiffusionEdits(pool, *loaded, prompts=read_prompts(prompts), seed=seed)
    else:
        make = to_disk.make_maker(pool, kind, size=preset.optim.size, mix=preset.mix, seed=seed)
    total = len(range(part.index - 1, count, part.count))
    with tqdm(total=total, unit="picture", disable=not sys.stderr.isatty()) as bar:
        where: dict[str, Any] = {"split": split, "part": part.index, "parts": part.count}
        made = to_disk.synthesize(make, count, out, name=name, **where, report=bar.update)
    typer.echo(made)


@data.command()
def speed(
    config: options.Preset,
    workers: Annotated[
        list[int] | None,
        option("Number of workers; repeatable.", min=1, show_default="1, 2, 4, ... cores"),
    ] = None,
    samples: Annotated[int, option("Samples per worker, and to time by kind.", min=1)] = 64,
    steps: Annotated[int, option("Training steps to time; 0 skips the model.", min=0)] = 3,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Measure how fast training samples are made.

    Compares that with the speed of the model: by kind in one process, then by number of
    workers. Writes nothing.
    """
    from imlctl.device import describe, resolve
    from imlctl.train.config import load_config
    from imlctl.train.material import load_material
    from imlctl.train.samples import loader_rate, model_rate, sample_cost, usual_workers

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "skipped":
            note(event["what"])

    preset = load_config(config)
    where = resolve(device)
    maker = load_material(preset, report).training
    seconds, kinds = sample_cost(maker, samples)
    found = {
        "size": preset.optim.size,
        "seconds": seconds,
        "kinds": kinds,
        "workers": {n: loader_rate(maker, n, samples) for n in workers or usual_workers()},
        "device": describe(where),
        "model": model_rate(preset, maker, where, steps) if steps else None,
    }
    typer.echo(json_module.dumps(found) if json else "\n".join(_speed_lines(found)))


def _speed_lines(found: dict[str, Any]) -> Iterator[str]:
    size, takes, rates = found["size"], found["model"], found["workers"]
    yield f"one sample of {size}x{size} in one process: {found['seconds'] * 1e3:.1f} ms"
    kinds = found["kinds"].items()
    yield "  " + ", ".join(f"{kind.replace('_', '-')} {s * 1e3:.1f} ms" for kind, s in kinds)
    for count, rate in rates.items():
        yield f"{count:4} workers: {rate:8.1f} samples/s"
    if takes is not None:
        enough = [count for count, rate in rates.items() if rate >= takes]
        wait = f"{1 - max(rates.values()) / takes:.0%} of the time"
        verdict = f"none of these is enough; the model would wait {wait}"
        verdict = f"{min(enough)} workers are enough" if enough else verdict
        yield f"the model takes {takes:8.1f} samples/s on {found['device']}: {verdict}"


@data.command()
def sheet(
    config: options.Preset,
    out: Annotated[Path, option("PNG to write.", "--out", "-o")],
    count: Annotated[int, option("Number of samples.", min=1, max=400)] = 48,
    start: Annotated[int, option("Number of the first sample.", min=0)] = 0,
    force: options.Force = False,
) -> None:
    """Draw training samples with their masks outlined.

    Prints how fast they are made.
    """
    from imlctl import atomic
    from imlctl.train.config import load_config
    from imlctl.train.samples import contact_sheet

    png, rate = contact_sheet(load_config(config), start=start, count=count)
    atomic.write(out, png, overwrite=force)
    typer.echo(f"{out}: {count} samples, {rate:.0f} a second in one process")


def _layouts(wanted: bool) -> None:
    if wanted:
        from imlctl.data.layouts import LAYOUTS

        for layout in LAYOUTS.values():
            typer.echo(f"{layout.name:17} {layout.about}")
        raise typer.Exit


@data.command()
def index(
    root: Annotated[Path, typer.Argument(help="Folder of the dataset.")],
    out: Annotated[
        Path, option("Manifest to write: .csv, .json, .jsonl or .ndjson.", "--out", "-o")
    ],
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
    from imlctl.data.index import Splits, build_index, counts
    from imlctl.data.manifest import read_manifest, write_manifest
    from imlctl.errors import ConfigError, Exit, OutputError

    if out.exists() and not force:  # before an hour of reading, not after
        what = "this output is already there"
        remedy = "Choose another name, or add --force to replace it."
        raise OutputError(what, source=str(out), remedy=remedy)
    known = [entry for path in against or () for entry in read_manifest(path)]
    found = build_index(
        root,
        out.with_name(f"{out.stem}-masks"),
        layout=layout,
        name=name,
        splits=Splits(split, hold_out),
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
