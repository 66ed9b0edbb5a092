"""Losses on features: against slow loops, and by what they pull together and push apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from imlctl.core.condition import IMAGENET_MEAN, IMAGENET_SPREAD
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import SIZES
from imlctl.errors import WeightsError
from imlctl.train.config import DataConfig, OptimConfig, TrainConfig
from imlctl.train.losses import LossWeights
from imlctl.train.objective import make_objective
from imlctl.train.relations import (
    FeaturesConfig,
    alike,
    feature_loss,
    history_loss,
    load_network,
)


def left_half(batch: int = 1, side: int = 32) -> torch.Tensor:
    """Masks of pictures whose left half is forged."""
    mask = torch.zeros(batch, 1, side, side)
    mask[..., : side // 2] = 1
    return mask


class TestAlike:
    @pytest.mark.parametrize("centred", [False, True])
    def test_equals_a_loop_over_pairs(self, centred: bool) -> None:
        features = torch.randn(2, 5, 3, 4, dtype=torch.float64)
        found = alike(features, centred=centred)
        assert found.shape == (2, 12, 12)
        for b in range(2):
            tokens = features[b].flatten(1).numpy().T
            if centred:
                tokens = tokens - tokens.mean(0)
            for i in range(12):
                for j in range(12):
                    x, y = tokens[i], tokens[j]
                    cosine = x @ y / (np.linalg.norm(x) * np.linalg.norm(y))
                    assert float(found[b, i, j]) == pytest.approx(cosine, abs=1e-5)


class TestHistoryLoss:
    def test_is_zero_for_features_that_say_the_mask(self) -> None:
        mask = left_half()
        features = torch.cat([mask, 1 - mask], 1)[..., ::8, ::8] * 3.0
        assert float(history_loss(features, mask)) == pytest.approx(0, abs=1e-9)

    def test_is_one_for_features_that_are_equal_everywhere(self) -> None:
        assert float(history_loss(torch.ones(1, 4, 4, 4), left_half())) == pytest.approx(1)

    def test_is_one_for_features_with_nothing_in_common_of_a_picture_without_forgery(self) -> None:
        features = torch.eye(16).view(1, 16, 4, 4)  # only a place with itself is alike: 1 in 16
        found = history_loss(features, torch.zeros(1, 1, 32, 32))
        assert float(found) == pytest.approx(15 / 16)

    def test_weighs_a_small_forgery_like_a_large_one(self) -> None:
        small = torch.zeros(1, 1, 32, 32)
        small[..., :8, :8] = 1
        equal = torch.ones(1, 4, 4, 4)
        assert float(history_loss(equal, small)) == pytest.approx(
            float(history_loss(equal, left_half()))
        )

    def test_descending_it_tells_the_regions_apart(self) -> None:
        torch.manual_seed(0)
        raw = torch.rand(1, 8, 4, 4, requires_grad=True)
        mask = left_half()
        optimizer = torch.optim.Adam([raw], 0.2)
        for _ in range(300):
            optimizer.zero_grad()
            history_loss(F.softplus(raw), mask).backward()
            optimizer.step()
        likeness = alike(F.softplus(raw).detach(), centred=False)[0]
        forged = F.adaptive_avg_pool2d(mask, 4).flatten() > 0.5
        assert float(likeness[forged][:, forged].min()) > 0.9
        assert float(likeness[forged][:, ~forged].max()) < 0.1


class TestFeatureLoss:
    def test_is_blind_to_turning_scaling_and_shifting_the_features(self) -> None:
        ours = torch.randn(2, 6, 4, 4)
        turn, _ = torch.linalg.qr(torch.randn(6, 6))
        theirs = torch.einsum("oc,bchw->bohw", turn, ours) * 7 + 3
        assert float(feature_loss(ours, theirs)) == pytest.approx(0, abs=1e-9)

    def test_pools_a_finer_map_to_ours(self) -> None:
        ours = torch.randn(1, 6, 4, 4)
        finer = F.interpolate(ours, scale_factor=2, mode="nearest")
        assert float(feature_loss(ours, finer)) == pytest.approx(0, abs=1e-9)
        assert float(feature_loss(ours, torch.randn(1, 6, 8, 8))) > 0.01


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Features of 16x16 cells: 8 channels of a random convolution."""
    weight = np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=[16, 16])],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path = tmp_path / "network.onnx"
    onnx.save(model, path)
    return path


class TestNetwork:
    def test_sees_pictures_normalised_as_those_of_imagenet(self, network: Path) -> None:
        grey = torch.tensor(IMAGENET_MEAN)[:, None, None].expand(1, 3, 32, 32)
        assert float(load_network(network)(grey).abs().max()) < 1e-5
        one = grey + torch.tensor(IMAGENET_SPREAD)[:, None, None]
        (weight,) = onnx.load(network).graph.initializer
        expected = numpy_helper.to_array(weight).sum((1, 2, 3))
        assert np.allclose(load_network(network)(one)[0, :, 0, 0], expected, atol=1e-3)

    def test_a_file_that_is_none_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "broken.onnx"
        path.write_bytes(b"no network")
        with pytest.raises(WeightsError, match=r"broken\.onnx.*pictures \(B, 3, H, W\)"):
            load_network(path)

    def test_a_negative_weight_is_refused(self) -> None:
        with pytest.raises(ValueError, match="weight"):
            FeaturesConfig(Path("x.onnx"), weight=-1)


class TestInTraining:
    def test_both_losses_are_terms_and_reach_the_backbone(self, network: Path) -> None:
        config = TrainConfig(
            data=DataConfig((Path("photos"),)),
            model=EfficientIMLConfig(backbone=SIZES["tiny"], width=16),
            loss=LossWeights(histories=0.5),
            optim=OptimConfig(precision="float32"),
            features=FeaturesConfig(network, 2.0),
        )
        objective = make_objective(config)
        model = objective.build()
        assert isinstance(model, EfficientIML)
        image, mask = torch.rand(2, 3, 64, 64), left_half(2, 64)
        total, terms = objective.loss(model, image, mask, 0)
        assert {"histories", "features"} <= set(terms)
        assert float(total.detach()) == pytest.approx(float(sum(terms.values())), rel=1e-5)
        with torch.no_grad():
            features = model.eval()(image).features
            plain = feature_loss(features[-1], load_network(network)(image))
            by_hand = history_loss(features[1], mask)
        _, terms = objective.loss(model, image, mask, 0)
        assert float(terms["features"]) == pytest.approx(2 * float(plain), rel=1e-4)
        assert float(terms["histories"]) == pytest.approx(0.5 * float(by_hand), rel=1e-4)

    def test_their_gradients_reach_the_backbone(self, network: Path) -> None:
        model = EfficientIML(EfficientIMLConfig(backbone=SIZES["tiny"], width=16))
        image = torch.rand(2, 3, 64, 64)
        features = model(image).features
        for loss in (
            history_loss(features[1], left_half(2, 64)),
            feature_loss(features[-1], load_network(network)(image)),
        ):
            model.zero_grad()
            loss.backward(retain_graph=True)
            first = next(p for p in model.backbone.parameters() if p.ndim == 4)
            assert first.grad is not None
            assert bool(first.grad.any())
