"""What follows the last step: calibration, evaluation, curves."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch

from imlctl import atomic
from imlctl.data.manifest import evaluation_pictures
from imlctl.evaluate.score import evaluate
from imlctl.evaluate.summary import SetScore, summarize
from imlctl.mask.decide import Verdict
from imlctl.pipeline import Localizer
from imlctl.settings import Settings
from imlctl.train.calibrate import calibrate, with_verdict
from imlctl.train.curves import draw_curves
from imlctl.weights.load import load, save

if TYPE_CHECKING:
    from pathlib import Path

    from imlctl.forge.photos import PhotoPool
    from imlctl.train.config import EvaluationConfig
    from imlctl.train.logs import Log


def finish(
    out: Path,
    held: PhotoPool | None,
    evaluation: EvaluationConfig | None,
    device: torch.device,
    log: Log,
) -> None:
    """Calibrate the best weights, measure them, and draw the run's curves.

    Writes the weights anew with their rule, ``evaluation.json``, and ``curves.png``.

    Args:
        out: Folder of the run.
        held: Authentic photographs never trained on; without them nothing is calibrated.
        evaluation: What to measure on.
        device: Where to compute.
        log: Told the results.
    """
    best = out / "best.safetensors"
    if held is not None and len(held):
        _calibrate(best, held, device, log)
    else:
        log({"event": "not calibrated", "why": "no authentic photographs were held out"})
    if evaluation is not None:
        _evaluate(best, evaluation, out / "evaluation.json", device, log)
    png = draw_curves(out / "log.jsonl")
    if png is not None:
        atomic.write(out / "curves.png", png, overwrite=True)


def _calibrate(path: Path, held: PhotoPool, device: torch.device, log: Log) -> None:
    """Let finished weights mark little of authentic photographs, and seldom accuse one."""
    loaded = load(path)
    model = loaded.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = calibrate(model, held, device=device)
    log({"event": "calibration", **asdict(found)})
    save(path, model, with_verdict(loaded.card, found))


def _evaluate(
    path: Path, evaluation: EvaluationConfig, out: Path, device: torch.device, log: Log
) -> None:
    """Measure the weights that validation chose, on whole pictures, set by set."""
    split = evaluation.split
    entries = [e for m in evaluation.manifests for e in evaluation_pictures(m, split=split)]
    localizer = Localizer(Settings(weights=path, device=str(device)))
    rows = summarize(list(evaluate(entries, localizer.localize)))
    table = {row.name: _scores(row) for row in rows}
    for name, scores in table.items():
        log({"event": "evaluation", "set": name, **scores})
    atomic.write(out, json.dumps(table, indent=2).encode() + b"\n", overwrite=True)


def _scores(row: SetScore) -> dict[str, float | None]:
    numbers = ("tampered", "authentic", "f1", "f1_verdict", "iou", "auc", "image_auc")
    scores = {name: _plain(getattr(row, name)) for name in numbers}
    if row.rates is not None:
        rates = row.rates.verdicts[Verdict.MANIPULATED]
        scores |= {"found": rates.forgeries.share, "false_alarms": rates.authentic.share}
    return scores


def _plain(value: float) -> float | None:
    """JSON has no NaN: what nothing was there to measure on is null."""
    return round(value, 5) if np.isfinite(value) else None
