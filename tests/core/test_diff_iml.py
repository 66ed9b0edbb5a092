from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from imlctl.core.denoiser import DenoiserConfig
from imlctl.core.diff_iml import (
    ENCODERS,
    SIZES,
    ConditionEncoder,
    DiffIML,
    DiffIMLConfig,
    build_backbone,
    spot_score,
)
from imlctl.core.light_vae import LightVAEConfig
from imlctl.core.sampler import ddim, member_noise, respaced

TINY = DiffIMLConfig(
    "efficient-rwkv-tiny",
    DenoiserConfig(channels=32, blocks=1, condition=16),
    LightVAEConfig(widths=(4, 4, 8), hidden=8, fine=4, blocks=0),
)


@pytest.fixture(scope="module")
def model() -> DiffIML:
    torch.manual_seed(0)
    return DiffIML(TINY).eval()


def image(height: int = 96, width: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def noise(model: DiffIML, members: int = 3, height: int = 96, width: int = 64) -> Tensor:
    return member_noise(0, b"picture", members, model.noise_shape(height, width))


class TestSampling:
    def test_encoder_runs_once_and_denoiser_once_a_step_for_all_members(
        self, model: DiffIML
    ) -> None:
        seen: dict[str, list[int]] = {"encoder": [], "denoiser": [], "decoder": []}

        def count(name: str) -> Any:
            return lambda _, inputs, __: seen[name].append(len(inputs[0]))

        parts = {
            "encoder": model.encoder,
            "denoiser": model.denoiser,
            "decoder": model.vae.decoder,
        }
        hooks = [part.register_forward_hook(count(name)) for name, part in parts.items()]
        with torch.no_grad():
            model(image(), None, noise(model, 5), 8)
        for hook in hooks:
            hook.remove()
        assert seen == {"encoder": [1], "denoiser": [5] * 8, "decoder": [1]}

    @torch.no_grad()
    def test_is_algorithm_2_done_one_member_after_the_other(self, model: DiffIML) -> None:
        z = noise(model, 3)
        got = model(image(), None, z, 4).logits
        prepared = model.condition(image())
        latents = [
            ddim(
                lambda z, t: model.denoiser(z, t, prepared),
                member[None],
                respaced(4),
                model.bars,
            )
            for member in z
        ]
        mean = torch.stack(latents).mean(0)[:, :4]
        expected = model.vae.decode(mean)
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)

    @torch.no_grad()
    def test_same_noise_same_map_other_noise_another(self, model: DiffIML) -> None:
        first = model(image(), None, noise(model), 2).logits
        assert torch.equal(first, model(image(), None, noise(model), 2).logits)
        other = member_noise(1, b"picture", 3, model.noise_shape(96, 64))
        assert not torch.equal(first, model(image(), None, other, 2).logits)

    @torch.no_grad()
    @pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160), (224, 64)])
    def test_any_size(self, model: DiffIML, height: int, width: int) -> None:
        z = noise(model, 2, height, width)
        prediction = model(image(height, width), None, z, 2)
        assert prediction.logits.shape == (1, 1, height, width)
        assert prediction.logits.dtype == torch.float32
        assert prediction.score_logits.shape == (1,)

    @pytest.mark.parametrize(("height", "width"), [(100, 64), (64, 33), (32, 64)])
    def test_sizes_that_do_not_fit(self, model: DiffIML, height: int, width: int) -> None:
        with pytest.raises(ValueError, match=f"not {height}x{width}"):
            model.condition(image(height, width))

    @torch.no_grad()
    def test_fused_is_the_same(self) -> None:
        torch.manual_seed(0)
        model = DiffIML(TINY)
        model.train()
        for seed in range(2):  # move the norms' statistics
            model.condition(image(seed=seed))
            model.vae.decode(model.vae.encode(torch.randn(4, 1, 32, 32)))
        model.eval()
        before = model(image(), None, noise(model), 3).logits
        after = model.fuse()(image(), None, noise(model), 3).logits
        torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


class TestPaper:
    def test_size_and_cost_of_the_paper(self) -> None:
        """48.5 M; 53.0 G at N = 1 and 102.4 G at N = 5, counting one call for each member."""
        with torch.device("meta"):
            model = DiffIML(SIZES["diffiml-mit-b3"])
            picture, z = torch.zeros(1, 3, 512, 512), torch.zeros(1, 8, 64, 64)
            step = torch.zeros(1, dtype=torch.int64)
        model.eval()
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        assert millions == pytest.approx(48.51, rel=0.02)

        def giga(call: Any) -> tuple[float, Any]:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                result = call()
            return counter.get_total_flops() / 2e9, result

        encode, condition = giga(lambda: model.encoder(picture))
        prepare, prepared = giga(lambda: model.denoiser.prepare(condition))
        call, latents = giga(lambda: model.denoiser(z, step, prepared))
        decode, _ = giga(lambda: model.vae.decode(latents[:, :4]))
        attention = 4.3  # of the denoiser; the paper's counter did not see it
        one = encode + prepare + call + decode
        for members, published in ((1, 53.01), (5, 102.36)):
            counted = encode + decode + members * (prepare + min(call, one - encode))
            counted -= members * (attention if call > 13 else 0)
            assert counted == pytest.approx(published, rel=0.03)

    def test_switches_of_the_ablations_are_settings(self) -> None:
        assert {"mit-b2", "mit-b3", "mit-b4", "resnet50", "resnet101"} <= set(ENCODERS)


