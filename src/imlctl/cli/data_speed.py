"""`imlctl data speed`: whether samples are made as fast as a model takes them."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imlctl.cli import options
from imlctl.cli.console import note

if TYPE_CHECKING:
    from imlctl.forge.synthesizer import Maker
    from imlctl.train.config import TrainConfig


def speed(
    config: options.Preset,
    workers: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Number of workers to try; repeatable.", show_default="1, 2, 4, ... cores"
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Samples that each worker makes, and that stages see.")
    ] = 64,
    steps: Annotated[
        int, typer.Option(min=0, help="Training steps to time; 0 leaves the model out.")
    ] = 3,
    device: options.Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how fast training samples are made, against what the model takes.

    By stage and kind in one process, then by number of workers. Nothing is written.
    """
    from imlctl.train.config import load_config
    from imlctl.train.splits import load_material

    preset = load_config(config)
    maker = load_material(preset, _report).training
    found = _measure(preset, maker, workers, samples, steps, device)
    if json:
        typer.echo(json_module.dumps(found))
        return
    for line in _lines(found):
        typer.echo(line)


def _report(event: dict[str, Any]) -> None:
    if event["event"] == "skipped":
        note(event["what"])


def _measure(
    preset: TrainConfig,
    maker: Maker,
    workers: list[int] | None,
    samples: int,
    steps: int,
    device: str,
) -> dict[str, Any]:
    from imlctl.device import describe, resolve
    from imlctl.train.speed import loader_rate, model_rate, sample_cost, usual_workers

    where = resolve(device)
    cost = sample_cost(maker, samples)
    rates = {n: loader_rate(maker, n, samples) for n in workers or usual_workers()}
    takes = model_rate(preset, maker, where, steps) if steps else None
    return {
        "size": preset.optim.size,
        "seconds": cost.whole,
        "stages": cost.stages,
        "kinds": cost.kinds,
        "workers": rates,
        "device": describe(where),
        "model": takes,
    }


def _lines(found: dict[str, Any]) -> list[str]:
    size = found["size"]
    lines = [f"one sample of {size}x{size} in one process: {_ms(found['seconds'])}"]
    lines += [f"  {_table(found[part])}" for part in ("stages", "kinds")]
    lines += [f"{n:4} workers: {rate:8.1f} samples/s" for n, rate in found["workers"].items()]
    takes = found["model"]
    if takes is None:
        return lines
    enough = [n for n, rate in found["workers"].items() if rate >= takes]
    best = max(found["workers"].values()) / takes
    verdict = (
        f"{min(enough)} of these keep up"
        if enough
        else f"none of these keeps up: the model waits {1 - best:.0%} of the time"
    )
    return [*lines, f"the model takes {takes:8.1f} samples/s on {found['device']}: {verdict}"]


def _table(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', '-')} {_ms(value)}" for name, value in seconds.items())


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"
