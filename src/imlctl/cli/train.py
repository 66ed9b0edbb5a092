"""`imlctl train`: from a preset to weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from imlctl.cli import options
from imlctl.cli.progress import Progress, saving_interrupts, stopped
from imlctl.process import sleep_at_once


def train(
    config: options.Preset,
    out: options.Run,
    changes: options.Changes = None,
    device: options.Device = "auto",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the run for TensorBoard too.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model, on forgeries made on the fly or on real ones.

    Ctrl-C saves and stops. The same command continues, also with more optim.steps.

    In several processes: torchrun --nproc-per-node 4 --no-python imlctl train PRESET -o RUN.
    """
    # The command line has turned malloc's trimming off already: together with this a step takes a
    # fraction of the time that it takes beside processes that make samples.
    sleep_at_once()
    from imlctl.device import resolve
    from imlctl.train.config import load_config
    from imlctl.train.logs import to_tensorboard
    from imlctl.train.loop import train as run

    preset = load_config(config, changes or ())
    reports: list[Callable[[dict[str, Any]], None]] = []
    if tensorboard:
        reports.append(to_tensorboard(out / "tensorboard"))

    def report(event: dict[str, Any]) -> None:
        for each in reports:
            each(event)

    with saving_interrupts() as interrupts, Progress(quiet) as progress:
        reports.append(progress)
        best = run(
            preset, out, device=resolve(device), report=report, stop=lambda: interrupts.requested
        )
    if best is None:
        raise stopped()
    typer.echo(best)
