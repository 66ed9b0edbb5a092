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
from typing import Any

from imlctl import __version__
from imlctl.errors import ImlctlError, NumericalError

SCHEMA_VERSION = 3  # of docs/record.schema.json; 3 has a verdict of three steps, and its rates
FAILED = "failed"  # stands where a picture has no verdict
_PLAIN = (
    *("rule", "rates", "settings", "facts", "regions", "regions_not_listed"),
    *("seconds", "timings", "versions"),
)
_LIBRARIES = ("torch", "numpy", "pillow", "opencv-python-headless")
_FRACTIONS = ("score", "share", "threshold", "unreliable_share")


@functools.cache
def software_versions() -> dict[str, str]:
    """Return the versions that a result may depend on, without importing what they are of."""
    from importlib import metadata

    found = {"imlctl": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason why a picture has no mask."""

    kind: str  # name of the error's class, such as "DecodeError"
    what: str  # what is wrong
    remedy: str = ""  # what to do about it, or ""

    @classmethod
    def of(cls, error: ImlctlError) -> Failure:
        """Describe an error."""
        return cls(type(error).__name__, error.what, error.remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One picture, how it was analysed, and what was found.

    Dataclasses and paths among the values are turned into plain dictionaries and strings on
    construction, so that a record that exists can be written, and stays as it is.

    Fields stand in the order of the JSON. `model` to `device` are the provenance of all results of
    a scan, `settings` whatever else the mask depends on.

    Raises:
        NumericalError: A number is NaN or infinite.
        ValueError: Verdict, error and findings contradict each other, or a value is not JSON.
    """

    path: str  # as the user or the scan named it; bytes that are not UTF-8 as surrogate escapes
    sha256: str | None = None  # of the encoded bytes that were decoded; None if not read
    bytes: int | None = None  # how many they are; None likewise
    verdict: str  # one of `mask.decide.Verdict`, or "failed"
    score: float | None = None  # of the whole picture, 0 to 1; None where there is no map
    share: float | None = None  # fraction of pixels at or over the threshold
    threshold: float | None = None  # probability from which a pixel is marked
    rule: Any = None  # `mask.decide.Rule`: the scores that a verdict takes
    rates: Any = None  # of `mask.rates.measured`; None where they were not measured
    unreliable_share: float | None = None  # of the picture where the map cannot be believed
    cautions: tuple[str, ...] = ()  # why it is unlike pictures that the model can judge, as phrases
    regions: Any = ()  # those that are listed, dataclasses or mappings, largest first
    regions_not_listed: Any = field(default_factory=lambda: {"count": 0, "area": 0})
    facts: Any = None  # of the file, a dataclass or a mapping; None if it could not be decoded
    model: str
    weights_sha256: str
    settings: Any
    seed: int
    device: str
    versions: Any = field(default_factory=software_versions)
    seconds: float  # wall time of the analysis
    timings: Any = field(default_factory=dict)  # seconds by stage, where they were taken
    warnings: tuple[str, ...] = ()  # sentences
    error: Failure | None = None  # present exactly if the verdict is "failed"

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
        record = {
            "schema_version": SCHEMA_VERSION,
            "path": shown,
            "path_bytes": None if shown.encode() == raw else raw.hex(),
        }
        names = (each.name for each in dataclasses.fields(self) if each.name != "path")
        return record | {name: _plain(getattr(self, name), self.path) for name in names}

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
            what = f"the analysis gave {value}"
            remedy = "No result is kept of it; check the weights."
            raise NumericalError(what, source=source, remedy=remedy)
        return float(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_plain(str(key), source): _plain(item, source) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, source) for item in value]
    raise ValueError(f"a record cannot hold {value!r} of type {type(value).__name__}")
