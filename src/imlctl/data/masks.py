"""Ground-truth masks, however a dataset marks: in white, black or green, by labels, in .npz."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imlctl.errors import InputError

Mask = NDArray[np.bool_]
Rule = Literal["white", "any", "black", "green"]

_FOREIGN = (Image.DecompressionBombError, zipfile.BadZipFile)
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, *_FOREIGN)
_HALF = 127
_LARGEST_LABEL = 255


def read_mask(path: Path, rule: Rule = "white") -> Mask:
    """Read a mask, (H, W), True where the picture is manipulated.

    Args:
        path: A picture of 1, 8 or 16 bits, in grey, in colours or with a palette; or an ``.npz``
            with one array whose values above 0 are manipulated.
        rule: What is manipulated: ``white`` (brighter than the middle; the ones in a mask of labels
            0 and 1; whatever is not black in a coloured palette, or is bright in one channel of a
            mask of colours), ``any`` that is not black, ``black`` (darker than the middle), or
            ``green`` (more green than red).

    Raises:
        InputError: It is not a readable mask.
    """
    try:
        if path.suffix.lower() == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                every = [np.squeeze(arrays[name]) for name in arrays.files[:2]]
            if len(every) != 1 or every[0].ndim != 2:
                raise InputError("does not hold one array of two dimensions", source=str(path))
            return np.asarray(every[0] > 0)
        with Image.open(path) as image:
            # Sixteen bits would be clipped to white by a conversion.
            sixteen = image.mode.startswith("I")
            labels = rule == "white" and _has_labels(image)
            palette = image.mode == "P"
            colours = "RGB" if rule == "green" or labels else "L"
            levels = np.asarray(image if sixteen else image.convert(colours))
    except _UNREADABLE as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"is not a readable mask ({why})", source=str(path)) from error
    most = int(levels.max(initial=0))
    if sixteen and most > _LARGEST_LABEL:
        levels, most = levels >> 8, most >> 8
    if rule == "green":
        return np.asarray(levels[..., 1] > levels[..., 0])
    if labels:
        return np.asarray(levels.max(-1) > (0 if palette else _HALF))
    if rule == "black":
        return np.asarray(levels <= _HALF)
    return np.asarray(levels > (0 if rule == "any" or most <= 1 else _HALF))


def is_plain(path: Path, mask: Mask) -> bool:
    """Tell whether any reader sees this mask in the file: white above the middle, else black."""
    try:
        with Image.open(path) as image:
            seen = np.asarray(image.convert("L")) > _HALF
    except (OSError, SyntaxError, ValueError):
        return False
    return seen.shape == mask.shape and bool((seen == mask).all())


def mask_png(mask: Mask) -> bytes:
    """Encode a mask as a 1-bit PNG, white where True."""
    buffer = io.BytesIO()
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    grey.convert("1", dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _has_labels(image: Image.Image) -> bool:
    """Tell a map of coloured labels, in which red marks as much as white does."""
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB"), int).reshape(-1, 3)
        return bool(np.ptp(palette[np.unique(np.asarray(image))], axis=-1).any())
    # Of a grey picture, a JPEG's colours differ by a little.
    return image.mode in ("RGB", "RGBA") and bool(
        (np.ptp(np.asarray(image.convert("RGB")), axis=-1) > _HALF).any()
    )
