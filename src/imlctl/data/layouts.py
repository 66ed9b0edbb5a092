"""The layouts that datasets are distributed in, and how to tell them apart; opens no picture."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from imlctl.data.folders import (
    FoundPicture,
    Remark,
    all_authentic,
    below,
    by_stem,
    paired,
    pictures,
    subfolders,
)
from imlctl.errors import UsageError

_NIST_INDEX = PurePosixPath("reference/manipulation/NC2016-manipulation-ref.csv")

# Without ground truth in every distribution (github.com/SunnyHaze/IML-Dataset-Corrections, 2.1;
# github.com/mjkwon2021/CAT-Net, Splicing/data/dataset_CASIA.py).
_CASIA_MASKLESS = frozenset(
    {"Sp_D_NRN_A_cha0011_sec0011_0542.jpg", "Tp_D_NRD_S_B_ani20002_nat20042_02437.tif"}
)
# Some of their masks are of the wrong size as distributed.
CORRECTED = frozenset({"casia2", "coverage", "imd2020"})


class Layout(NamedTuple):
    """Arrangement of one dataset in folders; yields pictures and remarks."""

    name: str
    matches: Callable[[Path], bool]
    find: Callable[[Path], Iterator[FoundPicture | Remark]]
    about: str


def trees(root: Path) -> Iterator[FoundPicture | Remark]:
    """``tampered``, ``masks`` and ``authentic`` in each set."""
    for folder in tree_sets(root):
        name = folder.resolve().name
        masks = by_stem(pictures(folder / "masks"))
        forged = pictures(folder / "tampered")
        yield from paired(forged, masks, name, named=("{stem}", "{stem}_mask"))
        yield from all_authentic(pictures(folder / "authentic"), name)


def tree_sets(root: Path) -> list[Path]:
    """Folders that hold ``tampered`` or ``authentic``: the root, or those in it."""
    near = (root, *subfolders(root))
    return [f for f in near if (f / "tampered").is_dir() or (f / "authentic").is_dir()]


def pair_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of pictures and masks of a set like SIF."""
    for names in (("images", "masks"), ("image", "mask"), ("imgs", "masks"), ("Tp", "Gt")):
        images, masks = (below(root, name) for name in names)
        if images and masks:
            return images, masks
    return None


def pairs(root: Path) -> Iterator[FoundPicture | Remark]:
    """Pictures and masks in two folders, paired by stem, with or without ``_mask`` or ``_gt``."""
    homes = pair_folders(root)
    if homes is None:
        yield Remark(root, "has no two folders of images and masks")
        return
    images, masks = (pictures(home, deep=True) for home in homes)
    name = re.sub(r"\W+", "-", root.resolve().name.casefold()).strip("-") or "set"
    named = ("{stem}", "{stem}_mask", "{stem}_gt")
    yield from paired(images, by_stem(masks), name, named=named)
    for folder in ("authentic", "real", "Au", "original"):
        yield from all_authentic(pictures(below(root, folder), deep=True), name)


def _casia(root: Path, name: str) -> Iterator[FoundPicture | Remark]:
    """CASIA v1 and v2, whose pictures came without ground truth.

    The masks in use (github.com/namtpham/casia1groundtruth and casia2groundtruth) are named after
    corrected pictures; pictures as first distributed find theirs by the number that ends both,
    where that tells them apart.
    """
    images = [p for p in _casia_tampered(root) if not re.search(r"_gt\d?$", p.stem)]
    free = {re.sub(r"_gt\d?$", "", mask.stem): mask for mask in _casia_masks(root)}
    masks = {image.stem: free.pop(image.stem) for image in images if image.stem in free}
    lost = {image for image in images if image.stem not in masks}
    numbers = Counter([_number(stem) for stem in free])
    wanted = Counter([_number(image.stem) for image in lost])
    by_number = {_number(stem): mask for stem, mask in free.items()}
    for image in images:
        number = _number(image.stem)
        if image in lost and image.name in _CASIA_MASKLESS:
            yield Remark(image, "has no mask in any distribution", wrong=False)
            continue
        if image in lost and numbers[number] == wanted[number] == 1:
            masks[image.stem] = by_number[number]
            what = f"corrected name: its mask is {by_number[number].name}"
            yield Remark(image, what, wrong=False)
        yield from paired([image], masks, name, rule="any")
    yield from all_authentic(pictures(below(root, "Au"), deep=True), name)


def _casia_tampered(root: Path) -> list[Path]:
    """The corrected pictures where both distributions of v1 were unpacked."""
    return pictures(below(root, "Modified Tp") or below(root, "Tp"), deep=True)


def _casia_masks(root: Path) -> list[Path]:
    """Masks from any folder called ground truth, or ``Gt``, at most two levels down."""
    names = ((f, re.sub(r"[\s_-]", "", f.name).casefold()) for f in _near(root))
    homes = [folder for folder, name in names if "groundtruth" in name or name == "gt"]
    return sorted({p for home in homes for p in pictures(home, deep=True)})


