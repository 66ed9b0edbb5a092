"""Make the five examples of docs/explanation.md: forgeries of our own, and what the bundled weights say.

    python scripts/make_figures.py

Photographs: astronaut (NASA, public domain), chelsea (Stefan van der Walt, CC0), coffee (Rachel
Michetti, CC0) and rocket (SpaceX, public domain), all as scikit-image ships them.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont

import imlctl
from imlctl.bench.accuracy import pixel_auc, pixel_f1
from imlctl.train import augment, forge

OUT = Path(__file__).resolve().parents[1] / "docs" / "images"
HEIGHT = 260  # of one panel


def ellipse(shape, cy, cx, ry, rx):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1


def cases():
    """Yield name, picture, mask."""
    astronaut, chelsea, coffee, rocket = (
        np.ascontiguousarray(getattr(skimage.data, n)()[..., :3]) for n in ("astronaut", "chelsea", "coffee", "rocket")
    )
    rng = np.random.default_rng(7)

    mask = ellipse(astronaut.shape, 400, 120, 70, 90)
    donor = augment.jpeg(augment.resize(chelsea, 512, 770)[:, 200:712], 70)
    donor = np.roll(donor, (160, -120), (0, 1))
    yield "splice", forge.composite(astronaut, donor, mask, np.random.default_rng(1))[0], mask

    mask = ellipse(rocket.shape, 330, 120, 60, 45)
    yield "copy-move", *forge.copy_move(rocket, mask, np.random.default_rng(4))

    mask = ellipse(coffee.shape, 300, 470, 70, 60)
    yield "removal", *forge.remove(coffee, mask, np.random.default_rng(2))

    mask = ellipse(astronaut.shape, 120, 225, 60, 50)
    softened = augment.blur(astronaut, 1.6)
    yield "retouched", np.where(mask[..., None], softened, astronaut), mask

    yield "untouched", augment.noise(chelsea, 1.0, rng), np.zeros(chelsea.shape[:2], bool)


def panel(pixels, caption):
    image = Image.fromarray(pixels)
    image = image.resize((round(image.width * HEIGHT / image.height), HEIGHT), Image.Resampling.LANCZOS)
    framed = Image.new("RGB", (image.width + 6, HEIGHT + 26), "white")
    framed.paste(image, (3, 22))
    ImageDraw.Draw(framed).text((4, 4), caption, fill="black", font=ImageFont.load_default(13))
    return framed


def main():
    localizer = imlctl.load()
    OUT.mkdir(parents=True, exist_ok=True)
    for number, (name, pixels, mask) in enumerate(cases(), 1):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
        result = localizer.localize(buffer.getvalue(), name=name)
        heat = np.asarray(Image.open(io.BytesIO(result.heatmap_png())).convert("RGB"))[: mask.shape[0] * 9]
        verdict = f"{'manipulated' if result.decision.flagged else 'nothing found'}, score {result.score:.2f}"
        if mask.any():
            verdict += f", F1 {pixel_f1(result.decision.mask, mask):.2f}, AUC {pixel_auc(result.probability, mask):.2f}"
        truth = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2)
        panels = [panel(pixels, name), panel(truth, "true mask"), panel(heat, verdict)]
        strip = Image.new("RGB", (sum(p.width for p in panels), panels[0].height), "white")
        x = 0
        for each in panels:
            strip.paste(each, (x, 0))
            x += each.width
        strip.save(OUT / f"example-{number}-{name}.jpg", quality=88)
        print(name, verdict)


if __name__ == "__main__":
    main()
