"""The layouts that datasets are distributed in, and how to tell them apart.

A layout yields what it finds, and remarks about what does not fit; it opens no picture.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from imlctl.data.folders import (
    Found,
    Remark,
    authentic,
    below,
    by_stem,
    paired,
    pictures,
    subfolders,
    unpaired,
)
from imlctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    Find = Callable[[Path], Iterator[Found | Remark]]

_NIST_INDEX = PurePosixPath("reference/manipulation/NC2016-manipulation-ref.csv")

# Without ground truth in every distribution (github.com/SunnyHaze/IML-Dataset-Corrections, 2.1;
# github.com/mjkwon2021/CAT-Net, Splicing/data/dataset_CASIA.py).
_CASIA_MASKLESS = frozenset(
    {"Sp_D_NRN_A_cha0011_sec0011_0542.jpg", "Tp_D_NRD_S_B_ani20002_nat20042_02437.tif"}
)
# Some of their masks are of the wrong size as distributed.
CORRECTED = frozenset({"casia2", "coverage", "imd2020"})


@dataclass(frozen=True, slots=True)
class Layout:
    """Arrangement of one dataset in folders; yields pictures and remarks."""

    name: str
    matches: Callable[[Path], bool]
    find: Find
    about: str


def detect(root: Path) -> Layout:
    """Tell a layout by its folders.

    Raises:
        UsageError: None fits.
    """
    for layout in LAYOUTS.values():
        if layout.matches(root):
            return layout
    raise UsageError(
        "matches none of the known layouts",
        source=str(root),
        remedy=f"Name one with --layout: {', '.join(LAYOUTS)}.",
    )


def trees(root: Path) -> Iterator[Found | Remark]:
    """``tampered``, ``masks``, ``authentic``, and ``masks_source`` of copy-moves, in each set."""
    for folder in tree_sets(root):
        name = folder.resolve().name
        masks, sources = (by_stem(pictures(folder / k)) for k in ("masks", "masks_source"))
        for image in pictures(folder / "tampered"):
            mask = masks.get(image.stem) or masks.get(f"{image.stem}_mask")
            yield paired(image, mask, name, image.stem, source=sources.get(image.stem))
        yield from authentic(pictures(folder / "authentic"), name)


def tree_sets(root: Path) -> list[Path]:
    """Folders that hold ``tampered`` or ``authentic``: the root, or those in it."""
    return [
        f
        for f in (root, *subfolders(root))
        if (f / "tampered").is_dir() or (f / "authentic").is_dir()
    ]


_PAIRS = (("images", "masks"), ("image", "mask"), ("imgs", "masks"), ("Tp", "Gt"))


def pair_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of pictures and masks of a set like SIF."""
    for images, masks in _PAIRS:
        found = below(root, images), below(root, masks)
        if found[0] and found[1]:
            return found[0], found[1]
    return None


def pairs(root: Path) -> Iterator[Found | Remark]:
    """Pictures and masks in two folders, paired by stem, with or without ``_mask`` or ``_gt``."""
    homes = pair_folders(root)
    if homes is None:
        yield Remark(root, "has no two folders of images and masks")
        return
    masks = by_stem(pictures(homes[1], deep=True))
    name = re.sub(r"\W+", "-", root.resolve().name.casefold()).strip("-") or "set"
    for image in pictures(homes[0], deep=True):
        stems = (image.stem, f"{image.stem}_mask", f"{image.stem}_gt")
        mask = next((masks[stem] for stem in stems if stem in masks), None)
        yield paired(image, mask, name, image.stem)
    for folder in ("authentic", "real", "Au", "original"):
        yield from authentic(pictures(below(root, folder), deep=True), name)


def _is_casia(root: Path, prefix: str) -> bool:
    """Tell CASIA by the prefix of its forgeries' names, ``Sp_`` in v1 or ``Tp_`` in v2."""
    names = (p.name for p in pictures(_casia_tampered(root), deep=True))
    return any(name.startswith(prefix) for name in names)


