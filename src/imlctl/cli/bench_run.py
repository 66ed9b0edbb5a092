"""What the measurements of `imlctl bench` have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from imlctl.cli.bench_show import VERSION
from imlctl.cli.options import chosen_threshold
from imlctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from imlctl.bench.accuracy import Answer, Rule
    from imlctl.core.sampler import Fusion
    from imlctl.inference import Sampling
    from imlctl.pipeline import Localizer

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Common:
    """What most measurements take from the command line, as it was given there.

    Attributes:
        pictures: Whether pictures of what was measured are wanted.
    """

    models: Sequence[str]
    weights: Sequence[str]
    device: str
    threshold: str | None
    steps: Sequence[int]
    ensemble: Sequence[int]
    tta: bool | None
    fusion: str
    seed: int
    tile: int
    runs: int
    budget: float
    resamples: int
    split: str
    pictures: bool

    @property
    def named(self) -> list[tuple[str, str | None]]:
        """Models and weights to measure, as `Settings` takes them; at least one."""
        return [*((m, None) for m in self.models), *(("", w) for w in self.weights)] or [("", None)]

    def sampling(self, **changed: Any) -> Sampling:
        """The one way in which predictions are drawn.

        Raises:
            UsageError: Several were given.
        """
        from imlctl.core.diff_iml import MEMBERS
        from imlctl.core.model import STEPS
        from imlctl.inference import Sampling

        for option, values in (("--steps", self.steps), ("--ensemble", self.ensemble)):
            if len(values) > 1 and option.removeprefix("--") not in changed:
                raise UsageError(
                    "is given several times",
                    source=option,
                    remedy="Only --fps and --ablate compare several.",
                )
        drawn: dict[str, Any] = {
            "steps": [*self.steps, STEPS][0],
            "ensemble": [*self.ensemble, MEMBERS][0],
            "tta": bool(self.tta),
            "fusion": cast("Fusion", self.fusion),
            "seed": self.seed,
        }
        return Sampling(**(drawn | changed))

    def localizer(self, named: tuple[str, str | None] | None = None, **changed: Any) -> Localizer:
        """Load one model.

        Args:
            named: Which; None for the only one.
            changed: What of the sampling differs from the command line.

        Raises:
            UsageError: Several were given where one is measured.
        """
        from imlctl.pipeline import Localizer, Settings

        if named is None and len(self.named) > 1:
            raise UsageError(
                "several models are given, and one is measured",
                source="bench",
                remedy="Only --fps, --flops and --ablate take several.",
            )
        model, weights = named or self.named[0]
        sampling = self.sampling(**changed)
        return Localizer(
            Settings(
                model=model,
                weights=weights,
                device=self.device,
                threshold=chosen_threshold(self.threshold, model, weights, sampling),
                tile=self.tile,
                sampling=sampling,
            )
        )


def head(kind: str, localizer: Localizer) -> dict[str, Any]:
    """What every document of one model begins with."""
    about = {key: localizer.provenance[key] for key in ("model", "weights_sha256", "device")}
    settings = dict(cast("dict[str, Any]", localizer.provenance["settings"]))
    seed = localizer.settings.sampling.seed
    return {"kind": kind, "version": VERSION, **about, "settings": settings, "seed": seed}


def rule_of(localizer: Localizer) -> Rule:
    """How this model's maps become masks and verdicts."""
    return localizer.card.rule


def answer_of(localizer: Localizer, source: Path | bytes, name: str = "") -> Answer:
    """Localize one picture."""
    from imlctl.bench.accuracy import Answer

    result = localizer.localize(source, name=name)
    return Answer(result.probability, result.score)


def watched(items: Iterable[_T], total: int) -> Iterable[_T]:
    """The same items, with a progress bar on a terminal."""
    from tqdm import tqdm

    return cast(
        "Iterable[_T]",
        tqdm(items, total=total, unit="picture", disable=None, leave=False, dynamic_ncols=True),
    )
