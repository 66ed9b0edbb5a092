"""Layouts that people make themselves: a tree of sets, and two folders of pictures and masks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from imlctl.data.tree import (
    Found,
    Remark,
    authentic,
    below,
    by_stem,
    folders,
    pictures,
    unpaired,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def trees(root: Path) -> Iterator[Found | Remark]:
    """``tampered``, ``masks``, ``authentic``: one set, or a folder of sets."""
    for folder in tree_sets(root):
        masks = by_stem(pictures(folder / "masks"))
        for image in pictures(folder / "tampered"):
            mask = masks.get(image.stem) or masks.get(f"{image.stem}_mask")
            yield Found(image, mask, folder.name, image.stem) if mask else unpaired(image)
        yield from authentic(pictures(folder / "authentic"), folder.name)


def tree_sets(root: Path) -> list[Path]:
    """Folders that hold ``tampered`` or ``authentic``: the root, or those in it."""
    return [
        f for f in (root, *folders(root)) if (f / "tampered").is_dir() or (f / "authentic").is_dir()
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
        yield Found(image, mask, name, image.stem) if mask else unpaired(image)
    for folder in ("authentic", "real", "Au", "original"):
        yield from authentic(pictures(below(root, folder), deep=True), name)
