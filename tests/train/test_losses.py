from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.core.model import Prediction
from imlctl.train.objective import LossWeights, dice_loss, edge_band, localization_loss

NOTHING = LossWeights(levels=(0, 0, 0), dice=0, edge=0, consistency=0, score=0)


def scene(seed: int = 0) -> tuple[Prediction, Tensor]:
    """A random prediction of a batch of two, the first forged, the second authentic."""
    g = torch.Generator().manual_seed(seed)
    logits, middle, coarse = (torch.randn(2, 1, s, s, generator=g) for s in (64, 8, 4))
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, :, 10:40, 20:50] = 1
    leaves = [x.requires_grad_() for x in (logits, middle, coarse, torch.randn(2, generator=g))]
    return Prediction(leaves[0], (leaves[1], leaves[2]), leaves[3]), mask


def terms_of(weights: LossWeights) -> dict[str, float]:
    return {k: float(v) for k, v in localization_loss(*scene(), weights)[1].items()}


class TestLocalizationLoss:
    def test_what_was_padded_teaches_nothing(self) -> None:
        """Not the mask there, and no gradient but through the score, which sees all of it."""
        prediction, mask = scene()
        valid = torch.ones_like(mask)
        valid[..., 48:], valid[..., 56:, :] = 0, 0
        other = torch.where(valid > 0, mask, 1 - mask)
        weights = LossWeights(levels=(1.0, 0.5, 0.25), dice=1.0, edge=0.0, consistency=0.7)
        first, second = (
            localization_loss(prediction, m, weights, valid=valid)[0] for m in (mask, other)
        )
        assert first.item() == pytest.approx(second.item(), abs=1e-6)
        first.backward()
        for logits in (prediction.logits, *prediction.levels):
            here = F.adaptive_avg_pool2d(valid, logits.shape[-1])
            assert logits.grad is not None
            assert not logits.grad[here == 0].any()
            assert logits.grad[here > 0].all()
        cut = Prediction(prediction.logits[..., :56, :48], (), prediction.score_logits)
        alone = LossWeights(levels=(1.0,), consistency=0)
        found = localization_loss(cut, mask[..., :56, :48], alone)[1]
        padded = localization_loss(prediction, mask, alone, valid=valid)[1]
        for term in ("bce", "dice", "score"):
            torch.testing.assert_close(found[term], padded[term])

    def test_closed_form_of_every_term(self) -> None:
        prediction, mask = scene()
        weights = LossWeights(
            levels=(1.0, 0.5, 0.25), dice=0.3, edge=0.2, consistency=0.7, score=0.4
        )
        total, terms = localization_loss(prediction, mask, weights)
        prediction = Prediction(
            prediction.logits.detach(),
            tuple(x.detach() for x in prediction.levels),
            prediction.score_logits.detach(),
        )
        final = torch.sigmoid(prediction.logits)
        expected = {"bce": 0.0, "dice": 0.0, "consistency": 0.0}
        for weight, x in zip((1, 0.5, 0.25), (prediction.logits, *prediction.levels), strict=True):
            side = 64 // x.shape[-1]
            target = F.avg_pool2d(mask, side)
            p = torch.sigmoid(x)
            bce = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
            expected["bce"] += weight * float(bce)
            forged, truth = p[0], target[0]
            dice = 1 - 2 * (forged * truth).sum() / (forged.sum() + truth.sum())
            expected["dice"] += weight * 0.3 * float(dice)
            if side > 1:
                expected["consistency"] += (
                    weight * 0.7 * float((p - F.avg_pool2d(final, side)).square().mean())
                )
        band = edge_band(mask)
        near = F.binary_cross_entropy(final, mask, reduction="none")[band > 0].mean()
        expected["edge"] = 0.2 * float(near)
        score = F.binary_cross_entropy_with_logits(prediction.score_logits, torch.tensor([1.0, 0]))
        expected["score"] = 0.4 * float(score)
        assert set(terms) == set(expected)
        for name, value in expected.items():
            assert float(terms[name]) == pytest.approx(value, rel=1e-5), name
        assert total.item() == pytest.approx(sum(expected.values()), rel=1e-5)

    def test_perfect_prediction_costs_nothing(self) -> None:
        mask = torch.zeros(2, 1, 64, 64)
        mask[0, :, 16:48, 16:48] = 1  # on the grid of every level
        sure = [20 * (2 * F.avg_pool2d(mask, s) - 1) for s in (1, 8, 16)]
        prediction = Prediction(sure[0], (sure[1], sure[2]), torch.tensor([20.0, -20.0]))
        total, terms = localization_loss(prediction, mask)
        assert total.item() < 1e-5
        assert all(float(value) < 1e-5 for value in terms.values())

    @pytest.mark.parametrize(
        ("term", "weights"),
        [
            ("bce", replace(NOTHING, levels=(1.0, 1.0, 1.0))),
            ("edge", replace(NOTHING, edge=1.0)),
            ("score", replace(NOTHING, score=1.0)),
        ],
    )
    def test_weights_of_zero_switch_terms_off(self, term: str, weights: LossWeights) -> None:
        terms = terms_of(weights)
        assert {name for name, value in terms.items() if value} == {term}

    @pytest.mark.parametrize("term", ["dice", "consistency"])
    def test_level_terms_are_weighed_with_their_level(self, term: str) -> None:
        whole = terms_of(replace(NOTHING, levels=(1.0, 1.0, 1.0), **{term: 1.0}))
        half = terms_of(replace(NOTHING, levels=(0.5, 0.5, 0.5), **{term: 1.0}))
        assert whole[term] == pytest.approx(2 * half[term])
        assert whole[term] > 0

    @pytest.mark.parametrize(
        ("weights", "reached"),
        [
            (replace(NOTHING, levels=(1, 0, 0)), {"logits"}),
            (replace(NOTHING, levels=(0, 1, 0)), {"middle"}),
            (replace(NOTHING, levels=(0, 0, 1)), {"coarse"}),
            (replace(NOTHING, edge=1), {"logits"}),
            (replace(NOTHING, score=1), {"score"}),
            (LossWeights(), {"logits", "middle", "coarse", "score"}),
        ],
    )
    def test_gradient_reaches_what_a_term_is_about(
        self, weights: LossWeights, reached: set[str]
    ) -> None:
        prediction, mask = scene()
        localization_loss(prediction, mask, weights)[0].backward()  # type: ignore[no-untyped-call]
        leaves = {
            "logits": prediction.logits,
            "middle": prediction.levels[0],
            "coarse": prediction.levels[1],
            "score": prediction.score_logits,
        }
        got = {name for name, x in leaves.items() if x.grad is not None and bool(x.grad.any())}
        assert got == reached

    def test_consistency_pulls_the_levels_not_the_map(self) -> None:
        prediction, mask = scene()
        only = LossWeights(levels=(0.0, 1.0, 1.0), dice=0, edge=0, consistency=1.0, score=0)
        localization_loss(prediction, mask, only)[0].backward()  # type: ignore[no-untyped-call]
        assert prediction.logits.grad is None or not prediction.logits.grad.any()

    def test_reported_terms_hold_no_graph(self) -> None:
        total, terms = localization_loss(*scene())
        assert total.requires_grad
        assert not any(value.requires_grad for value in terms.values())

    def test_bfloat16_predictions_are_judged_in_float32(self) -> None:
        prediction, mask = scene()
        short = Prediction(
            prediction.logits,
            tuple(x.bfloat16() for x in prediction.levels),
            prediction.score_logits.bfloat16(),
        )
        total, _ = localization_loss(short, mask)
        assert total.dtype == torch.float32
        assert total.item() == pytest.approx(
            localization_loss(prediction, mask)[0].item(), rel=0.02
        )

    def test_extreme_logits_stay_finite(self) -> None:
        prediction, mask = scene()
        huge = Prediction(
            prediction.logits * 1e4,
            tuple(x * 1e4 for x in prediction.levels),
            prediction.score_logits * 1e4,
        )
        total, _ = localization_loss(huge, mask)
        total.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(total)

    @pytest.mark.parametrize("change", [{"dice": -1}, {"levels": (1.0, -0.5)}, {"score": -1e-9}])
    def test_refuses_negative_weights(self, change: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="must not be negative"):
            LossWeights(**change)


