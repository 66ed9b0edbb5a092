"""Thresholds of masks by how many authentic pictures they mark: measured, and kept for later use.

Up to its critical threshold more than half a percent of a picture's pixels are marked. These are
kept whole, in the user's own ``thresholds.json``, by the hash of the weights, for any rate.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from imlctl import atomic
from imlctl.errors import ConfigError, UsageError
from imlctl.evaluate.metrics import threshold_at
from imlctl.mask.rates import proportion
from imlctl.weights.registry import user_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imlctl.settings import Sampling

RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
_VERSION = 1


def thresholds_for(
    critical: Sequence[float], rates: Sequence[float] = RATES
) -> list[dict[str, Any]]:
    """Find the least threshold that marks at most each share of the pictures.

    Returns:
        For each its ``rate``, ``threshold``, the proportion ``marked`` of these pictures with its
        exact interval, and ``resolved``: whether they are enough to see one that is marked.
    """
    values = np.asarray(critical, np.float32)
    found = []
    for rate in rates:
        threshold = threshold_at(critical, rate)
        marked = proportion(int(np.count_nonzero(values >= np.float32(threshold))), len(values))
        enough = rate * len(values) >= 1
        found.append({"rate": rate, "threshold": threshold, "marked": marked, "resolved": enough})
    return found


def drawn_with(settings: dict[str, Any]) -> dict[str, Any]:
    """Return those of a localizer's settings that a calibration depends on."""
    return {key: settings[key] for key in ("tta", "steps", "ensemble") if key in settings}


def kept_in() -> Path:
    """Return the file that calibrations are kept in."""
    return user_folder("config") / "thresholds.json"


def keep(sha256: str, settings: dict[str, Any], critical: Sequence[float]) -> Path:
    """Keep a calibration of weights, in place of one with the same settings (see `drawn_with`).

    Raises:
        ConfigError: What is kept there is damaged.
        OutputError: It cannot be written.
    """
    path, weights = kept_in(), _load()
    others = [each for each in weights.get(sha256, []) if each["settings"] != settings]
    entry = {"settings": settings, "critical": sorted(float(c) for c in critical)}
    weights[sha256] = [*others, entry]
    text = json.dumps({"version": _VERSION, "weights": weights}, indent=1, sort_keys=True)
    atomic.write(path, text.encode(), overwrite=True)
    return path


def threshold_for(sha256: str, rate: float, sampling: Sampling) -> float:
    """Look up the threshold for a false-positive rate.

    Raises:
        UsageError: There is none for these weights and settings; says what to run.
        ConfigError: What is kept is damaged.
    """
    if not 0 <= rate < 1:
        raise UsageError(
            f"the false-positive rate is {rate:g}, not from 0 to below 1",
            source="--threshold",
            remedy="Give a share such as fpr=0.01.",
        )
    entries = _load().get(sha256, [])
    asked = asdict(sampling) | {"tta": sampling.fusion if sampling.tta else "none"}
    wanted = [e for e in entries if all(asked[k] == v for k, v in e["settings"].items())]
    threshold = threshold_at(wanted[0]["critical"], rate) if wanted else 1.0
    if threshold < 1:
        return threshold
    remedy = "Run: imlctl bench --calibrate AUTHENTIC_PICTURES, with the same settings."
    if wanted:
        what = f"no threshold below 1 marks at most {rate:.1%} of the pictures calibrated on"
        remedy = "Ask for a higher rate."
    elif entries:
        known = (", ".join(f"{k} {v}" for k, v in e["settings"].items()) for e in entries)
        what = f"these weights were calibrated with other settings only: {'; '.join(known)}"
    else:
        what = f"these weights ({sha256[:12]}) were not calibrated on this machine"
    raise UsageError(what, source=f"--threshold fpr={rate:g}", remedy=remedy)


def _load() -> dict[str, list[dict[str, Any]]]:
    path = kept_in()
    try:
        document = json.loads(path.read_text("utf-8"))
        weights: dict[str, list[dict[str, Any]]] = document["weights"]
        entries = [entry for each in weights.values() for entry in each]
        if document["version"] != _VERSION or not all(
            isinstance(e["settings"], dict) and 0 <= min(e["critical"]) <= max(e["critical"]) <= 1
            for e in entries
        ):
            raise ValueError("it is not a file of thresholds written by imlctl")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"cannot be read ({error})",
            source=str(path),
            remedy="Move it away and calibrate again.",
        ) from error
    return weights
