"""What each clue is worth by itself, without a network: its AUC on the pixels of every set.

    python scripts/clues_alone.py data/val

The folder is as for `imlctl bench --f1`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from imlctl.core.residual_outliers import residual_outliers
from imlctl.core.self_similarity import self_similarity
from imlctl.data.manifest import evaluation_pictures
from imlctl.data.masks import read_mask
from imlctl.evaluate.metrics import pixel_auc
from imlctl.image.decode import read
from imlctl.image.prepare import prepare, to_float

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CLUES: dict[str, Callable[[Tensor], Tensor]] = {
    "outliers": residual_outliers,
    "copies": self_similarity,
}


def main() -> None:
    """Print a line for each set."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for case in evaluation_pictures(Path(sys.argv[1])):
        if case.mask is None:
            continue
        truth = read_mask(case.mask)
        image, _ = prepare(read(case.image))
        scores = []
        for clue in CLUES.values():
            seen = clue(to_float(image)[None])[:, :1]  # how far, or how well places agree
            whole = F.interpolate(seen, scale_factor=4, mode="bilinear", align_corners=False)
            scores.append(pixel_auc(whole[0, 0, : truth.shape[0], : truth.shape[1]].numpy(), truth))
        found[case.set].append(scores)
    for name, rows in found.items():
        means = zip(CLUES, np.mean(rows, axis=0), strict=True)
        print(f"{name:24}", *(f"{clue} {mean:.3f}" for clue, mean in means), sep="  ")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