class TestDice:
    def test_of_a_perfect_prediction_is_nothing(self) -> None:
        mask = scene()[1][:1]
        assert float(dice_loss(40 * (mask - 0.5), mask)) < 1e-5

    def test_of_the_opposite_is_one(self) -> None:
        mask = scene()[1][:1]
        assert float(dice_loss(-40 * (mask - 0.5), mask)) == pytest.approx(1, abs=1e-5)

    def test_of_a_half(self) -> None:
        """Everything at 1/2 over a mask of share s: 1 - 2 * s/2 / (1/2 + s)."""
        mask = torch.zeros(1, 1, 10, 10)
        mask[..., :2] = 1
        expected = 1 - 0.2 / 0.7
        assert float(dice_loss(torch.zeros(1, 1, 10, 10), mask)) == pytest.approx(expected)

    def test_counts_forged_pictures_only(self) -> None:
        prediction, mask = scene()
        both = dice_loss(prediction.logits, mask)
        assert both.item() == pytest.approx(dice_loss(prediction.logits[:1], mask[:1]).item())
        assert dice_loss(prediction.logits[1:], mask[1:]).item() == 0
        assert math.isfinite(float(dice_loss(torch.full((1, 1, 4, 4), -1e4), mask[:1, :, :4, :4])))


class TestEdgeBand:
    @pytest.mark.parametrize("width", [3, 7])
    def test_against_brute_force(self, width: int) -> None:
        rng = np.random.default_rng(0)
        mask = rng.random((13, 17)) > 0.9
        reach = width // 2
        expected = np.zeros_like(mask)
        for y, x in np.ndindex(mask.shape):
            near = mask[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            expected[y, x] = near.any() and not near.all()
        band = edge_band(torch.from_numpy(mask[None, None].astype(np.float32)), width)
        assert band.shape == (1, 1, 13, 17)
        assert np.array_equal(band[0, 0].numpy(), expected)

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_masks_without_a_border_have_none(self, value: float) -> None:
        assert not edge_band(torch.full((1, 1, 16, 16), value)).any()

    def test_is_seven_pixels_wide(self) -> None:
        mask = torch.zeros(1, 1, 20, 20)
        mask[..., 10:] = 1
        assert edge_band(mask)[0, 0, 5].nonzero().flatten().tolist() == [7, 8, 9, 10, 11, 12]
