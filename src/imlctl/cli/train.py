"""`imlctl train`: from a preset to weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from imlctl.cli import options


def train(
    config: options.Preset,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder of the run; an interrupted run in it goes on."),
    ],
    device: options.Device = "auto",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the run for TensorBoard too.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress on standard error.")
    ] = False,
) -> None:
    """Train a model on forgeries made on the fly, on those of manifests, or both.

    In several processes: torchrun --nproc-per-node 4 --no-python imlctl train PRESET -o RUN.
    """
    from imlctl.device import resolve
    from imlctl.train.config import load_config
    from imlctl.train.logs import to_tensorboard
    from imlctl.train.loop import train as run

    preset = load_config(config)
    reports: list[Callable[[dict[str, Any]], None]] = []
    if tensorboard:
        reports.append(to_tensorboard(out / "tensorboard"))

    def report(event: dict[str, Any]) -> None:
        for each in reports:
            each(event)

    with _Progress(quiet) as progress:
        reports.append(progress)
        best = run(preset, out, device=resolve(device), report=report)
    typer.echo(best)


class _Progress:
    """A live line on a terminal, and one line per validation anywhere."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def __enter__(self) -> _Progress:
        from tqdm import tqdm

        self.bar = tqdm(unit="step", dynamic_ncols=True, disable=True if self.quiet else None)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, event: dict[str, Any]) -> None:
        from tqdm import tqdm

        if event.get("event") == "step":
            self.bar.total = event["of"]
            self.bar.n = event["step"]
            speed = f"{event['per_second']:.0f} samples/s, ETA {event['eta']} s"
            self.bar.set_postfix_str(f"loss {event['loss']:.3f}, {speed}")
        elif event.get("event") == "regenerated":
            self.bar.total, self.bar.n = event["total"], event["done"]
            self.bar.set_postfix_str("regenerating photographs")
        elif not self.quiet:
            values = (
                f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}"
                for k, v in event.items()
                if k != "event"
            )
            tqdm.write(f"{event.get('event')}: {', '.join(values)}", file=sys.stderr)
