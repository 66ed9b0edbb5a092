"""From a dataset's folder to a manifest: every pair is opened and checked, and nothing stops."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imlctl import atomic
from imlctl.data.folders import Found, Remark
from imlctl.data.layouts import CORRECTED, choose_layout
from imlctl.data.manifest import Entry, share_of
from imlctl.data.masks import is_plain, mask_png, read_mask
from imlctl.errors import InputError, UsageError
from imlctl.image.decode import read

if TYPE_CHECKING:
    from imlctl.data.masks import Mask

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
    marks nothing or everything, or the picture's bytes are in another split already.

    Args:
        root: The dataset's folder.
        masks: Folder for masks that do not simply mark in white, written there anew.
        layout: One of `LAYOUTS`, or ``auto``.
        name: Set that all pictures belong to, instead of the layout's own.
        split: Of the pictures.
        hold_out: Share of the scenes, in [0, 1), that is in the split ``val`` instead.
        against: Entries of other manifests, whose pictures must not turn up in another split here.
        workers: Threads that decode.

    Raises:
        UsageError: The folder does not exist, or the layout is unknown or cannot be told.
    """
    if not root.is_dir():
        raise UsageError("no such folder", source=str(root))
    chosen = choose_layout(layout, root)
    every = list(chosen.find(root))
    index = Index(chosen.name, remarks=[each for each in every if isinstance(each, Remark)])
    found = [each for each in every if isinstance(each, Found)]
    homes = {entry.sha256: entry for entry in against if entry.sha256}

    def check(each: Found) -> Entry | Remark:
        # By its set and scene alone, so that a picture never moves to another split.
        held = share_of(f"{each.set}/{each.group}") < hold_out
        return _check(each, masks, name or each.set, "val" if held else split)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for result in pool.map(check, found):
            remark = _admit(result, index, homes) if isinstance(result, Entry) else result
            index.remarks += [remark] if remark else []
    return index


def _admit(entry: Entry, index: Index, homes: dict[str, Entry]) -> Remark | None:
    """Take an entry in, unless its bytes are known in another split, or as the opposite."""
    other = homes.setdefault(entry.sha256, entry)
    if other.split != entry.split:
        what = f"is the same file as {other.image}, which is in split {other.split!r}"
    elif (other.mask is None) is not (entry.mask is None):
        what = f"is the same file as {other.image}, but one is called authentic"
    else:
        index.entries.append(entry)
        return None
    return Remark(entry.image, what)


def _check(found: Found, masks: Path, name: str, split: str) -> Entry | Remark:
    """Open a picture and its mask."""
    try:
        photo = read(found.image)
    except InputError as error:
        return Remark(found.image, error.what.rstrip("."))
    if found.mask is None:
        return Entry(found.image, None, name, split, photo.sha256)
    try:
        mask = read_mask(found.mask, found.rule)
    except InputError as error:
        return Remark(found.mask, error.what.rstrip("."))
    turned = photo.facts.orientation >= 5
    shape = photo.pixels.shape[1::-1] if turned else photo.pixels.shape[:2]
    problem = _objection(found, mask, shape)
    if problem:
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


def _objection(found: Found, mask: Mask, shape: tuple[int, ...]) -> str | None:
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
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for entry in entries:
        tampered, authentic = found.get((entry.set, entry.split), (0, 0))
        real = entry.mask is None
        found[entry.set, entry.split] = tampered + (not real), authentic + real
    return found
