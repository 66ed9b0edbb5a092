"""The record of a run: JSON lines in a file, and curves drawn from the lines."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imlctl.evaluate.charts import draw_charts

if TYPE_CHECKING:
    from pathlib import Path

Report = Callable[[dict[str, Any]], None]

_PANELS = {
    "loss": ("loss",),
    "terms of the loss": ("bce", "dice", "edge", "consistency", "score", "mask"),
    "norm of the gradient": ("norm",),
    "seconds of a step": ("waiting", "forward", "backward", "update"),
    "AUC in validation": ("synthetic_auc", "real_auc", "mean_auc"),
    "F1 in validation": ("synthetic_f1", "real_f1", "mean_f1"),
}


class Log:
    """One JSON line per event, in the file, if any, and to whoever watches."""

    def __init__(self, path: Path | None, report: Report | None) -> None:
        self.path, self.report = path, report

    def __call__(self, event: dict[str, Any]) -> None:
        """Write an event down."""
        if self.path is None:
            return
        if event["event"] != "regenerated":  # which is progress, not history
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": round(time.time(), 2), **event}) + "\n")
        if self.report:
            self.report(event)


def draw_curves(log: Path) -> bytes | None:
    """Draw what a log holds as a PNG, one panel for each kind of number; None when it holds none.

    Lines that are not JSON are passed over: a killed run may have left half of one. Of a step that
    a resumed run took again the later word counts.
    """
    found: dict[str, dict[float, float]] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        for name, value in event.items() if event.get("event") in ("step", "validation") else ():
            if isinstance(value, float | int) and math.isfinite(value):
                found.setdefault(name, {})[event["step"]] = value
    curves = {name: sorted(at.items()) for name, at in found.items()}
    panels = [
        (title, "steps", {name: curves[name] for name in names if name in curves})
        for title, names in _PANELS.items()
    ]
    return draw_charts(panels)
