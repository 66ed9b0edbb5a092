"""What follows the last step: calibration, evaluation, curves."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch

from imlctl import atomic
from imlctl.bench.accuracy import evaluate, summarize
from imlctl.data.manifest import evaluation_pictures
from imlctl.train.calibrate import calibrate, with_verdict
from imlctl.train.curves import draw_curves
from imlctl.train.validate import answers
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
    loaded = load(path)
    model = loaded.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    cases = [
        c for m in evaluation.manifests for c in evaluation_pictures(m, split=evaluation.split)
    ]
    ask = answers(model, device, scale=loaded.card.score_scale)
    rows = summarize(list(evaluate(cases, ask, rule=loaded.card.rule)))
    numbers = ("tampered", "authentic", "f1", "iou", "auc", "found", "false_alarms")
    table = {row.name: {n: _plain(getattr(row, n)) for n in numbers} for row in rows}
    for name, scores in table.items():
        log({"event": "evaluation", "set": name, **scores})
    atomic.write(out, json.dumps(table, indent=2).encode() + b"\n", overwrite=True)


def _plain(value: float) -> float | None:
    """JSON has no NaN: what nothing was there to measure on is null."""
    return round(value, 5) if np.isfinite(value) else None
