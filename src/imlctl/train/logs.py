"""The record of a run: JSON lines in a file, TensorBoard, and curves drawn from the lines."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imlctl.errors import UsageError
from imlctl.evaluate.charts import draw_charts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from imlctl.evaluate.charts import Points

Report = Callable[[dict[str, Any]], None]

_PROGRESS = ("regenerated",)  # progress, not history


class Log:
    """One JSON line per event, in the file, if any, and to whoever watches."""

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


_SETS = ("synthetic", "real", "mean")
_PANELS = (
    ("loss", ("loss",)),
    ("terms of the loss", ("bce", "dice", "edge", "consistency", "score", "mask")),
    ("norm of the gradient", ("norm",)),
    ("seconds of a step", ("waiting", "forward", "backward", "update")),
    ("AUC in validation", tuple(f"{name}_auc" for name in _SETS)),
    ("F1 in validation", tuple(f"{name}_f1" for name in _SETS)),
)


def draw_curves(log: Path) -> bytes | None:
    """Draw what a log holds, one panel for each kind of number; None when it holds none.

    Lines that are not JSON are passed over: a killed run may have left half of one.
    """
    series = _series(log.read_text(encoding="utf-8", errors="replace").splitlines())
    panels = [
        (title, "steps", {name: series[name] for name in names if name in series})
        for title, names in _PANELS
    ]
    return draw_charts(panels)


def _series(lines: Iterable[str]) -> dict[str, Points]:
    """Numbers by name over steps; a resumed run's later word about a step wins."""
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        try:
            event: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        if event.get("event") not in ("step", "validation"):
            continue
        for name, value in event.items():
            if isinstance(value, float | int) and math.isfinite(value):
                found.setdefault(name, {})[int(event["step"])] = float(value)
    return {name: sorted((float(s), v) for s, v in at.items()) for name, at in found.items()}
