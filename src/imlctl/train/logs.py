"""What a run says about itself: JSON lines in a file, to whoever watches, and to TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imlctl.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

Report = Callable[[dict[str, Any]], None]

_PROGRESS = ("regenerated",)  # progress, not history


class Log:
    """One JSON line per event, in the file and to whoever watches.

    Args:
        path: The file, appended to; None where another process writes it.
        report: Called with each event.
    """

    def __init__(self, path: Path | None, report: Report | None) -> None:
        self.path, self.report = path, report

    def __call__(self, event: dict[str, Any]) -> None:
        """Write an event down."""
        if self.path is None:
            return
        if event["event"] not in _PROGRESS:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": round(time.time(), 2), **event}) + "\n")
        if self.report:
            self.report(event)


def to_tensorboard(folder: Path) -> Report:
    """Make a report that writes the numbers of steps and validations for TensorBoard.

    A resumed run's numbers take the place of those of steps that it takes again.

    Raises:
        UsageError: The extra is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "needs the package tensorboard, which is not installed",
            source="--tensorboard",
            remedy="Install it with: pip install 'imlctl[tensorboard]'.",
        ) from error
    writer: Any = None  # made with the first number: of several processes, one has numbers
    again: int | None = None

    def report(event: dict[str, Any]) -> None:
        nonlocal writer, again
        kind = event["event"]
        if kind == "resumed":
            again = event["step"] + 1
        if kind not in ("step", "validation"):
            return
        if writer is None:
            writer = SummaryWriter(folder, purge_step=again)
        for name, value in event.items():
            if name not in ("event", "step", "of", "eta") and isinstance(value, int | float):
                writer.add_scalar(f"{kind}/{name}", value, event["step"])
        writer.flush()

    return report
