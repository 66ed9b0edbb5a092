"""Options that several commands share, each spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imlctl.errors import UsageError

if TYPE_CHECKING:
    from imlctl.settings import Sampling


def _presets() -> list[str]:
    """Names of the built-in presets, for tab completion."""
    from imlctl.resources import presets

    return list(presets())


def option(about: str, *names: str, **more: Any) -> Any:
    """Describe an option; a switch needs its name, or typer would add its opposite."""
    return typer.Option(*names, help=about, **more)


Device = Annotated[
    str,
    option(
        "auto, cpu, cuda, cuda:N, mps or xpu.",
        autocompletion=lambda: ["auto", "cpu", "cuda", "mps", "xpu"],
    ),
]
Preset = Annotated[
    str,
    typer.Argument(
        help="Training preset: the name of a built-in one, or a TOML file.", autocompletion=_presets
    ),
]
Changes = Annotated[
    list[str] | None,
    option(
        "Set a key of the preset, such as optim.steps=100; repeatable.",
        "--set",
        metavar="KEY=VALUE",
    ),
]
Run = Annotated[Path, option("Folder of the run; an interrupted one is continued.", "--out", "-o")]
Quiet = Annotated[bool, option("No progress on standard error.", "--quiet", "-q")]
Force = Annotated[bool, option("Replace existing outputs.", "--force", "-f")]
Json = Annotated[bool, option("Print JSON.", "--json")]


def chosen_threshold(
    text: str | None, model: str, weights: str | None, sampling: Sampling
) -> float | None:
    """Turn the value of `--threshold`, a number or ``fpr=`` and a rate, into a probability.

    None stays None, for what the weights carry. A calibration depends on the weights, which are
    used instead of the model, and on the sampling.

    Raises:
        UsageError: It is neither, or these weights were not calibrated.
    """
    if text is None:
        return None
    rate = text.removeprefix("fpr=")
    try:
        number = float(rate)
    except ValueError:
        what = f"{text!r} is neither a number nor fpr= and a rate"
        remedy = "Give a probability such as 0.5, or fpr=0.01."
        raise UsageError(what, source="--threshold", remedy=remedy) from None
    if rate == text:
        return number
    from imlctl.evaluate.thresholds import threshold_for
    from imlctl.weights.files import sha256_of
    from imlctl.weights.pull import find
    from imlctl.weights.registry import known_weights

    found = find(weights or model or known_weights().default, kind="model")
    return threshold_for(found.sha256 or sha256_of(found.path, found.name), number, sampling)