def widths(encoder: ConditionEncoder) -> list[int]:
    return [int(level.weight.shape[1]) for level in encoder.levels]  # type: ignore[union-attr,operator,unused-ignore]


def even_folds(resized: ConditionEncoder, folded: ConditionEncoder) -> dict[str, Tensor]:
    """Weights with which folding is taking the mean."""
    return {
        f"levels.{i}.weight": resized.state_dict()[f"levels.{i}.weight"].repeat_interleave(n * n, 1)
        / n**2
        for i, n in enumerate(folded.folds)
    }


class TestEncoders:
    @torch.no_grad()
    @pytest.mark.parametrize(
        "name", ["efficient-iml-tiny", "efficient-rwkv-tiny", "mit-b0", "resnet50"]
    )
    @pytest.mark.parametrize(("height", "width"), [(64, 96), (128, 64)])
    def test_condition_has_the_size_of_the_latents(
        self, name: str, height: int, width: int
    ) -> None:
        encoder = ConditionEncoder(name, 8, 8).eval()
        assert encoder(image(height, width)).shape == (1, 8, height // 8, width // 8)

    def test_public_backbones_see_imagenet_s_normalisation(self) -> None:
        backbone = build_backbone("resnet50").module
        seen: list[Tensor] = []
        backbone.backbone.register_forward_pre_hook(lambda _, x: seen.append(x[0]))  # type: ignore[union-attr,operator,unused-ignore]
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
        with torch.no_grad():
            backbone.eval()(mean)
        torch.testing.assert_close(seen[0], torch.zeros(1, 3, 64, 64))

    @torch.no_grad()
    def test_every_level_reaches_the_condition(self) -> None:
        torch.manual_seed(0)
        encoder = ConditionEncoder("efficient-rwkv-tiny", 8, 16).eval()
        base = encoder(image())
        for level in encoder.levels:
            kept = level.weight.clone()  # type: ignore[union-attr,operator]
            level.weight.zero_()  # type: ignore[union-attr,operator]
            assert not torch.allclose(encoder(image()), base)
            level.weight.copy_(kept)  # type: ignore[union-attr,operator]

    @torch.no_grad()
    @pytest.mark.parametrize("name", ["efficient-iml-tiny", "mit-b0"])
    def test_folded_levels_can_say_all_that_resized_ones_can(self, name: str) -> None:
        """A fold weighted evenly is the mean that halving takes; MiT's first needs a quarter."""
        torch.manual_seed(0)
        resized = ConditionEncoder(name, 8, 16).eval()
        folded = ConditionEncoder(name, 8, 16, fold=True).eval()
        folded.load_state_dict(resized.state_dict() | even_folds(resized, folded))
        assert folded.folds == ((2, 1, 1) if "iml" in name else (4, 2, 1, 1))
        features = [
            torch.randn(1, c, 8 * f, 8 * f)
            for c, f in zip(widths(resized), folded.folds, strict=True)
        ]
        halved = [
            nn.functional.avg_pool2d(x, f) for x, f in zip(features, folded.folds, strict=True)
        ]
        for encoder, levels in ((resized, halved), (folded, features)):
            encoder.backbone.forward = lambda *_, kept=levels: kept  # type: ignore[method-assign]
        flat = image(128, 128)
        torch.testing.assert_close(folded(flat), resized(flat))


class TestConfig:
    @pytest.mark.parametrize("name", list(SIZES))
    def test_survives_json(self, name: str) -> None:
        config = SIZES[name]
        assert DiffIMLConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"encoder": "vgg"}, "unknown encoder"),
            ({"denoiser": DenoiserConfig(latents=4)}, "two maps"),
            ({"spacing": "odd"}, "unknown spacing"),
        ],
    )
    def test_refuses_nonsense(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            DiffIMLConfig(**change)

    def test_refuses_tables_that_are_none(self) -> None:
        with pytest.raises(TypeError, match="denoiser must be a table"):
            DiffIMLConfig.from_dict({"denoiser": 3})


def test_score_is_the_strongest_spot() -> None:
    logits = torch.full((2, 1, 96, 96), -4.0)
    logits[0, 0, 5, 5] = 9.0  # a lone pixel
    logits[1, 0, 32:64, 32:64] = 3.0
    lone, spot = torch.sigmoid(spot_score(logits))
    assert lone < 0.05
    assert spot == pytest.approx(torch.sigmoid(torch.tensor(3.0)).item(), abs=1e-3)