def _casia(root: Path, name: str) -> Iterator[Found | Remark]:
    """CASIA v1 and v2, whose pictures came without ground truth.

    The masks in use (github.com/namtpham/casia1groundtruth and casia2groundtruth) are named after
    corrected pictures; pictures as first distributed find theirs by the number that ends both.
    """
    images = [p for p in pictures(_casia_tampered(root), deep=True) if not _is_mask(p)]
    yield from _casia_pairs(images, _casia_masks(root), name)
    yield from authentic(pictures(below(root, "Au"), deep=True), name)


def _casia_tampered(root: Path) -> Path | None:
    """The corrected pictures where both distributions of v1 were unpacked."""
    return below(root, "Modified Tp") or below(root, "Tp")


def _casia_masks(root: Path) -> list[Path]:
    """Masks from any folder called ground truth, or ``Gt``, at most two levels down."""
    homes = [
        f for f in _near(root) if "groundtruth" in _squeezed(f.name) or f.name.casefold() == "gt"
    ]
    return sorted({p for home in homes for p in pictures(home, deep=True)})


def _squeezed(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _is_mask(path: Path) -> bool:
    return re.search(r"_gt\d?$", path.stem) is not None


def _casia_pairs(images: list[Path], masks: list[Path], name: str) -> Iterator[Found | Remark]:
    free = {re.sub(r"_gt\d?$", "", mask.stem): mask for mask in masks}
    pairs = {image: free.pop(image.stem) for image in images if image.stem in free}
    rest = [image for image in images if image not in pairs]
    numbers = _by_number(free)
    taken = Counter(_number(image.stem) for image in rest)
    for image in images:
        group = image.stem
        if image in pairs:
            yield Found(image, pairs[image], name, group, "any")
        elif image.name in _CASIA_MASKLESS:
            yield Remark(image, "has no mask in any distribution", wrong=False)
        elif _number(image.stem) in numbers and taken[_number(image.stem)] == 1:
            mask = numbers[_number(image.stem)]
            yield Remark(image, f"corrected name: its mask is {mask.name}", wrong=False)
            yield Found(image, mask, name, group, "any")
        else:
            yield unpaired(image)


def _by_number(masks: dict[str, Path]) -> dict[str, Path]:
    """Masks that no picture has by name, where the number at the end tells them apart."""
    count: Iterable[str] = (_number(stem) for stem in masks)
    once = {number for number, times in Counter(count).items() if times == 1}
    return {_number(stem): mask for stem, mask in masks.items() if _number(stem) in once}


def _near(root: Path) -> list[Path]:
    """The folder, those in it, and those in them."""
    inside = subfolders(root)
    return [root, *inside, *(f for g in inside for f in subfolders(g))]


def _columbia(root: Path) -> Iterator[Found | Remark]:
    """The splices' edge masks are green inside the spliced region, red outside."""
    spliced = below(root, "4cam_splc")
    masks = by_stem(pictures(below(root, "edgemask")))
    for image in pictures(spliced, deep=True):
        if image.stem.endswith("_edgemask"):
            continue
        mask = masks.get(f"{image.stem}_edgemask")
        yield paired(image, mask, "columbia", image.stem, "green")
    yield from authentic(pictures(below(root, "4cam_auth"), deep=True), "columbia")


def _coverage(root: Path) -> Iterator[Found | Remark]:
    """``12t.tif`` is forged from ``12.tif``; of three masks, ``12forged.tif`` is the answer."""
    masks = by_stem(pictures(below(root, "mask")))
    for image in pictures(below(root, "image")):
        number = image.stem.removesuffix("t")
        if number == image.stem:
            yield Found(image, None, "coverage", number)
            continue
        mask = masks.get(f"{number}forged")
        yield paired(image, mask, "coverage", number)


def _nist16(root: Path) -> Iterator[Found | Remark]:
    """Its own index names the pairs; its masks are black where the picture is manipulated."""
    index = root / _NIST_INDEX
    try:
        with index.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="|"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        yield Remark(index, f"cannot be read ({error})")
        return
    for row in rows:
        image = root / (row.get("ProbeFileName") or "")
        group = row.get("BaseFileName") or image.stem
        if row.get("IsTarget") == "N":
            yield Found(image, None, "nist16", group)
        elif not row.get("ProbeMaskFileName"):
            yield unpaired(image)
        else:
            yield Found(image, root / str(row["ProbeMaskFileName"]), "nist16", group, "black")


def _imd2020(root: Path) -> Iterator[Found | Remark]:
    """A folder per original: ``x_orig.jpg``, and forgeries ``y.jpg`` with ``y_mask.png``."""
    for folder in _near(root):
        inside = by_stem(pictures(folder))
        for stem, image in inside.items():
            if stem.endswith("_mask"):
                continue
            if stem.endswith("_orig"):
                yield Found(image, None, "imd2020", folder.name)
                continue
            mask = inside.get(f"{stem}_mask")
            yield paired(image, mask, "imd2020", folder.name, "any")


def _cocoglide(root: Path) -> Iterator[Found | Remark]:
    """Paired by COCO's number: the masks are named after the real pictures."""
    masks = {_number(p.stem.removesuffix("_mask")): p for p in pictures(below(root, "mask"))}
    for image in pictures(below(root, "fake")):
        number = _number(image.stem.removesuffix("_up"))
        mask = masks.get(number)
        yield paired(image, mask, "cocoglide", number)
    for image in pictures(below(root, "real")):
        yield Found(image, None, "cocoglide", _number(image.stem))


def _number(stem: str) -> str:
    return stem.rpartition("_")[2]


def _autosplice(root: Path) -> Iterator[Found | Remark]:
    """One set for each of three JPEG qualities; forgeries ``7_0.jpg`` share ``7_mask.png``."""
    masks = by_stem(pictures(below(root, "Mask")))
    for quality in (100, 90, 75):
        for image in pictures(below(root, f"Forged_JPEG{quality}")):
            scene = image.stem.partition("_")[0]
            mask = masks.get(f"{image.stem}_mask") or masks.get(f"{scene}_mask")
            name = f"autosplice{quality}"
            yield paired(image, mask, name, scene, "any")
    yield from authentic(pictures(below(root, "Authentic")), "autosplice")


def _fantastic(root: Path) -> Iterator[Found | Remark]:
    """Masks are arrays in ``SegmentationFake/*.npz``, or pictures in ``masks``."""
    segments = below(root, "SegmentationFake")
    masks = by_stem(sorted(segments.glob("*.npz")) if segments else ())
    drawn = by_stem([*pictures(below(root, "masks")), *pictures(segments)])
    for image in pictures(below(root, "ColorFakeImages")):
        mask = masks.get(image.stem) or drawn.get(image.stem)
        yield paired(image, mask, "fantasticreality", image.stem, "any")
    yield from authentic(pictures(below(root, "ColorRealImages")), "fantasticreality")


def _tampcoco(root: Path) -> Iterator[Found | Remark]:
    """Four sets in pairs of folders; in a mask's name each ``.jpg`` has become ``.png``."""
    for kind in _TAMPCOCO:
        masks = {p.name: p for p in pictures(below(root, f"{kind}_masks"))}
        for image in pictures(below(root, f"{kind}_images")):
            mask = masks.get(image.name.replace(".jpg", ".png")) or masks.get(f"{image.stem}.png")
            name = f"tampcoco-{kind}"
            yield paired(image, mask, name, image.stem, "any")


def _defacto(root: Path) -> Iterator[Found | Remark]:
    """``<kind>_img/img`` with ``<kind>_annotations/probe_mask``, or ``<kind>-images`` likewise."""
    for folder in _defacto_annotations(root):
        kind = re.sub(r"[_-]annotations$", "", folder.name)
        masks = by_stem(pictures(folder / "probe_mask"))
        home = next(
            (
                p
                for p in subfolders(folder.parent)
                if re.fullmatch(f"{kind}[_-](img|images)", p.name)
            ),
            None,
        )
        if home is None:
            yield Remark(folder, "has no folder of pictures beside it")
            continue
        name = f"defacto-{re.sub(r'[_-][0-9]+$', '', kind).lower()}"
        for image in pictures(home, deep=True):
            mask = masks.get(image.stem)
            # Forgeries of one COCO picture: <number>_<COCO's number>
            yield paired(image, mask, name, _number(image.stem))


def _defacto_annotations(root: Path) -> list[Path]:
    return [
        f
        for f in _near(root)
        if re.search(r"[_-]annotations$", f.name) and (f / "probe_mask").is_dir()
    ]


def _authentic_only(root: Path, name: str) -> Iterator[Found | Remark]:
    yield from authentic(pictures(root, deep=True), name)


def _has(*names: str) -> Callable[[Path], bool]:
    return lambda root: all(below(root, name) is not None for name in names)


def _is_coverage(root: Path) -> bool:
    return any(re.fullmatch(r"\d+forged", p.stem) for p in pictures(below(root, "mask")))


def _is_imd2020(root: Path) -> bool:
    return any(p.stem.endswith("_orig") for folder in _near(root) for p in pictures(folder))


def _is_cocoglide(root: Path) -> bool:
    return any(p.name.startswith("glide_") for p in pictures(below(root, "fake")))


def _is_compraise(root: Path) -> bool:
    return "compraise" in root.resolve().name.casefold() and not subfolders(root)


_TAMPCOCO = ("cm", "sp", "bcm", "bcmc")
_ALL: tuple[tuple[str, Callable[[Path], bool], Find, str], ...] = (
    ("casia1", partial(_is_casia, prefix="Sp_"), partial(_casia, name="casia1"),
     "Au, Tp/CM, Tp/Sp, and masks from casia1groundtruth"),
    ("casia2", partial(_is_casia, prefix="Tp_"), partial(_casia, name="casia2"),
     "Au, Tp, and masks from casia2groundtruth"),
    ("columbia", _has("4cam_splc"), _columbia, "4cam_auth, 4cam_splc with edgemask"),
    ("coverage", _is_coverage, _coverage, "image, mask"),
    ("nist16", lambda root: (root / _NIST_INDEX).is_file(), _nist16, "NC2016 as released"),
    ("cocoglide", _is_cocoglide, _cocoglide, "fake, mask, real"),
    ("autosplice", _has("Forged_JPEG100"), _autosplice, "Authentic, Forged_JPEG*, Mask"),
    ("fantasticreality", _has("ColorFakeImages"), _fantastic,
     "ColorFakeImages, ColorRealImages, SegmentationFake"),
    ("tampcoco", lambda root: any(below(root, f"{kind}_images") for kind in _TAMPCOCO), _tampcoco,
     "cm_images, cm_masks, and sp, bcm, bcmc likewise"),
    ("defacto", lambda root: bool(_defacto_annotations(root)), _defacto,
     "splicing_1_img/img, splicing_1_annotations/probe_mask, ..."),
    ("imd2020", _is_imd2020, _imd2020, "a folder per original"),
    ("compraise", _is_compraise, partial(_authentic_only, name="compraise"),
     "one folder of authentic pictures"),
    ("tree", lambda root: bool(tree_sets(root)), trees, "tampered, masks, authentic"),
    ("pairs", lambda root: pair_folders(root) is not None, pairs,
     "two folders: images and masks, as SIF"),
    ("authentic", lambda _: False, partial(_authentic_only, name="authentic"),
     "any folder of authentic pictures"),
)  # fmt: skip
LAYOUTS = {entry[0]: Layout(*entry) for entry in _ALL}
