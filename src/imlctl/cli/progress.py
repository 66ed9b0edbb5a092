"""Progress of a training run on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import typer

from imlctl.cli.console import note
from imlctl.cli.interrupts import Interrupts
from imlctl.errors import Exit

Event = dict[str, Any]

_PARTS = ("waiting", "forward", "backward", "update")
_SENTENCES = {
    "resumed": "going on from step {step}",
    "extended": "the run was to have {was} steps and now has {of}; the learning rate follows the"
    " new length",
    "stopped": "stopped at step {step} of {of}",
    "skipped": "left out: {what}",
    "not calibrated": "not calibrated: {why}",
    "calibration": "calibrated on {photos} authentic photographs: manipulated from"
    " {rule[manipulated]:.3f}, inconclusive from {rule[inconclusive]:.3f}, {marked:.2%} of their"
    " pixels marked",
}
_SELDOM = 60.0  # seconds between lines about steps where there is no terminal


def saving_interrupts() -> Interrupts:
    """Catch the first Ctrl-C of a run that can be saved and continued."""
    return Interrupts(b"\nimlctl: saving after this step; press Ctrl-C again to stop now\n")


def stopped() -> typer.Exit:
    """Say that a run was saved, and return the exit that it ends with."""
    note("saved; the same command continues from here")
    return typer.Exit(Exit.INTERRUPTED)


def train_line(event: Event) -> str:
    """Say what happened in a training run, in a line."""
    kind, step = event["event"], event.get("step")
    if kind == "step":
        return f"step {step} of {event['of']}: {_pace(event)}"
    if kind == "validation":
        return f"step {step}: {', '.join(_values(event, ('event', 'step')))}"
    if kind in _SENTENCES:
        return _SENTENCES[kind].format(**event)
    if kind == "evaluation":
        scores = ", ".join(_values(event, ("event", "set")))
        return f"{event['set']}: {scores}"
    return f"{kind}: {', '.join(_values(event, ('event',)))}"


def _values(event: Event, without: tuple[str, ...] = ()) -> Iterator[str]:
    """Each number of an event with its name, tables opened up."""
    for name, value in event.items():
        if name in without or value is None:
            continue
        label = name.replace("_", " ")
        if isinstance(value, dict):
            yield from (f"{label} {inner}" for inner in _values(value))
        elif isinstance(value, list | tuple):
            yield f"{label} {' '.join(_number(each) for each in value)}"
        else:
            yield f"{label} {_number(value)}"


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _pace(event: Event) -> str:
    """Loss, speed, and where the time of a step goes."""
    parts = {name: event[name] for name in _PARTS if name in event}
    whole = sum(parts.values())
    shares = [f"{name} {seconds / whole:.0%}" for name, seconds in parts.items() if whole]
    told = [f"loss {event['loss']:.4f}", f"{event['per_second']:.1f} a second", *shares]
    return ", ".join([*told, f"{_time(event['eta'])} left"])


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{rest:02} min"


class Progress:
    """A live line on a terminal, and one line for each other event, told by `line`, anywhere."""

    def __init__(self, quiet: bool, line: Callable[[Event], str] = train_line) -> None:
        self.quiet, self.line = quiet, line
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

        if event["event"] == "step" and not self.bar.disable:
            self.bar.total, self.bar.n = event["of"], event["step"]
            self.bar.set_postfix_str(_pace(event))
        elif event["event"] == "step":  # into a file: now and then
            now = time.monotonic()
            if not self.quiet and now - self.told > _SELDOM:
                self.told = now
                tqdm.write(train_line(event), sys.stderr)
        elif event["event"] == "regenerated":
            self.bar.total, self.bar.n = event["total"], event["done"]
            self.bar.set_postfix_str("regenerating photographs")
        elif not self.quiet:
            tqdm.write(self.line(event), file=sys.stderr)
