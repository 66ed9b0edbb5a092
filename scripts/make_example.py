"""Rebuild examples/: a space shuttle pasted onto a rocket's launch pad, and its true mask.

Both photographs come with scikit-image (`pip install scikit-image`) and are in the public domain;
examples/README.md says more. Run from anywhere: ``python scripts/make_example.py [FOLDER]``.

The forgery is meant to be an ordinary one. The host stays as it is, at its own resolution. The
donor is cut out along a hand-drawn outline, enlarged, sharpened, graded to the light of the scene,
given a little grain and a JPEG compression of its own; then the whole is saved as a JPEG.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "launchpad"
SEED = 20261121
SCALE = 1.3  # enlargement of the donor, bicubic
TOP_LEFT = (372, 78)  # where the corner of the enlarged crop falls on the host, (x, y)
DONOR_QUALITY = 80  # JPEG quality that the donor went through before it was pasted
FINAL_QUALITY = 92  # JPEG quality of the finished picture
SHARPEN = ImageFilter.UnsharpMask(radius=2.5, percent=130, threshold=0)  # it was out of focus
FEATHER = 0.8  # softness of the outline, standard deviation in pixels of the host
GRAIN = 2.0  # standard deviation of the grain added to the donor, in grey levels

# Light on the donor from top to bottom: dusk above, warm floodlights below. (R, G, B) gains.
LIGHT = ((0.52, 0.55, 0.64), (0.74, 0.72, 0.66), (1.0, 0.88, 0.62))

CROP = (350, 0, 470, 275)  # the shuttle in the astronaut's portrait: left, top, right, bottom
OUTLINE_UNIT = 0.25  # the points below were read off an enlargement by four of that crop
# From the tip of the tank clockwise: right-hand booster, wing, engines, wing, left-hand booster.
OUTLINE = """
    246,4 266,0 288,6 306,26 324,62 338,102 346,150 346,196 358,186 376,160 392,190 406,220
    414,248 416,300 412,340 411,842 418,872 420,900 416,932 414,944 416,1000 432,1036 430,1050
    410,1052 412,1080 364,1080 360,1050 338,1044 350,1000 356,944 326,938 306,950 298,952 298,1092
    264,1092 264,1000 242,1014 236,1040 222,1036 218,1068 164,1068 170,1030 150,1008 148,992
    84,1088 72,1084 76,1040 106,926 106,918 22,912 20,884 44,838 112,742 112,500 118,440 130,390
    124,372 122,262 134,214 152,172 170,206 184,236 190,200 188,150 194,104 210,58 228,24
"""


def cut_out() -> tuple[Image.Image, Image.Image]:
    """Return the enlarged donor (RGB) and its soft outline (L, 0 to 255), equally large."""
    crop = Image.fromarray(skimage.data.astronaut()).crop(CROP)
    size = (round(crop.width * SCALE), round(crop.height * SCALE))
    unit = OUTLINE_UNIT * SCALE * 8  # drawn eight times too large: smooth edges without a library
    drawn = Image.new("L", (size[0] * 8, size[1] * 8), 0)
    points = [int(number) * unit for pair in OUTLINE.split() for number in pair.split(",")]
    ImageDraw.Draw(drawn).polygon(points, fill=255)
    outline = drawn.resize(size, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(FEATHER))
    return crop.resize(size, Image.Resampling.BICUBIC).filter(SHARPEN), outline


def grade(donor: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Give the donor the light of the scene, some grain, and a JPEG history of its own."""
    height, width = donor.height, donor.width
    at = np.linspace(0, 1, height)
    gains = np.stack([np.interp(at, (0, 0.5, 1), channel) for channel in zip(*LIGHT, strict=True)])
    lit = np.asarray(donor, np.float32) * gains.T[:, None, :]
    grain = rng.normal(0, GRAIN, (height, width, 1))
    return recompress(to_picture(lit + grain), DONOR_QUALITY)


def recompress(picture: Image.Image, quality: int) -> Image.Image:
    """Save as JPEG and read back."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(BytesIO(buffer.getvalue())).convert("RGB")


def to_picture(values: NDArray[np.floating]) -> Image.Image:
    """Round and clip grey levels to 8 bits."""
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def build(folder: Path) -> None:
    """Write ``NAME.jpg`` and ``NAME_mask.png`` into a folder."""
    host = Image.fromarray(skimage.data.rocket())
    donor, outline = cut_out()
    forged, alpha = host.copy(), Image.new("L", host.size, 0)
    forged.paste(grade(donor, np.random.default_rng(SEED)), TOP_LEFT, outline)
    alpha.paste(outline, TOP_LEFT)
    forged.save(folder / f"{NAME}.jpg", quality=FINAL_QUALITY)
    # A pixel counts as tampered where the donor weighs more than the host.
    alpha.point(lambda weight: 255 if weight > 127 else 0).save(
        folder / f"{NAME}_mask.png", optimize=True
    )


if __name__ == "__main__":
    default = Path(__file__).resolve().parents[1] / "examples"
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
