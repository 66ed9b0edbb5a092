"""The record of a run: JSON lines in a file, TensorBoard, and curves drawn from the lines."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from imlctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
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


_PANEL = (720, 260)
_MARGIN = (64, 30, 20, 30)  # left, top, right, bottom
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_GREY, _LIGHT = "#444444", "#dddddd"
_PANELS = (
    ("loss", ("loss",)),
    ("terms of the loss", ("bce", "dice", "edge", "consistency", "score", "mask")),
    ("norm of the gradient", ("norm",)),
    ("AUC in validation", ("synthetic_auc", "real_auc", "mean_auc")),
    ("F1 in validation", ("synthetic_f1", "real_f1", "mean_f1")),
)

Points = list[tuple[float, float]]


def draw_curves(log: Path) -> bytes | None:
    """Draw what a log holds, one panel for each kind of number; None when it holds none.

    Lines that are not JSON are passed over: a killed run may have left half of one.
    """
    series = _series(log.read_text(encoding="utf-8", errors="replace").splitlines())
    panels = [
        (title, {name: series[name] for name in names if name in series})
        for title, names in _PANELS
        if any(name in series for name in names)
    ]
    if not panels:
        return None
    width, height = _PANEL
    canvas = Image.new("RGB", (width, height * len(panels)), "white")
    for place, (title, curves) in enumerate(panels):
        canvas.paste(_panel(title, curves), (0, place * height))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


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


def _panel(title: str, curves: dict[str, Points]) -> Image.Image:
    panel = Image.new("RGB", _PANEL, "white")
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(12)
    left, top, right, bottom = _MARGIN
    box = (left, top, _PANEL[0] - right, _PANEL[1] - bottom)
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    across, up = _range(0.0, max(xs)), _range(min(ys), max(ys))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = box[3] - share * (box[3] - box[1])
        draw.line((box[0], y, box[2], y), fill=_LIGHT)
        label = f"{up[0] + share * (up[1] - up[0]):.4g}"
        draw.text((box[0] - 6, y), label, fill=_GREY, font=font, anchor="rm")
        x = box[0] + share * (box[2] - box[0])
        label = f"{across[0] + share * (across[1] - across[0]):.0f}"
        draw.text((x, box[3] + 6), label, fill=_GREY, font=font, anchor="mt")
    draw.text((box[0], 8), title, fill="black", font=font)
    at = box[2]
    for (name, points), colour in zip(curves.items(), _COLOURS, strict=False):
        line = [
            (
                box[0] + (x - across[0]) / (across[1] - across[0]) * (box[2] - box[0]),
                box[3] - (y - up[0]) / (up[1] - up[0]) * (box[3] - box[1]),
            )
            for x, y in points
        ]
        draw.line(line, fill=colour, width=2)
        for x, y in line if len(line) < 40 else ():
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        label = name.replace("_", " ")
        draw.text((at, 8), label, fill=colour, font=font, anchor="ra")
        at -= int(font.getlength(label)) + 14
    return panel


def _range(low: float, high: float) -> tuple[float, float]:
    """Never empty, so that a constant curve is a line in the middle."""
    if high > low:
        return low, high
    return low - 0.5, high + 0.5
