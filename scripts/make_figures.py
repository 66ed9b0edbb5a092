"""Make the picture of README, examples with their verdicts, and diagrams of how scores hold.

Photographs: astronaut (NASA, public domain), chelsea (Stefan van der Walt, CC0), coffee (Rachel
Michetti, CC0) and rocket (SpaceX, public domain), all as scikit-image ships them. Run from
anywhere: ``python scripts/make_figures.py``.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont

import imlctl
from imlctl import resources
from imlctl.evaluate.metrics import pixel_auc, pixel_f1
from imlctl.forge import edits, history
from imlctl.mask.render import rounded_down

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from imlctl import Result

DOCS = Path(__file__).resolve().parents[1] / "docs"
OUT = DOCS / "images"
PAGE = DOCS / "explanation.md"  # has a line "verdict <!-- example NAME -->" for each example
HEIGHT = 260  # of one panel, in pixels
CAPTION = 26
PLOT, MARGIN = 300, 46  # side of a diagram, and room for its figures, in pixels


def ellipse(shape: tuple[int, ...], cy: int, cx: int, ry: int, rx: int) -> NDArray[np.bool_]:
    """Return a mask of one ellipse."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1


def cases() -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield name, picture and true mask of each example."""
    names = ("astronaut", "chelsea", "coffee", "rocket")
    photos = (np.ascontiguousarray(getattr(skimage.data, n)()[..., :3]) for n in names)
    astronaut, chelsea, coffee, rocket = photos

    mask = ellipse(astronaut.shape, 400, 120, 70, 90)
    donor = history.jpeg(history.resize(chelsea, 512, 770)[:, 200:712], 70)
    donor = np.roll(donor, (160, -120), (0, 1))
    splice, _ = edits.composite(astronaut, donor, mask, np.random.default_rng(1))
    yield "splice", splice, mask

    halved = history.jpeg(history.resize(splice, 256, 256, cv2.INTER_AREA), 75)
    yield "halved-splice", halved, np.ascontiguousarray(mask[::2, ::2])

    mask = ellipse(coffee.shape, 90, 470, 60, 70)
    yield "copy-move", *edits.copy_move(coffee, mask, np.random.default_rng(8))  # moved only

    mask = ellipse(rocket.shape, 330, 120, 60, 45)
    yield "turned-copy", *edits.copy_move(rocket, mask, np.random.default_rng(4))

    mask = ellipse(coffee.shape, 300, 470, 70, 60)
    yield "removal", *edits.remove(coffee, mask, np.random.default_rng(2))

    yield "untouched", chelsea, np.zeros(chelsea.shape[:2], bool)


def verdict(result: Result, mask: NDArray[np.bool_]) -> str:
    """Say in a line what was found, and how well it agrees."""
    said = f'Verdict "{result.verdict}", score {rounded_down(result.score)}'
    if not mask.any():
        return f"{said}; {result.decision.share:.1%} of the pixels marked."
    f1, auc = pixel_f1(result.decision.mask, mask), pixel_auc(result.probability, mask)
    return f"{said}; F1 of the mask {rounded_down(f1)}, AUC of the map {rounded_down(auc)}."


def panel(pixels: NDArray[np.uint8], caption: str) -> Image.Image:
    """Scale a picture to the common height and write its caption over it."""
    image = Image.fromarray(pixels)
    width = round(image.width * HEIGHT / image.height)
    framed = Image.new("RGB", (width + 6, HEIGHT + CAPTION), "white")
    framed.paste(image.resize((width, HEIGHT), Image.Resampling.LANCZOS), (3, CAPTION - 3))
    font = ImageFont.load_default(13)
    ImageDraw.Draw(framed).text((4, 4), caption, fill="black", font=font)
    return framed


def reliability(model: str) -> str:
    """Draw a reliability diagram as SVG: each tenth of the scores, and how many were forgeries.

    From docs/measured, as the tables of the model cards are; a disc's area is its pictures' number.
    """
    measured = json.loads((DOCS / "measured" / f"f1-{model}.json").read_text("utf-8"))
    rows = measured["models"][0]["reliability"]

    def at(x: float, y: float) -> tuple[float, float]:
        return round(MARGIN + x * PLOT, 1), round(12 + (1 - y) * PLOT, 1)

    def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'

    left, bottom = at(0, 0)
    right, top = at(1, 1)
    parts = [f'<path d="M{left} {bottom}L{right} {top}" stroke="#aaa" stroke-dasharray="4"/>']
    for tenths in range(0, 11, 2):
        share = tenths / 10
        parts.append(text(at(share, 0)[0], bottom + 16, f"{share:.1f}"))
        parts.append(text(left - 6, at(0, share)[1] + 4, f"{100 * share:.0f}%", "end"))
    points = [(*at(row["score"], row["observed"]), row) for row in rows]
    line = " ".join(f"{x},{y}" for x, y, _ in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#0072b2"/>')
    for x, y, row in points:
        radius = round((row["tampered"] + row["authentic"]) ** 0.5 * 1.2, 1)
        parts.append(f'<circle cx="{x}" cy="{y}" r="{radius}" fill="#0072b2" fill-opacity="0.7"/>')
    parts.append(text(MARGIN + PLOT / 2, bottom + 34, "across: score; up: share of forgeries"))
    box = f'<rect x="{left}" y="{top}" width="{PLOT}" height="{PLOT}" fill="none" stroke="#444"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{PLOT + 80}" height="{PLOT + 56}"'
    style = (
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    )
    return "\n".join([head + style, box, *parts, "</svg>", ""])


def main() -> None:
    """Write one strip per example into docs/images, and each verdict into the page."""
    localizer = imlctl.load()
    OUT.mkdir(parents=True, exist_ok=True)
    for model in ("efficientiml", "diffiml"):
        (OUT / f"reliability-{model}.svg").write_text(reliability(model), "utf-8")
    shown = localizer.localize(resources.example()).overlay_png()
    Image.open(io.BytesIO(shown)).convert("RGB").save(OUT / "demo.jpg", quality=88)
    page = PAGE.read_text("utf-8")
    for number, (name, pixels, mask) in enumerate(cases(), 1):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
        result = localizer.localize(buffer.getvalue(), name=name)
        grey = np.rint(result.probability * 255).astype(np.uint8)
        maps = [np.repeat(m[..., None], 3, 2) for m in (mask.astype(np.uint8) * 255, grey)]
        panels = [
            panel(pixels, name),
            panel(maps[0], "true mask"),
            panel(maps[1], "probability, 0 to 1"),
        ]
        strip = Image.new("RGB", (sum(p.width for p in panels), panels[0].height), "white")
        left = 0
        for each in panels:
            strip.paste(each, (left, 0))
            left += each.width
        strip.save(OUT / f"example-{number}-{name}.jpg", quality=88)
        said = verdict(result, mask)
        print(f"{name}: {said}")
        mark = f"<!-- example {name} -->"
        page, count = re.subn(f"(?m)^.*{mark}$", f"{said} {mark}", page)
        if count != 1:
            raise SystemExit(f"{PAGE.name} has {count} lines {mark}")
    PAGE.write_text(page, "utf-8", newline="\n")


if __name__ == "__main__":
    main()
