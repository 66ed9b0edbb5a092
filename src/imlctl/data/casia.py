"""CASIA v1 and v2: the pictures, the community's masks, and names that do not agree.

Neither dataset came with ground truth. The masks in use (github.com/namtpham/casia1groundtruth and
casia2groundtruth) are named after corrected pictures: in v2, 39 pictures called copy-moves
(``Tp_S_``) are splices, and 60 called splices (``Tp_D_``) are copy-moves. Whoever has the pictures
as first distributed finds masks under other names; the number that ends each name is the same.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from imlctl.data.tree import Found, Remark, authentic, below, folders, pictures, unpaired

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# Without ground truth in every distribution (github.com/SunnyHaze/IML-Dataset-Corrections, 2.1;
# github.com/mjkwon2021/CAT-Net, Splicing/data/dataset_CASIA.py).
MASKLESS = frozenset(
    {
        "Sp_D_NRN_A_cha0011_sec0011_0542.jpg",
        "Tp_D_NRD_S_B_ani20002_nat20042_02437.tif",
    }
)
# Their masks differ in size (github.com/SunnyHaze/IML-Dataset-Corrections, 2.2).
MISALIGNED = frozenset(
    {
        "Tp_D_CNN_M_N_sec00011_cha00085_11227.jpg",
        "Tp_D_CRN_S_N_ani10191_ani10190_12437.jpg",
        "Tp_D_CRN_S_N_nat10130_pla00049_11524.jpg",
        "Tp_D_NND_M_B_nat20098_nat20073_01602.tif",
        "Tp_D_NRN_M_N_nat10134_nat00095_11912.jpg",
        "Tp_D_NRN_M_N_nat10134_nat10124_11913.jpg",
        "Tp_S_CRN_S_N_art00059_art00059_10508.tif",
        "Tp_S_NND_S_N_sec20064_sec20064_01654.tif",
        "Tp_S_NNN_S_N_art20077_art20077_01883.tif",
        "Tp_S_NNN_S_N_ind20037_ind20037_01778.tif",
        "Tp_S_NNN_S_N_sec00012_sec00012_11230.jpg",
        "Tp_S_NNN_S_N_sec00074_sec00074_00751.tif",
        "Tp_S_NRD_S_N_arc20079_arc20079_01719.tif",
        "Tp_S_NRD_S_N_pla20071_pla20071_01971.tif",
        "Tp_S_NRN_S_B_ind10002_ind10002_20010.jpg",
        "Tp_S_NRN_S_N_art20077_art20077_02316.tif",
        "Tp_S_NRN_S_N_pla20080_pla20080_01980.tif",
    }
)


def sees(root: Path, prefix: str) -> bool:
    """Whether there is a folder ``Tp`` whose pictures have the prefix, ``Sp_`` or ``Tp_``."""
    names = (p.name for p in pictures(_tampered(root), deep=True))
    return any(name.startswith(prefix) for name in names)


def find(root: Path, name: str) -> Iterator[Found | Remark]:
    """Pair each picture of ``Tp`` with its mask; yield those of ``Au`` as authentic."""
    images = [p for p in pictures(_tampered(root), deep=True) if not _is_mask(p)]
    yield from _pairs(images, _masks(root), name)
    yield from authentic(pictures(below(root, "Au"), deep=True), name)


def _tampered(root: Path) -> Path | None:
    """The corrected pictures where both distributions of v1 were unpacked."""
    return below(root, "Modified Tp") or below(root, "Tp")


def _masks(root: Path) -> list[Path]:
    """Masks from any folder called ground truth, or ``Gt``, at most two levels down."""
    near = [root, *folders(root), *(f for folder in folders(root) for f in folders(folder))]
    homes = [f for f in near if "groundtruth" in _plain(f.name) or f.name.casefold() == "gt"]
    return sorted({p for home in homes for p in pictures(home, deep=True)})


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _is_mask(path: Path) -> bool:
    return re.search(r"_gt\d?$", path.stem) is not None


def _pairs(images: list[Path], masks: list[Path], name: str) -> Iterator[Found | Remark]:
    free = {re.sub(r"_gt\d?$", "", mask.stem): mask for mask in masks}
    pairs = {image: free.pop(image.stem) for image in images if image.stem in free}
    rest = [image for image in images if image not in pairs]
    numbers = _by_number(free)
    taken = Counter(_number(image.stem) for image in rest)
    for image in images:
        group = image.stem
        if image in pairs:
            yield Found(image, pairs[image], name, group, "any")
        elif image.name in MASKLESS:
            yield Remark(image, "has no mask in any distribution", wrong=False)
        elif _number(image.stem) in numbers and taken[_number(image.stem)] == 1:
            mask = numbers[_number(image.stem)]
            yield Remark(image, f"corrected name: its mask is {mask.name}", wrong=False)
            yield Found(image, mask, name, group, "any")
        else:
            yield unpaired(image)


def _number(stem: str) -> str:
    return stem.rpartition("_")[2]


def _by_number(masks: dict[str, Path]) -> dict[str, Path]:
    """Masks that no picture has by name, where the number at the end tells them apart."""
    count: Iterable[str] = (_number(stem) for stem in masks)
    once = {number for number, times in Counter(count).items() if times == 1}
    return {_number(stem): mask for stem, mask in masks.items() if _number(stem) in once}
