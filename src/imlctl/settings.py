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
    """Settings of sampling. Only `tta` and `fusion` concern models that do not sample."""

    steps: int = STEPS  # denoising steps of DiffIML, 1 to 1000
    ensemble: int = MEMBERS  # runs of it that are averaged, at least 1
    tta: bool = False  # whether the mirrored picture is analysed too
    fusion: Fusion = "mean"  # how the two are brought together; see `inference`
    seed: int = 0  # of the noise, which depends on it and on the picture alone

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000 or self.ensemble < 1:
            what = f"{self.steps} steps and {self.ensemble} members cannot be run"
            raise UsageError(what, remedy="Use 1 to 1000 steps, and at least one member.")
        if self.fusion not in get_args(Fusion):
            what = f"flips cannot be fused by {self.fusion!r}"
            raise UsageError(what, remedy=f"Use {' or '.join(get_args(Fusion))}.")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one localization."""

    model: str = ""  # name in the registry; its default when empty
    # What to use instead: a name, ``hf://owner/repo[@revision]/file`` (both must have been pulled),
    # or a safetensors file; a `Path` is always a file.
    weights: str | Path | None = None
    device: str = "auto"  # or ``cpu``, ``cuda``, ``cuda:N``, ``mps``, ``xpu``
    # Probability from which a pixel is marked; None for that of the verdict, see `mask.decide.Rule`
    threshold: float | None = None
    tile: int = DEFAULT_TILE  # side in pixels, for pictures that are larger than one
    sampling: Sampling = field(default_factory=Sampling)
    max_pixels: int = DEFAULT_MAX_PIXELS  # larger ones are refused before any pixel is decoded

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_threshold(self.threshold)

    @classmethod
    def of(cls, **options: Any) -> Settings:
        """Make settings of fields of this class and of `Sampling`; UsageError for any other."""
        own, drawn = ({each.name for each in fields(kind)} for kind in (cls, Sampling))
        for name in options:
            if name not in own | drawn:
                remedy = f"Known are {', '.join(sorted(own | drawn))}."
                raise UsageError(f"there is no setting {name!r}", remedy=remedy)
        sampling = {name: options.pop(name) for name in drawn & options.keys()}
        if sampling:
            options["sampling"] = Sampling(**sampling)
        return cls(**options)