def _near(root: Path) -> list[Path]:
    """The folder, those in it, and those in them."""
    inside = subfolders(root)
    return [root, *inside, *(f for g in inside for f in subfolders(g))]


def _number(stem: str) -> str:
    return stem.rpartition("_")[2]


def _columbia(root: Path) -> Iterator[FoundPicture | Remark]:
    """The splices' edge masks are green inside the spliced region, red outside."""
    masks = by_stem(pictures(below(root, "edgemask")))
    spliced = pictures(below(root, "4cam_splc"), deep=True)
    images = [p for p in spliced if not p.stem.endswith("_edgemask")]
    yield from paired(images, masks, "columbia", named=("{stem}_edgemask",), rule="green")
    yield from all_authentic(pictures(below(root, "4cam_auth"), deep=True), "columbia")


def _coverage(root: Path) -> Iterator[FoundPicture | Remark]:
    """``12t.tif`` is forged from ``12.tif``; of three masks, ``12forged.tif`` is the answer."""
    masks = by_stem(pictures(below(root, "mask")))
    images = pictures(below(root, "image"))
    forged = [image for image in images if image.stem.endswith("t")]

    def scene(stem: str) -> str:
        return stem.removesuffix("t")

    yield from paired(forged, masks, "coverage", named=("{scene}forged",), scene=scene)
    yield from all_authentic((image for image in images if image not in forged), "coverage")


def _nist16(root: Path) -> Iterator[FoundPicture | Remark]:
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
        mask = row.get("ProbeMaskFileName")
        if row.get("IsTarget") == "N":
            yield FoundPicture(image, None, "nist16", group)
        elif mask:
            yield FoundPicture(image, root / mask, "nist16", group, "black")
        else:
            yield Remark(image, "has no mask")


def _imd2020(root: Path) -> Iterator[FoundPicture | Remark]:
    """A folder for each original ``x_orig.jpg`` and forgeries ``y.jpg`` with ``y_mask.png``."""
    for folder in _near(root):
        inside = by_stem(pictures(folder))
        forged = [p for stem, p in inside.items() if not stem.endswith(("_orig", "_mask"))]
        originals = [image for stem, image in inside.items() if stem.endswith("_orig")]
        yield from (FoundPicture(image, None, "imd2020", folder.name) for image in originals)

        def scene(_: str, name: str = folder.name) -> str:
            return name

        yield from paired(
            forged, inside, "imd2020", named=("{stem}_mask",), scene=scene, rule="any"
        )


def _cocoglide(root: Path) -> Iterator[FoundPicture | Remark]:
    """Paired by COCO's number: the masks are named after the real pictures."""

    def number(stem: str) -> str:
        return _number(stem.removesuffix("_up").removesuffix("_mask"))

    masks = {number(p.stem): p for p in pictures(below(root, "mask"))}
    forged = pictures(below(root, "fake"))
    yield from paired(forged, masks, "cocoglide", named=("{scene}",), scene=number)
    for image in pictures(below(root, "real")):
        yield FoundPicture(image, None, "cocoglide", _number(image.stem))


def _autosplice(root: Path) -> Iterator[FoundPicture | Remark]:
    """One set for each of three JPEG qualities; forgeries ``7_0.jpg`` share ``7_mask.png``."""

    def scene(stem: str) -> str:
        return stem.partition("_")[0]

    masks = by_stem(pictures(below(root, "Mask")))
    for quality in (100, 90, 75):
        forged = pictures(below(root, f"Forged_JPEG{quality}"))
        named = ("{stem}_mask", "{scene}_mask")
        name = f"autosplice{quality}"
        yield from paired(forged, masks, name, named=named, scene=scene, rule="any")
    yield from all_authentic(pictures(below(root, "Authentic")), "autosplice")


def _fantastic(root: Path) -> Iterator[FoundPicture | Remark]:
    """Masks are arrays in ``SegmentationFake/*.npz``, or pictures in ``masks``."""
    segments = below(root, "SegmentationFake")
    arrays = sorted(segments.glob("*.npz")) if segments else []
    masks = by_stem([*arrays, *pictures(below(root, "masks")), *pictures(segments)])
    forged = pictures(below(root, "ColorFakeImages"))
    yield from paired(forged, masks, "fantasticreality", rule="any")
    yield from all_authentic(pictures(below(root, "ColorRealImages")), "fantasticreality")


_TAMPCOCO = ("cm", "sp", "bcm", "bcmc")


def _tampcoco(root: Path) -> Iterator[FoundPicture | Remark]:
    """Four sets in pairs of folders; in a mask's name each ``.jpg`` has become ``.png``."""
    for kind in _TAMPCOCO:
        masks = by_stem(pictures(below(root, f"{kind}_masks")))
        masks |= {stem.replace(".png", ".jpg"): mask for stem, mask in masks.items()}
        images = pictures(below(root, f"{kind}_images"))
        yield from paired(images, masks, f"tampcoco-{kind}", rule="any")


