"""Validation while a model trains, and calibration after the last step."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from imlctl.data.manifest import evaluation_pictures
from imlctl.evaluate.metrics import pixel_auc, pixel_f1
from imlctl.evaluate.score import evaluate, summarize_sets
from imlctl.inference import probabilities
from imlctl.pipeline import Localizer
from imlctl.settings import Sampling, Settings
from imlctl.train.batches import batches
from imlctl.train.calibrate import calibrate, with_verdict
from imlctl.train.objective import clues_of
from imlctl.weights.load import Card, Loaded, load, save

if TYPE_CHECKING:
    from imlctl.core.model import Model
    from imlctl.forge.synthesizer import Maker
    from imlctl.train.checkpoint import Log
    from imlctl.train.config import TrainConfig, ValidationConfig
    from imlctl.train.material import Material

_BATCH = 16
_ONCE = Sampling(ensemble=1)  # an ensemble of one tells as well which weights are better, faster


def validate(
    model: Model,
    judge: Maker | None,
    config: ValidationConfig,
    device: torch.device,
    real: Maker | None = None,
) -> dict[str, float]:
    """Score a model on held-out synthetic samples, on held-out real ones, and on a folder of sets.

    The ``objective``, by which the best weights are chosen, is the mean of AUC and F1 on held-out
    samples where there are any, so that the folder stays unseen. What cannot be measured is left
    out.
    """
    model.eval()
    scores: dict[str, float] = {}
    if judge is not None and config.synthetic:
        scores |= _samples(model, judge, config.synthetic, device, "synthetic")
    if real is not None and config.real:
        scores |= _samples(model, real, config.real, device, "real")
    # AUC alone does not see whether a mask at 0.5 is right, F1 alone is coarse: both decide.
    chosen = list(scores.values())
    if config.folder is not None:
        scores |= _sets(model, config.folder, device)
        scores = {name: score for name, score in scores.items() if math.isfinite(score)}
        chosen = chosen or [scores[n] for n in ("mean_auc", "mean_f1") if n in scores]
    return scores | {"objective": sum(chosen) / len(chosen) if chosen else 0.0}


@torch.inference_mode()
def _samples(
    model: Model, judge: Maker, count: int, device: torch.device, name: str
) -> dict[str, float]:
    f1, auc = [], []
    parts = batches(
        judge, start=0, stop=count, batch=_BATCH, workers=0, device=device, clues=clues_of(model)
    )
    for part in parts:
        maps = probabilities(model, part.image, _ONCE, part.clues)[:, 0].cpu().numpy()
        masks, valid = ((x[:, 0] > 0.5).cpu().numpy() for x in (part.mask, part.valid))
        for probability, mask, own in zip(maps, masks, valid, strict=True):
            p, t = probability[own], mask[own]
            if t.any():
                f1.append(pixel_f1(p >= 0.5, t))
                auc.append(pixel_auc(p, t))
    found = {f"{name}_auc": float(np.nanmean(auc)), f"{name}_f1": float(np.mean(f1))} if f1 else {}
    return {key: score for key, score in found.items() if math.isfinite(score)}


def _sets(model: Model, folder: Path, device: torch.device) -> dict[str, float]:
    """Score whole pictures as `localize` sees them."""
    loaded = Loaded(model, Card("in training", {}), sha256="", name="in training")
    localizer = Localizer(Settings(device=str(device), sampling=_ONCE), loaded=loaded)
    rows = summarize_sets(list(evaluate(evaluation_pictures(folder), localizer.localize)))
    overall = rows[-2] if len(rows) > 1 else rows[0]
    scores = {"mean_auc": overall.auc, "mean_f1": overall.f1, "mean_image_auc": overall.image_auc}
    for row in rows[:-2]:
        if row.tampered:
            scores |= {f"{row.name}_auc": row.auc, f"{row.name}_f1": row.f1}
    return scores


def finish(
    out: Path, material: Material, config: TrainConfig, device: torch.device, log: Log
) -> None:
    """Train the score of the best weights, calibrate them, and write them anew with their rule."""
    if not material.held:
        log({"event": "not calibrated", "why": "no authentic photographs were held out"})
        return
    best = out / "best.safetensors"
    heads = config.heads
    loaded = load(best)
    model = loaded.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    teaching = material.photos if heads.pictures else None
    found = calibrate(model, material.held, device=device, teaching=teaching, heads=heads)
    log({"event": "calibration", **asdict(found)})
    card = replace(with_verdict(loaded.card, found), config=model.config.to_dict())
    save(best, model, card)
