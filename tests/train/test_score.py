"""The two heads that learn on whole pictures: what they learn, and what they leave alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from imlctl.core.copies import MEASURES, Copy
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import SIZES
from imlctl.core.picture_score import PictureScore
from imlctl.core.reliability import CONDITIONS, Reliability
from imlctl.forge.photos import PhotoPool
from imlctl.inference import predict
from imlctl.train import score as module
from imlctl.train.score import (
    HeadConfig,
    authentic_samples,
    fit_copies,
    fit_heads,
    forgeries,
)

CPU = torch.device("cpu")
QUICK = HeadConfig(pictures=6)


def pool(count: int = 3, side: int = 160) -> PhotoPool:
    rng = np.random.default_rng(0)
    photos = tuple(rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count))
    return PhotoPool(tuple(f"some/{i}.png" for i in range(count)), photos, {}, {})


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> EfficientIML:
    monkeypatch.setattr(module, "_SIDES", (96, 128))
    torch.manual_seed(0)
    return EfficientIML(EfficientIMLConfig(SIZES["tiny"], width=16)).eval()


def test_heads_are_added_and_nothing_else_changes(model: EfficientIML) -> None:
    before = copy.deepcopy(model.state_dict())
    image = torch.randint(0, 256, (3, 100, 120), dtype=torch.uint8)
    unscored = predict(model, image, device=CPU)
    assert unscored.reliability is None
    fit_heads(model, pool(), device=CPU, config=QUICK)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"whole", "sight"}
    answer = predict(model, image, device=CPU)
    assert model.scored
    assert torch.equal(answer.probability, unscored.probability)
    assert answer.reliability is not None
    assert answer.reliability.shape == (100, 120)
    assert 0 < answer.score < 1
    rebuilt = EfficientIML(EfficientIMLConfig.from_dict(model.config.to_dict())).eval()
    rebuilt.load_state_dict(after)
    assert predict(rebuilt, image, device=CPU).score == answer.score


def test_the_same_photographs_give_the_same_heads(model: EfficientIML) -> None:
    other = copy.deepcopy(model)
    for each in (model, other):
        fit_heads(each, pool(), device=CPU, config=QUICK)
    states = model.state_dict(), other.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_score_is_the_logistic_regression_of_what_the_map_leaves_open() -> None:
    some = torch.Generator().manual_seed(0)
    head = PictureScore(4)
    rows = torch.randn(400, len(head.mean), generator=some)
    truth = (torch.rand(400, generator=some) < 0.5).float()
    rows[:, 3] += 3.0 * truth
    module._fit_score(head, rows[:300], [0.0] * 300, truth[:300].tolist(), 0.05)
    with torch.no_grad():
        said = head.judge(rows[300:])
        shown, tried = (head.standardized(each).numpy() for each in (rows[:300], rows[300:]))
    assert roc_auc_score(truth[300:], said) > 0.9
    reference = LogisticRegression(C=1 / (2 * 0.05 * 300), tol=1e-8, max_iter=1000)
    wanted = reference.fit(shown, truth[:300]).decision_function(tried)
    np.testing.assert_allclose(said, wanted, atol=1e-3)


def test_a_score_need_not_say_again_what_the_map_says() -> None:
    some = torch.Generator().manual_seed(0)
    head = PictureScore(4)
    rows = torch.randn(400, len(head.mean), generator=some)
    peaks = 3 * torch.randn(400, generator=some)
    truth = (torch.rand(400, generator=some) < torch.sigmoid(peaks)).float()
    module._fit_score(head, rows, peaks.tolist(), truth.tolist(), 0.1)
    with torch.no_grad():
        assert float(head.judge(rows).abs().mean()) < 0.3


def test_reliability_learns_where_edits_are_seen() -> None:
    some = torch.Generator().manual_seed(0)
    head = Reliability()
    described = torch.randn(2000, CONDITIONS, generator=some)
    chance = torch.sigmoid(2 * described[:, 2])  # edits show in texture, say
    seen = (torch.rand(2000, generator=some) < chance).float()
    module._fit(head, described, seen, torch.ones(2000))
    with torch.no_grad():
        believed = torch.sigmoid(head(described))
    assert float((believed - chance).abs().mean()) < 0.1


class TestCopies:
    @staticmethod
    def found(measures: float) -> Copy:
        region = torch.zeros(24, 24, dtype=torch.bool)
        region[2:10, 2:10] = True
        some = torch.rand(MEASURES, generator=torch.Generator().manual_seed(int(1e4 * measures)))
        return Copy(torch.eye(2, 3), region, measures + 0.1 * some)

    def test_those_made_are_told_from_those_there_by_nature(
        self, model: EfficientIML, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of what is found in photographs the measures are low, in forgeries they are high."""
        forged = iter([False] * 40 + [True] * 40)
        chance = np.random.default_rng(0)

        def find(grey: torch.Tensor) -> list[Copy]:
            del grey
            return [self.found(float(chance.uniform(0.7, 0.9) if next(forged) else 0.2))]

        monkeypatch.setattr(module, "find_copies", find)
        monkeypatch.setattr(module, "_covered", lambda region, mask: 0.9)
        fit_copies(model, pool(), device=CPU, config=HeadConfig(pictures=20))
        assert model.config.copies
        assert model.copied is not None
        with torch.no_grad():
            assert model.copied(self.found(0.8).measures) > 1
            assert model.copied(self.found(0.2).measures) < -1
        rebuilt = EfficientIML(EfficientIMLConfig.from_dict(model.config.to_dict()))
        rebuilt.load_state_dict(model.state_dict())

    def test_a_score_that_did_not_know_of_them_is_lost(self, model: EfficientIML) -> None:
        fit_heads(model, pool(), device=CPU, config=QUICK)
        fit_copies(model, pool(), device=CPU, config=QUICK)
        assert not model.scored
        assert model.reliability(torch.rand(1, 3, 64, 64)) is None

    def test_without_examples_none_are_looked_for(self, model: EfficientIML) -> None:
        before = set(model.state_dict())
        fit_copies(model, pool(), device=CPU, config=QUICK)
        assert not model.config.copies
        assert set(model.state_dict()) == before

    def test_a_region_is_covered_by_its_share(self) -> None:
        region = np.zeros((6, 8), bool)
        region[:2] = True
        mask = np.zeros((24, 32), bool)
        mask[:4] = True
        assert module._covered(region, mask) == pytest.approx(0.5)


def test_examples_are_what_they_are_called() -> None:
    forged = next(forgeries(pool()))
    assert forged.mask.any()
    for pixels in (forged.pixels, next(authentic_samples(pool()))):
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