def _defacto(root: Path) -> Iterator[FoundPicture | Remark]:
    """``<kind>_img/img`` with ``<kind>_annotations/probe_mask``, or ``<kind>-images`` likewise."""
    for folder in _defacto_annotations(root):
        kind = re.sub(r"[_-]annotations$", "", folder.name)
        names = {f"{kind}{dash}{what}" for dash in "_-" for what in ("img", "images")}
        home = next((p for p in subfolders(folder.parent) if p.name in names), None)
        if home is None:
            yield Remark(folder, "has no folder of pictures beside it")
            continue
        masks = by_stem(pictures(folder / "probe_mask"))
        name = f"defacto-{re.sub(r'[_-][0-9]+$', '', kind).lower()}"
        # Forgeries of one COCO picture: <number>_<COCO's number>
        yield from paired(pictures(home, deep=True), masks, name, scene=_number)


def _defacto_annotations(root: Path) -> list[Path]:
    named = (f for f in _near(root) if f.name.endswith(("_annotations", "-annotations")))
    return [f for f in named if (f / "probe_mask").is_dir()]


def _authentic_only(root: Path, name: str) -> Iterator[FoundPicture | Remark]:
    yield from all_authentic(pictures(root, deep=True), name)


def _has(*names: str) -> Callable[[Path], bool]:
    """Tell a layout by a folder with one of these names."""
    return lambda root: any(below(root, name) is not None for name in names)


def _holds(folder: str, start: str) -> Callable[[Path], bool]:
    """Tell a layout by a picture in a folder whose name starts with this expression."""
    return lambda root: any(re.match(start, p.stem) for p in pictures(below(root, folder)))


def _is_casia(root: Path, prefix: str) -> bool:
    """Tell CASIA by the prefix of its forgeries' names, ``Sp_`` in v1 or ``Tp_`` in v2."""
    return any(path.name.startswith(prefix) for path in _casia_tampered(root))


LAYOUTS = {each.name: each for each in (
    Layout("casia1", partial(_is_casia, prefix="Sp_"), partial(_casia, name="casia1"),
           "Au, Tp/CM, Tp/Sp, and masks from casia1groundtruth"),
    Layout("casia2", partial(_is_casia, prefix="Tp_"), partial(_casia, name="casia2"),
           "Au, Tp, and masks from casia2groundtruth"),
    Layout("columbia", _has("4cam_splc"), _columbia, "4cam_auth, 4cam_splc with edgemask"),
    Layout("coverage", _holds("mask", r"\d+forged\Z"), _coverage, "image, mask"),
    Layout("nist16", lambda root: (root / _NIST_INDEX).is_file(), _nist16, "NC2016 as released"),
    Layout("cocoglide", _holds("fake", "glide_"), _cocoglide, "fake, mask, real"),
    Layout("autosplice", _has("Forged_JPEG100"), _autosplice, "Authentic, Forged_JPEG*, Mask"),
    Layout("fantasticreality", _has("ColorFakeImages"), _fantastic,
           "ColorFakeImages, ColorRealImages, SegmentationFake"),
    Layout("tampcoco", _has(*(f"{kind}_images" for kind in _TAMPCOCO)), _tampcoco,
           "cm_images, cm_masks, and sp, bcm, bcmc likewise"),
    Layout("defacto", lambda root: bool(_defacto_annotations(root)), _defacto,
           "splicing_1_img/img, splicing_1_annotations/probe_mask, ..."),
    Layout("imd2020",
           lambda root: any(p.stem.endswith("_orig") for f in _near(root) for p in pictures(f)),
           _imd2020, "a folder per original"),
    Layout("compraise",
           lambda root: "compraise" in root.resolve().name.casefold() and not subfolders(root),
           partial(_authentic_only, name="compraise"), "one folder of authentic pictures"),
    Layout("tree", lambda root: bool(tree_sets(root)), trees, "tampered, masks, authentic"),
    Layout("pairs", lambda root: pair_folders(root) is not None, pairs,
           "two folders: images and masks, as SIF"),
    Layout("authentic", lambda _: False, partial(_authentic_only, name="authentic"),
           "any folder of authentic pictures"),
)}  # fmt: skip


def choose_layout(name: str, root: Path) -> Layout:
    """Return the layout of this name, or with ``auto`` the first that fits; UsageError if none."""
    if name in LAYOUTS:
        return LAYOUTS[name]
    known = ", ".join(LAYOUTS)
    if name != "auto":
        remedy = f"Known: auto, {known}."
        raise UsageError(f"unknown layout {name!r}", source="--layout", remedy=remedy)
    for layout in LAYOUTS.values():
        if layout.matches(root):
            return layout
    what = "matches none of the known layouts"
    remedy = f"Name one with --layout: {known}."
    raise UsageError(what, source=str(root), remedy=remedy)
