"""From a dataset's folder to a manifest: every pair is opened and checked, and nothing stops."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imlctl import atomic
from imlctl.data.folders import FoundPicture, Remark
from imlctl.data.layouts import CORRECTED, choose_layout
from imlctl.data.manifest import Entry, share_of
from imlctl.data.masks import Mask, is_plain, mask_png, read_mask
from imlctl.errors import InputError, UsageError
from imlctl.image.decode import read

_CORRECTIONS = "github.com/SunnyHaze/IML-Dataset-Corrections may have a corrected one"


@dataclass(slots=True)
class Index:
    """Result of `build_index`: a manifest's entries, and remarks in the order of the files."""

    layout: str
    entries: list[Entry] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """Number of files that were left out."""
        return sum(remark.wrong for remark in self.remarks)


def build_index(
    root: Path,
    masks: Path,
    *,
    layout: str = "auto",
    name: str | None = None,
    split: str = "train",
    hold_out: float = 0.0,
    against: Sequence[Entry] = (),
    workers: int = 4,
) -> Index:
    """Find all pictures of a dataset, and check each with its mask.

    A pair is left out, with a remark, when either does not decode, their sizes differ, the mask
    marks nothing or everything, or the picture's bytes are in another split already, here or in
    `against`, the entries of other manifests.

    All belong to the set `name`, instead of the layout's own, and to `split`, but for a share
    `hold_out` of the scenes, in [0, 1), which is in ``val``. Masks that do not simply mark in white
    are written anew into the folder `masks`. UsageError where the folder does not exist, or as
    `choose_layout` raises it.
    """
    if not root.is_dir():
        raise UsageError("no such folder", source=str(root))
    chosen = choose_layout(layout, root)
    every = list(chosen.find(root))
    index = Index(chosen.name, remarks=[each for each in every if isinstance(each, Remark)])
    found = [each for each in every if isinstance(each, FoundPicture)]
    homes = {entry.sha256: entry for entry in against if entry.sha256}

    def check(each: FoundPicture) -> Entry | Remark:
        # By its set and scene alone, so that a picture never moves to another split.
        held = share_of(f"{each.set}/{each.group}") < hold_out
        return _check(each, masks, name or each.set, "val" if held else split)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for result in pool.map(check, found):
            if isinstance(result, Remark):
                index.remarks.append(result)
            elif clash := _clash(result, homes.setdefault(result.sha256, result)):
                index.remarks.append(Remark(result.image, clash))
            else:
                index.entries.append(result)
    return index


def _clash(entry: Entry, other: Entry) -> str | None:
    """Say what is wrong with one file in two places: different splits, or opposite truths."""
    if other.split != entry.split:
        return f"is the same file as {other.image}, which is in split {other.split!r}"
    if (other.mask is None) is not (entry.mask is None):
        return f"is the same file as {other.image}, but one is called authentic"
    return None


def _check(found: FoundPicture, masks: Path, name: str, split: str) -> Entry | Remark:
    """Open a picture and its mask."""
    opened = found.image
    try:
        photo = read(opened)
        if found.mask is None:
            return Entry(found.image, None, name, split, photo.sha256)
        opened = found.mask
        mask = read_mask(opened, found.rule)
    except InputError as error:
        return Remark(opened, error.what.rstrip("."))
    turned = photo.facts.orientation >= 5
    shape = photo.pixels.shape[1::-1] if turned else photo.pixels.shape[:2]
    if problem := _objection(found, mask, shape):
        return Remark(found.image, problem)
    kept = found.mask
    if not is_plain(found.mask, mask):
        # The picture's name, made unique by its path.
        digest = hashlib.sha256(str(found.image).encode("utf-8", "surrogateescape")).hexdigest()
        stem = re.sub(r"[^\w.-]", "_", found.image.stem)[:120]
        kept = masks / found.set / f"{stem}-{digest[:8]}.png"
        if not kept.exists() or kept.read_bytes() != mask_png(mask):
            atomic.write(kept, mask_png(mask), overwrite=True)
    return Entry(found.image, kept, name, split, photo.sha256)


def _objection(found: FoundPicture, mask: Mask, shape: tuple[int, ...]) -> str | None:
    if mask.shape != shape:
        sizes = f"{mask.shape[1]}x{mask.shape[0]}, not {shape[1]}x{shape[0]}"
        hint = f" ({_CORRECTIONS})" if found.set in CORRECTED else ""
        return f"its mask {found.mask} is {sizes}{hint}"
    if not mask.any():
        return f"its mask {found.mask} marks nothing"
    if bool(np.all(mask)):
        return f"its mask {found.mask} marks the whole picture"
    return None


def counts(entries: Iterable[Entry]) -> dict[tuple[str, str], tuple[int, int]]:
    """Tampered and authentic pictures by set and split, in order of appearance."""
    kinds: dict[tuple[str, str], list[bool]] = {}
    for entry in entries:
        kinds.setdefault((entry.set, entry.split), []).append(entry.mask is None)
    return {place: (real.count(False), real.count(True)) for place, real in kinds.items()}
