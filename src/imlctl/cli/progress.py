"""Progress of a training run on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Self

Event = dict[str, Any]


def plain_line(event: Event) -> str:
    """Say all of an event."""
    values = (
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in event.items()
        if name != "event"
    )
    return f"{event['event']}: {', '.join(values)}"


class Progress:
    """A live line on a terminal, and one line for each other event anywhere.

    Args:
        quiet: Show nothing.
        things: What steps are made of.
        line: How an event that is no step is told.
    """

    def __init__(
        self, quiet: bool, things: str = "samples", line: Callable[[Event], str] = plain_line
    ) -> None:
        self.quiet, self.things, self.line = quiet, things, line

    def __enter__(self) -> Self:
        from tqdm import tqdm

        self.bar = tqdm(unit="step", dynamic_ncols=True, disable=True if self.quiet else None)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        from tqdm import tqdm

        if event["event"] == "step":
            self.bar.total, self.bar.n = event["of"], event["step"]
            speed = f"{event['per_second']:.0f} {self.things}/s, ETA {event['eta']} s"
            self.bar.set_postfix_str(f"loss {event['loss']:.4f}, {speed}")
        elif event["event"] == "regenerated":
            self.bar.total, self.bar.n = event["total"], event["done"]
            self.bar.set_postfix_str("regenerating photographs")
        elif not self.quiet:
            tqdm.write(self.line(event), file=sys.stderr)
