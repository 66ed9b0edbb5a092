from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from imlctl.core.model import Model, Prediction
from imlctl.forge.synthesizer import Mix, Synthesizer
from imlctl.train.config import ValidationConfig
from imlctl.train.validate import validate

if TYPE_CHECKING:
    from pathlib import Path

    from imlctl.forge.photos import PhotoPool

CPU = torch.device("cpu")


class Redness(Model):
    """Calls a pixel forged when it is redder than it is green."""

    multiple = 32

    def clues(self, image: Tensor, spread: Any = map) -> None:
        del image, spread

    def forward(self, image: Tensor, *_: object) -> Prediction:
        logits = 30 * (image[:, :1] - image[:, 1:2]) - 3
        return Prediction(logits, (), logits.flatten(1).amax(1))


class Constant(Redness):
    def forward(self, image: Tensor, *_: object) -> Prediction:
        return Prediction(torch.full_like(image[:, :1], -3), (), torch.zeros(len(image)))


@pytest.fixture
def judge(pool: PhotoPool) -> Synthesizer:
    return Synthesizer(pool, size=64, seed=5)


@pytest.fixture
def forgeries(tmp_path: Path) -> Path:
    """Two sets: in one the forged part is red, in the other it is green; one has authentics."""
    for name, colour in (("found", (200, 40, 40)), ("missed", (40, 200, 40))):
        picture = np.full((70, 90, 3), 120, np.uint8)
        picture[20:50, 30:60] = colour
        mask = np.zeros((70, 90), np.uint8)
        mask[20:50, 30:60] = 255
        for folder, pixels in (("tampered", picture), ("masks", mask)):
            path = tmp_path / "val" / name / folder / "a.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(pixels).save(path)
    clean = tmp_path / "val" / "found" / "authentic"
    clean.mkdir()
    Image.new("RGB", (80, 64), (200, 40, 40)).save(clean / "red.png")
    Image.new("RGB", (80, 64), (40, 40, 200)).save(clean / "blue.png")
    return tmp_path / "val"


def test_real_forgeries(forgeries: Path, judge: Synthesizer) -> None:
    scores = validate(Redness(), judge, ValidationConfig(forgeries, synthetic=0), CPU)
    assert scores["found_f1"] > 0.999
    assert scores["found_auc"] > 0.999
    assert scores["missed_f1"] < 0.01
    assert scores["missed_auc"] < 0.01
    assert scores["mean_f1"] == pytest.approx((scores["found_f1"] + scores["missed_f1"]) / 2)
    assert scores["mean_auc"] == pytest.approx(0.5, abs=0.01)
    assert 0 <= scores["mean_image_auc"] <= 1
    assert scores["objective"] == (scores["mean_auc"] + scores["mean_f1"]) / 2


def test_synthetic_samples(judge: Synthesizer) -> None:
    scores = validate(Constant(), judge, ValidationConfig(synthetic=20), CPU)
    assert scores == {"synthetic_auc": 0.5, "synthetic_f1": 0.0, "objective": 0.25}


def test_synthetic_samples_choose_the_best_where_there_are_both(
    forgeries: Path, judge: Synthesizer
) -> None:
    scores = validate(Redness(), judge, ValidationConfig(forgeries, synthetic=12), CPU)
    both = (scores["synthetic_auc"] + scores["synthetic_f1"]) / 2
    assert scores["objective"] == both != (scores["mean_auc"] + scores["mean_f1"]) / 2


def test_the_model_is_judged_in_evaluation_mode(judge: Synthesizer) -> None:
    model = Constant().train()
    validate(model, judge, ValidationConfig(synthetic=4), CPU)
    assert not model.training


def test_scores_are_those_of_each_forged_sample(judge: Synthesizer) -> None:
    """The mean over pictures, not over all pixels; authentic samples have no pixel score."""

    class Oracle(Redness):
        index = 0

        def forward(self, image: Tensor, *_: object) -> Prediction:
            masks = torch.ones(len(image), 1, 64, 64)  # wrong beyond a sample's own pixels
            for place, whole in enumerate(masks[:, 0]):
                mask = judge(self.index + place).mask
                whole[: mask.shape[0], : mask.shape[1]] = torch.from_numpy(mask)
            self.index += len(image)
            return Prediction(20 * (masks - 0.5), (), image[:, 0, 0, 0])

    scores = validate(Oracle(), judge, ValidationConfig(synthetic=20), CPU)
    assert scores["synthetic_f1"] == 1
    assert scores["synthetic_auc"] == 1


@pytest.mark.parametrize("case", ["nothing", "no forgery", "no tampered picture"])
def test_the_objective_is_a_number_even_without_forgeries(
    case: str, pool: PhotoPool, judge: Synthesizer, tmp_path: Path
) -> None:
    config = ValidationConfig(synthetic=0)
    if case == "no forgery":
        none: dict[str, Any] = dict.fromkeys(asdict(Mix()), 0.0)
        judge = Synthesizer(pool, size=64, mix=Mix(**none | {"authentic": 1.0}))
        config = ValidationConfig(synthetic=3)
    elif case == "no tampered picture":
        clean = tmp_path / "only" / "authentic"
        clean.mkdir(parents=True)
        Image.new("RGB", (80, 64)).save(clean / "black.png")
        config = ValidationConfig(tmp_path / "only", synthetic=0)
    assert math.isfinite(validate(Constant(), judge, config, CPU)["objective"])


def test_batches_do_not_matter(judge: Synthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ValidationConfig(synthetic=9)
    whole = validate(Redness(), judge, config, CPU)
    monkeypatch.setattr("imlctl.train.validate._BATCH", 2)
    assert validate(Redness(), judge, config, CPU) == whole
