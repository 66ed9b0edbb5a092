"""`imlctl data synthesize`: forgeries on disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imlctl.cli import options

if TYPE_CHECKING:
    from imlctl.forge.photos import PhotoPool
    from imlctl.forge.synthesizer import Maker
    from imlctl.forge.to_disk import Order
    from imlctl.train.config import TrainConfig


def synthesize(
    config: options.Preset,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the set; what is there is kept.")
    ],
    count: Annotated[int, typer.Option(min=1, help="Pictures, in all parts together.")] = 1000,
    kind: Annotated[
        str,
        typer.Option(
            help="mixed (as the preset), splice, copy_move, removal, regenerated, retouch, "
            "authentic, or diffusion."
        ),
    ] = "mixed",
    shard: Annotated[
        str, typer.Option(help="Part of the set to make, such as 2/8.", show_default="all of it")
    ] = "1/1",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="From the photographs that training never sees.")
    ] = False,
    name: Annotated[str, typer.Option("--set", help="Name of the set.")] = "synthetic",
    split: Annotated[str, typer.Option(help="Split in the manifest.")] = "train",
    pipeline: Annotated[
        str,
        typer.Option(help="For diffusion: an inpainting pipeline on the Hub, or its folder."),
    ] = "stabilityai/stable-diffusion-2-inpainting",
    revision: Annotated[
        str | None, typer.Option(help="Its commit on the Hub; pin one for a set to repeat.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="For diffusion: a text file, one prompt a line.")
    ] = None,
    device: options.Device = "auto",
) -> None:
    """Write forgeries with their masks and a manifest; stopped, it goes on where it was.

    The same preset, photographs and seed give the same pictures, in however many parts.
    """
    from tqdm import tqdm

    from imlctl.forge.to_disk import Order, synthesize
    from imlctl.scan.shard import Shard
    from imlctl.train.config import load_config
    from imlctl.train.splits import load_split

    part = Shard.parse(shard)
    order = Order(count, kind, split, part.index, part.count)
    preset = load_config(config)
    pool = load_split(preset, validation=held_out)
    if kind == "diffusion":
        make = _diffusion(pool, pipeline, revision, prompts, seed, device)
    else:
        make = _synthetic(preset, pool, order, seed)
    with tqdm(total=len(order.numbers), unit="picture", disable=not sys.stderr.isatty()) as bar:
        made = synthesize(make, order, out, name=name, report=lambda *_: bar.update() and None)
    typer.echo(made)


def _synthetic(preset: TrainConfig, pool: PhotoPool, order: Order, seed: int) -> Maker:
    from imlctl.forge.to_disk import make_maker

    return make_maker(pool, order, size=preset.optim.size, mix=preset.mix, seed=seed)


def _diffusion(
    pool: PhotoPool,
    pipeline: str,
    revision: str | None,
    prompts: Path | None,
    seed: int,
    device: str,
) -> Maker:
    from imlctl.device import resolve
    from imlctl.forge.diffusion import DiffusionEdits, load_pipeline, read_prompts

    loaded = load_pipeline(pipeline, revision=revision, device=resolve(device))
    return DiffusionEdits(pool, loaded, prompts=read_prompts(prompts), seed=seed)
