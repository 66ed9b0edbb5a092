"""PNG pictures of what was measured: charts, and a contact sheet of the worst and best cases."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from imlctl.evaluate.charts import draw_charts
from imlctl.evaluate.robustness import CLEAN, SOCIAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from imlctl.bench.page import Document
    from imlctl.evaluate.charts import Points

_SIDE, _GAP, _CAPTION = 200, 8, 20  # of a contact sheet


def charts_of(document: Document) -> dict[str, bytes]:
    """Draw a document of the benchmark; PNGs by name, none where there is nothing to draw."""
    kind = document["kind"]
    panels: list[tuple[str, str, Mapping[str, Points]]] = []
    if kind == "speed":
        for model in document["models"]:
            rows = [(row["size"], row["fps"]) for row in model["speed"] if row["main"]]
            title = f"Pictures per second: {model['model']}"[-80:]
            panels.append((title, "side in pixels", {"pictures a second": rows}))
    elif kind == "accuracy":
        kind = "reliability"
        for model in document["models"]:
            rows = [(row["score"], row["observed"]) for row in model["reliability"]]
            title = f"Reliability of the score: {model['model']}"[-80:]
            ideal = [(0.0, 0.0), (1.0, 1.0)] if rows else []
            panels.append((title, "score", {"tampered, observed": rows, "ideal": ideal}))
    elif kind == "robustness" and document["rows"][0]["f1"] is not None:
        clean, *others = document["rows"]
        for name in dict.fromkeys(row["kind"] for row in others if row["kind"] != SOCIAL):
            mine = [(float(r["level"]), r) for r in others if r["kind"] == name]
            curves = {"F1": [(at, row["f1"]) for at, row in mine]}
            for place, what in enumerate(("low", "high")):
                bounds = [(at, row["intervals"].get("f1")) for at, row in mine]
                curves[f"95 %, {what}"] = [(at, b[place]) for at, b in bounds if b]
            curves[f"{CLEAN} files"] = [(at, clean["f1"]) for at, _ in mine]
            panels.append((f"F1 after {name}", "level", curves))
    png = draw_charts(panels)
    return {} if png is None else {f"{kind}.png": png}


def contact_sheet(cases: Sequence[tuple[str, Sequence[NDArray[Any]]]]) -> bytes:
    """Draw cases below each other as a PNG, each a caption over its views.

    A view is (H, W) or (H, W, 3); bool, uint8, uint16, or 0 to 1.
    """
    width = max(len(views) for _, views in cases) * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, len(cases) * (_SIDE + _CAPTION + _GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (caption, views) in enumerate(cases):
        top = row * (_SIDE + _CAPTION + _GAP)
        printed = "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in caption)
        font = ImageFont.load_default(13)
        draw.text((_GAP, top + 3), printed[: width // 8], fill="black", font=font)
        for column, view in enumerate(views):
            full = 65535 if view.dtype == np.uint16 else 255 if view.dtype == np.uint8 else 1
            small = Image.fromarray(np.rint(view * (255 / full)).astype(np.uint8)).convert("RGB")
            small = ImageOps.contain(small, (_SIDE, _SIDE), Image.Resampling.BOX)
            sheet.paste(small, (_GAP + column * (_SIDE + _GAP), top + _CAPTION))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
