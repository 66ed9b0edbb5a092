"""How well the bundled DiffIML's LightVAE gives masks back: the lines of its model card.

    python scripts/round_trip.py [WEIGHTS] [--masks 64] [--folder data/val]

WEIGHTS are of a DiffIML or a LightVAE; without any, the bundled ones. `--folder` adds the masks of
real forgeries in `<set>/masks`, cut to multiples of eight.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imlctl.core.light_vae import FACTOR, LightVAE
from imlctl.train.mask_maps import JudgeConfig, as_maps, f1, round_trip
from imlctl.weights.load import load
from imlctl.weights.use import open_weights


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="?", type=Path)
    parser.add_argument("--masks", type=int, default=64)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    model = (load(given.weights) if given.weights else open_weights("diffiml")).model
    vae = getattr(model, "vae", model)
    if not isinstance(vae, LightVAE):
        parser.error(f"{given.weights} holds no LightVAE")
    found = round_trip(vae.float(), JudgeConfig(masks=given.masks), "canny", torch.device("cpu"))
    for what in ("masks", "edges"):
        print(what, *(f"{kind} {score:.4f}" for kind, score in found[what].items()))
    print(f"mean of masks {found['f1']:.4f}, worst {found['worst']:.4f}")
    print(f"mean of masks, latents moved by noise of 0.2: {found['f1_noisy']:.4f}")
    if given.folder:
        scores = [real(vae, path) for path in sorted(given.folder.glob("*/masks/*"))]
        print(
            f"masks of {len(scores)} real forgeries {np.mean(scores):.4f}, worst {min(scores):.4f}"
        )


@torch.inference_mode()
def real(vae: LightVAE, path: Path) -> float:
    """F1 of one mask, from a file."""
    with Image.open(path) as image:
        mask = np.asarray(image.convert("L")) > 127
    height, width = (side // FACTOR * FACTOR for side in mask.shape)
    maps = as_maps([mask[:height, :width]])
    return f1(vae.decode(vae.encode(maps)) > 0, maps > 0)


if __name__ == "__main__":
    main()
