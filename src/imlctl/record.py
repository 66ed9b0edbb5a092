"""The frozen, versioned record of one analysed picture."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from imlctl import __version__
from imlctl.errors import ImlctlError, NumericalError

SCHEMA_VERSION = 3  # of docs/record.schema.json; 3 has a verdict of three steps, and its rates
FAILED = "failed"  # stands where a picture has no verdict
_PLAIN = ("rule", "rates", "settings", "facts", "regions", "seconds", "timings", "versions")
_LIBRARIES = ("torch", "numpy", "pillow", "opencv-python-headless")
_FRACTIONS = ("score", "share", "threshold", "unreliable_share")


@functools.cache
def software_versions() -> dict[str, str]:
    """Return the versions that a result may depend on, without importing what they are of."""
    found = {"imlctl": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason why a picture has no mask.

    Attributes:
        kind: Name of the error's class, such as "DecodeError".
        what: What is wrong.
        remedy: What to do about it, or "".
    """

    kind: str
    what: str
    remedy: str = ""

    @classmethod
    def of(cls, error: ImlctlError) -> Failure:
        """Describe an error."""
        return cls(type(error).__name__, error.what, error.remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One picture, how it was analysed, and what was found.

    Dataclasses and paths among the values are turned into plain dictionaries and strings on
    construction, so that a record that exists can be written, and stays as it is.

    Attributes:
        path: The picture as the user or the scan named it; bytes that are not UTF-8 stand as
            surrogate escapes, as Python's own file functions give them.
        verdict: One of `mask.decide.Verdict`, or "failed".
        model: Name of the model.
        weights_sha256: Of the weights file, 64 hexadecimal digits.
        settings: Whatever else the mask depends on (tile, model options ...).
        seed: Of the noise, where the model uses any.
        device: Where it was computed, such as "cpu" or "cuda:0 (NVIDIA H100)".
        seconds: Wall time of the analysis.
        timings: Seconds by stage, such as decode and model, where they were taken.
        sha256: Of the encoded bytes that were decoded; None if they could not be read.
        bytes: How many they are; None likewise.
        facts: Of the file, a dataclass or a mapping; None if it could not be decoded.
        score: For the whole picture, 0 to 1, see `mask.decide`; None where there is no map.
        share: Fraction of pixels at or over the threshold.
        threshold: Probability from which a pixel is marked.
        rule: The scores that a verdict takes, see `mask.decide.Rule`.
        rates: See `mask.rates.VerdictRates`; None where they were not measured.
        unreliable_share: Fraction of the picture where the map cannot be believed; None where the
            model does not say.
        cautions: Reasons why this picture is unlike those the model can judge, as phrases.
        regions: Those that are listed, dataclasses or mappings, largest first.
        regions_rest_count: Regions too small to be listed.
        regions_rest_area: Their pixels together.
        warnings: Sentences.
        error: Why there is no verdict; present exactly if that is "failed".
        versions: Of imlctl, Python and the libraries that decode and compute.

    Raises:
        NumericalError: A number is NaN or infinite.
        ValueError: Verdict, error and findings contradict each other, or a value is not JSON.
    """

    path: str
    verdict: str
    model: str
    weights_sha256: str
    settings: Any
    seed: int
    device: str
    seconds: float
    sha256: str | None = None
    bytes: int | None = None
    facts: Any = None
    score: float | None = None
    share: float | None = None
    threshold: float | None = None
    rule: Any = None
    rates: Any = None
    unreliable_share: float | None = None
    cautions: tuple[str, ...] = ()
    regions: Any = ()
    regions_rest_count: int = 0
    regions_rest_area: int = 0
    warnings: tuple[str, ...] = ()
    error: Failure | None = None
    timings: Any = field(default_factory=dict)
    versions: Any = field(default_factory=software_versions)

    def __post_init__(self) -> None:
        failed = self.verdict == FAILED
        if failed != (self.error is not None):
            raise ValueError(f"verdict {self.verdict!r} with error {self.error!r}")
        if not failed and None in (self.sha256, self.score, self.share, self.threshold, self.rule):
            raise ValueError("a verdict needs sha256, score, share, threshold and rule")
        for name in _FRACTIONS:
            value = _plain(getattr(self, name), self.path)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, outside 0 to 1")
        for name in _PLAIN:
            object.__setattr__(self, name, _plain(getattr(self, name), self.path))

    def to_dict(self) -> dict[str, Any]:
        """Return the record as fresh plain dictionaries, lists, strings and finite numbers.

        `path` is always valid text; where the name is not UTF-8, its bad bytes are written as
        escapes and `path_bytes` has all its bytes in hexadecimal (otherwise it is None).
        """
        raw = os.fsencode(self.path)
        shown = raw.decode("utf-8", "backslashreplace")
        exact = shown.encode() == raw
        record = {
            "schema_version": SCHEMA_VERSION,
            "path": shown,
            "path_bytes": None if exact else raw.hex(),
            "sha256": self.sha256,
            "bytes": self.bytes,
            "verdict": self.verdict,
            "score": self.score,
            "share": self.share,
            "threshold": self.threshold,
            "rule": self.rule,
            "rates": self.rates,
            "unreliable_share": self.unreliable_share,
            "cautions": self.cautions,
            "regions": self.regions,
            "regions_not_listed": {
                "count": self.regions_rest_count,
                "area": self.regions_rest_area,
            },
            "facts": self.facts,
            "model": self.model,
            "weights_sha256": self.weights_sha256,
            "settings": self.settings,
            "seed": self.seed,
            "device": self.device,
            "versions": self.versions,
            "seconds": self.seconds,
            "timings": self.timings,
            "warnings": self.warnings,
            "error": self.error,
        }
        return {key: _plain(value, self.path) for key, value in record.items()}

    def to_json(self, *, indent: int | None = None) -> str:
        """Return strict JSON in ASCII, so that no name can disturb what shows it."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)


def _plain(value: Any, source: str) -> Any:
    """Return a value as what `json` writes, or refuse it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):  # surrogates, from a name that is not UTF-8, are not valid JSON
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NumericalError(
                f"the analysis gave {value}",
                source=source,
                remedy="No result is kept of it; check the weights.",
            )
        return float(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            entry.name: _plain(getattr(value, entry.name), source)
            for entry in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {_plain(str(key), source): _plain(item, source) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, source) for item in value]
    raise ValueError(f"a record cannot hold {value!r} of type {type(value).__name__}")
