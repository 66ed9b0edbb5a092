"""Settings of one localization, checked when they are made; to be had without importing torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from imlctl.errors import UsageError
from imlctl.image.formats import DEFAULT_MAX_PIXELS
from imlctl.mask.decide import check_threshold

Fusion = Literal["mean", "max"]
STEPS, MEMBERS = 8, 5  # of DiffIML, as `core.model` and `core.diff_iml` have them
# A tile of this side needs about half a gigabyte at its peak; the model sees that much context.
DEFAULT_TILE = 1024


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of sampling. Only `tta` concerns models that do not sample.

    Attributes:
        steps: Denoising steps of DiffIML, 1 to 1000.
        ensemble: Runs of it that are averaged, at least 1.
        tta: Whether the mirrored picture is analysed too.
        fusion: How the two are brought together, ``mean`` or ``max``; see `inference`.
        seed: Of the noise, which depends on it and on the picture alone.
    """

    steps: int = STEPS
    ensemble: int = MEMBERS
    tta: bool = False
    fusion: Fusion = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000 or self.ensemble < 1:
            what = f"{self.steps} steps and {self.ensemble} members cannot be run"
            raise UsageError(what, remedy="Use 1 to 1000 steps, and at least one member.")
        if self.fusion not in get_args(Fusion):
            what = f"flips cannot be fused by {self.fusion!r}"
            raise UsageError(what, remedy=f"Use {' or '.join(get_args(Fusion))}.")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one localization.

    Attributes:
        model: Name in the registry; its default when empty.
        weights: What to use instead: a name, ``hf://owner/repo[@revision]/file`` (both must have
            been pulled), or a safetensors file; a `Path` is always a file.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``mps`` or ``xpu``.
        threshold: Probability from which a pixel is marked; None for the one that goes with the
            verdict, see `mask.decide.Rule`.
        tile: Side of a tile in pixels, for pictures that are larger than one.
        sampling: Steps, members, flips and seed of what is drawn.
        max_pixels: Larger pictures are refused before any pixel is decoded.
    """

    model: str = ""
    weights: str | Path | None = None
    device: str = "auto"
    threshold: float | None = None
    tile: int = DEFAULT_TILE
    sampling: Sampling = field(default_factory=Sampling)
    max_pixels: int = DEFAULT_MAX_PIXELS

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_threshold(self.threshold)

    @classmethod
    def of(cls, **options: Any) -> Settings:
        """Make settings of keywords: fields of this class, and of `Sampling`.

        Raises:
            UsageError: A keyword or a value is not known.
        """
        own, drawn = ({each.name for each in fields(kind)} for kind in (cls, Sampling))
        for name in options:
            if name not in own | drawn:
                remedy = f"Known are {', '.join(sorted(own | drawn))}."
                raise UsageError(f"there is no setting {name!r}", remedy=remedy)
        sampling = {name: options.pop(name) for name in drawn & options.keys()}
        if sampling:
            options["sampling"] = Sampling(**sampling)
        return cls(**options)
