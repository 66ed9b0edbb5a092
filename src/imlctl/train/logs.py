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


_PANEL = (880, 300)
_MARGIN = (76, 34, 200, 44)  # left, top, right (the legend), bottom
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_GREY, _LIGHT = "#444444", "#dddddd"
_FONT = 14
_SETS = ("synthetic", "real", "mean")
_PANELS = (
    ("loss", ("loss",)),
    ("terms of the loss", ("bce", "dice", "edge", "consistency", "score", "mask")),
    ("norm of the gradient", ("norm",)),
    ("seconds of a step", ("waiting", "forward", "backward", "update")),
    ("AUC in validation", tuple(f"{name}_auc" for name in _SETS)),
    ("F1 in validation", tuple(f"{name}_f1" for name in _SETS)),
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
    """One plot: round figures along both axes, and the legend beside it."""
    panel = Image.new("RGB", _PANEL, "white")
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(_FONT)
    left, top, right, bottom = _MARGIN
    box = (left, top, _PANEL[0] - right, _PANEL[1] - bottom)
    points = [point for curve in curves.values() for point in curve]
    across = _ticks(0.0, max(x for x, _ in points), 6)
    up = _ticks(min(y for _, y in points), max(y for _, y in points), 4)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            box[0] + (x - across[0]) / (across[-1] - across[0]) * (box[2] - box[0]),
            box[3] - (y - up[0]) / (up[-1] - up[0]) * (box[3] - box[1]),
        )

    draw.text((box[0], 8), title, fill="black", font=font)
    for y in up:
        at = place(across[0], y)
        draw.line((*at, box[2], at[1]), fill=_LIGHT)
        draw.text((at[0] - 8, at[1]), f"{y:.6g}", fill=_GREY, font=font, anchor="rm")
    for x in across:
        at = place(x, up[0])
        draw.line((*at, at[0], at[1] + 4), fill=_GREY)
        draw.text((at[0], at[1] + 8), f"{x:.6g}", fill=_GREY, font=font, anchor="mt")
    draw.text((box[2] + 36, box[3] + 8), "steps", fill=_GREY, font=font, anchor="lt")
    for row, ((name, curve), colour) in enumerate(zip(curves.items(), _COLOURS, strict=False)):
        line = [place(x, y) for x, y in curve]
        draw.line(line, fill=colour, width=2)
        for x, y in line if len(line) < 40 else ():
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        label = f"{name.replace('_', ' ')}  {curve[-1][1]:.4g}"
        draw.text((box[2] + 12, box[1] + 20 * row), label, fill=colour, font=font)
    return panel


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round figures, evenly spaced, that enclose `low` and `high`; at least two."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]
