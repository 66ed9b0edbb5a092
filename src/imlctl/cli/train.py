"""`imlctl train` and `imlctl distill`: from a preset to weights, and the progress they print."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from imlctl.cli import options
from imlctl.cli.console import note
from imlctl.cli.interrupts import Interrupts
from imlctl.cli.options import option
from imlctl.errors import Exit
from imlctl.process import sleep_at_once

if TYPE_CHECKING:
    Event = dict[str, Any]

_SAVING = b"\nimlctl: saving after this step; press Ctrl-C again to stop now\n"
_PARTS = ("waiting", "forward", "backward", "update")
_SENTENCES = {
    "resumed": "going on from step {step} of {of}",
    "stopped": "stopped at step {step} of {of}",
    "skipped": "left out: {what}",
    "not calibrated": "not calibrated: {why}",
    "calibration": "calibrated on {photos} authentic photographs: manipulated from"
    " {rule[manipulated]:.3f}, inconclusive from {rule[inconclusive]:.3f}, {marked:.2%} of their"
    " pixels marked",
}
_SELDOM = 60.0  # seconds between lines about steps where there is no terminal


def train(
    config: options.Preset,
    out: options.Run,
    changes: options.Changes = None,
    device: options.Device = "auto",
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
    from imlctl.train.loop import train as run

    preset, where = load_config(config, changes or ()), resolve(device)
    _run(partial(run, preset, out, device=where), quiet)


def distill(
    config: options.Preset,
    out: options.Run,
    teacher: Annotated[
        str | None,
        option(
            "Id on the Hub, a folder in its layout, or none.", show_default="what the preset says"
        ),
    ] = None,
    changes: options.Changes = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Train LightVAE, DiffIML's autoencoder of masks."""
    from imlctl.device import resolve
    from imlctl.train.config import load_preset
    from imlctl.train.distill import DistillConfig, TeacherConfig, load_teacher
    from imlctl.train.distill import distill as run

    preset = load_preset(config, DistillConfig, changes or ())
    if teacher is not None:
        chosen = TeacherConfig(source="" if teacher == "none" else teacher)
        preset = replace(preset, teacher=chosen)
    where = resolve(device)
    master = load_teacher(preset.teacher, latent=preset.model.latent, device=where)
    _run(partial(run, preset, out, device=where, teacher=master), quiet)


def _run(work: Callable[..., Path | None], quiet: bool) -> None:
    """Train until it is done or stopped, and print where the weights are, or that it was saved."""
    with Interrupts(_SAVING) as interrupts, Progress(quiet) as progress:
        best = work(report=progress, stop=lambda: interrupts.requested)
    if best is None:
        note("saved; the same command continues from here")
        raise typer.Exit(Exit.INTERRUPTED)
    typer.echo(best)


def train_line(event: Event) -> str:
    """Say what happened in a training run, in a line."""
    kind, step = event["event"], event.get("step")
    if kind == "step":
        return f"step {step} of {event['of']}: {_pace(event)}"
    if kind in _SENTENCES:
        return _SENTENCES[kind].format(**event)
    if kind == "validation":
        return f"step {step}: {', '.join(_values(event, ('event', 'step')))}"
    return f"{kind}: {', '.join(_values(event, ('event',)))}"


def _values(event: Event, without: tuple[str, ...] = ()) -> Iterator[str]:
    """Each number of an event with its name, tables opened up."""
    for name, value in event.items():
        if name in without or value is None:
            continue
        label = name.replace("_", " ")
        if isinstance(value, dict):
            yield from (f"{label} {inner}" for inner in _values(value))
        else:
            several = value if isinstance(value, list | tuple) else [value]
            numbers = (f"{each:.3f}" if isinstance(each, float) else str(each) for each in several)
            yield f"{label} {' '.join(numbers)}"


def _pace(event: Event) -> str:
    """Loss, speed, and where the time of a step goes."""
    told = [f"loss {event['loss']:.4f}", f"{event['per_second']:.1f} a second"]
    told += [f"{part} {event[part]:.0%}" for part in _PARTS if part in event]
    return ", ".join([*told, f"{timedelta(seconds=int(event['eta']))} left"])


class Progress:
    """A live line on a terminal, and one line for each other event anywhere."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.told = -_SELDOM

    def __enter__(self) -> Self:
        from tqdm import tqdm

        self.bar = tqdm(unit="step", dynamic_ncols=True, disable=True if self.quiet else None)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        from tqdm import tqdm

        kind, now = event["event"], time.monotonic()
        if kind == "regenerated":
            self.bar.total, self.bar.n = event["total"], event["done"]
            self.bar.set_postfix_str("regenerating photographs")
        elif kind == "step" and not self.bar.disable:
            self.bar.total, self.bar.n = event["of"], event["step"]
            self.bar.set_postfix_str(_pace(event))
        elif not self.quiet and (kind != "step" or now - self.told > _SELDOM):
            self.told = now if kind == "step" else self.told
            tqdm.write(train_line(event), file=sys.stderr)
