"""DiffIML's objective; that of EfficientIML is tested with the loop."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from imlctl.core.diff_iml import ENCODERS, DiffIML, build_backbone
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig, TopDown
from imlctl.core.efficient_rwkv import SIZES
from imlctl.core.efficientnet import EfficientNetLite
from imlctl.core.light_vae import LightVAE, LightVAEConfig
from imlctl.errors import ConfigError
from imlctl.forge.shapes import edge_map
from imlctl.resources import find_preset
from imlctl.train.batches import Batch
from imlctl.train.config import (
    DataConfig,
    DiffusionConfig,
    OptimConfig,
    TrainConfig,
    ValidationConfig,
    load_config,
)
from imlctl.train.loop import make_optimizer, train
from imlctl.train.objective import Latents, Masks, localization_loss, make_objective, train_mode
from imlctl.weights.load import Card, load, open_weights, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imlctl.core.imagenet import ImageNetInput

CPU = torch.device("cpu")
VAE = LightVAEConfig(widths=(4, 4, 8), hidden=8, fine=4, blocks=0)
BACKBONE = EfficientIMLConfig(backbone=SIZES["tiny"], width=16)


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    path = tmp_path / "vae.safetensors"
    save(path, LightVAE(VAE), Card("light-vae", VAE.to_dict()), half=False)
    return path


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    torch.manual_seed(8)
    path = tmp_path / "efficient.safetensors"
    model = EfficientIML(BACKBONE)
    save(path, model, Card("efficient-iml", BACKBONE.to_dict()), half=False)
    return path


@pytest.fixture
def config(save_photos: Callable[..., Path], vae: Path) -> TrainConfig:
    return TrainConfig(
        DataConfig((save_photos(8),), validation_share=0.5, workers=0),
        optim=OptimConfig(steps=2, batch=2, size=64, warmup=1, precision="float32"),
        validation=ValidationConfig(every=1, synthetic=2),
        diffusion=DiffusionConfig(vae, encoder="efficient-rwkv-tiny", draws=2),
    )


def objective(config: TrainConfig, **changes: Any) -> Latents:
    diffusion = replace(cast("DiffusionConfig", config.diffusion), **changes)
    return cast("Latents", make_objective(replace(config, diffusion=diffusion)))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, 0, 16:40, 8:48] = 1
    return torch.rand(2, 3, 64, 64, generator=rng), mask


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("fold", [False, True])
def test_the_model_is_as_the_table_says(config: TrainConfig, spacing: str, fold: bool) -> None:
    model = objective(config, spacing=spacing, fold=fold).build()
    assert model.config.spacing == spacing
    assert max(model.encoder.folds) == (2 if fold else 1)  # an eighth becomes a sixteenth


def test_the_table_decides(config: TrainConfig) -> None:
    assert isinstance(make_objective(config), Latents)
    assert isinstance(make_objective(replace(config, diffusion=None)), Masks)


class TestLoss:
    def test_is_equations_8_to_10_and_15_written_out(self, config: TrainConfig) -> None:
        this = objective(config, prior=0.3, mask_weight=0.2, edges="band")
        model = this.build().eval()
        image, mask = batch()
        got, terms = this.loss(model, Batch(image, mask, torch.ones_like(mask)), step=5)

        edges = np.stack([edge_map(m > 0.5, "band") for m in mask[:, 0].numpy()])[:, None]
        bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
        seed = np.random.SeedSequence((config.optim.seed, 5)).generate_state(1)[0]
        rng = torch.Generator().manual_seed(int(seed))
        steps = (torch.rand(4, generator=rng, dtype=torch.float64) * 1000).long()
        with torch.no_grad():
            maps = (mask * 2 - 1, torch.from_numpy(edges).float() * 2 - 1)
            clean = torch.cat([model.vae.encode(m) for m in maps], 1)  # (2, 8, 8, 8)
            clean = torch.stack((clean[0], clean[0], clean[1], clean[1]))
            noise, xi = (torch.randn(clean.shape, generator=rng) for _ in range(2))
            losses = []
            for row, t in enumerate(steps.tolist()):
                z = bars[t] ** 0.5 * (clean[row] + 0.3 * xi[row])
                z = (z + (1 - bars[t]) ** 0.5 * noise[row]).float()[None]
                condition = model.condition(image[row // 2][None])
                guess = model.denoiser(z, torch.tensor([t]), condition)[0]
                apart = (guess - clean[row]) ** 2
                losses.append((apart[:4].mean(), apart[4:].mean()))
        of_mask, of_edge = torch.tensor(losses).mean(0)
        assert terms["mask"].item() == pytest.approx(of_mask.item(), rel=1e-4)
        assert terms["edge"].item() == pytest.approx(of_edge.item(), rel=1e-4)
        assert got.item() == pytest.approx((0.2 * of_mask + 0.8 * of_edge).item(), rel=1e-4)

    def test_trains_an_encoder_s_own_heads_as_well(self, config: TrainConfig) -> None:
        alone = objective(config, encoder="efficient-iml-tiny")
        joint = objective(config, encoder="efficient-iml-tiny", auxiliary=0.5)
        model, both = alone.build().eval(), joint.build().eval()
        both.load_state_dict(
            model.state_dict()
            | {  # heads are all that it has besides
                k: v for k, v in both.state_dict().items() if k not in model.state_dict()
            }
        )
        image, mask = batch()
        given = Batch(image, mask, torch.ones_like(mask))
        denoising, _ = alone.loss(model, given, step=5)
        total, terms = joint.loss(both, given, step=5)
        encoder = cast("EfficientIML", both.encoder.backbone)
        pixels, _ = localization_loss(encoder(image), mask, config.loss)
        assert terms["auxiliary"].item() == pytest.approx(0.5 * pixels.item(), rel=1e-5)
        assert total.item() == pytest.approx((denoising + 0.5 * pixels).item(), rel=1e-5)
        total.backward()
        assert all(p.grad is not None for p in encoder.head.parameters())
        denoised = both(image, noise=torch.zeros(2, 8, 8, 8), steps=1).logits
        assert torch.equal(denoised, model(image, noise=torch.zeros(2, 8, 8, 8), steps=1).logits)

    def test_without_edges_only_the_mask_counts(self, config: TrainConfig) -> None:
        this = objective(config, edges="none")
        image, mask = batch()
        whole = Batch(image, mask, torch.ones_like(mask))
        loss, terms = this.loss(this.build().eval(), whole, step=0)
        assert loss.item() == pytest.approx(terms["mask"].item())

    def test_bias_draws_noisier_steps(self, config: TrainConfig) -> None:
        clean = torch.zeros(4000, 8, 1, 1)
        for bias, mean in ((1.0, 500), (2.0, 667)):
            this = objective(config, noise_bias=bias)
            _, t = this.noisy(this.build(), clean, 0)
            assert t.double().mean().item() == pytest.approx(mean, abs=15)
            assert 0 <= t.min() <= t.max() <= 999

    def test_draws_follow_step_and_seed_alone(self, config: TrainConfig) -> None:
        this = objective(config)
        model, clean = this.build(), torch.zeros(4, 8, 8, 8)
        first, t = this.noisy(model, clean, 3)
        torch.manual_seed(99)
        again, same = this.noisy(model, clean, 3)
        assert torch.equal(first, again)
        assert torch.equal(t, same)
        assert not torch.equal(first, this.noisy(model, clean, 4)[0])
        other = objective(replace(config, optim=replace(config.optim, seed=1)))
        assert not torch.equal(first, other.noisy(model, clean, 3)[0])


class TestBuild:
    def test_starts_from_an_efficient_iml(self, config: TrainConfig, backbone: Path) -> None:
        model = objective(replace(config, init=backbone)).build()
        source = cast("EfficientIML", load(backbone).model)
        ours = model.encoder.backbone.state_dict()
        for name, value in source.backbone.state_dict().items():
            assert torch.equal(ours[name], value), name

    def test_starts_from_all_of_an_efficient_iml_but_its_heads(
        self, config: TrainConfig, tmp_path: Path
    ) -> None:
        torch.manual_seed(8)
        source = EfficientIML(EfficientIMLConfig(backbone=SIZES["tiny"]))
        path = tmp_path / "whole.safetensors"
        save(path, source, Card("efficient-iml", source.config.to_dict()), half=False)
        this = objective(replace(config, init=path), encoder="efficient-iml-tiny")
        inside = this.build().encoder.backbone.eval()
        image = batch()[0]
        with torch.no_grad():
            for ours, theirs in zip(
                inside(image), TopDown.forward(source.eval(), image), strict=True
            ):
                torch.testing.assert_close(ours, theirs)

    def test_starts_from_all_of_an_efficient_iml(self, config: TrainConfig, tmp_path: Path) -> None:
        torch.manual_seed(8)
        source = EfficientIML(EfficientIMLConfig(backbone=SIZES["tiny"])).eval()
        path = tmp_path / "whole.safetensors"
        save(path, source, Card("efficient-iml", source.config.to_dict()), half=False)
        this = objective(replace(config, init=path), encoder="efficient-iml-tiny", auxiliary=1.0)
        inside = this.build().encoder.backbone.eval()
        image = batch()[0]
        with torch.no_grad():
            assert torch.equal(inside(image).logits, source(image).logits)

    @pytest.mark.parametrize("auxiliary", [0.0, 1.0])
    def test_a_clue_that_the_encoder_does_not_have_is_not_left_out_in_silence(
        self, auxiliary: float, config: TrainConfig, tmp_path: Path
    ) -> None:
        seeing = EfficientIMLConfig(backbone=replace(SIZES["tiny"], history=True))
        path = tmp_path / "seeing.safetensors"
        save(path, EfficientIML(seeing), Card("efficient-iml", seeing.to_dict()))
        this = replace(config, init=path)
        with pytest.raises(ConfigError, match="does not fit a DiffIML with encoder"):
            objective(this, encoder="efficient-iml-tiny", auxiliary=auxiliary).build()

    def test_holds_the_vae_as_it_was(self, config: TrainConfig, vae: Path) -> None:
        model = objective(config).build()
        for name, value in load_file(vae).items():
            assert torch.equal(model.vae.state_dict()[name], value), name

    def test_a_vae_that_is_none(self, config: TrainConfig, backbone: Path) -> None:
        with pytest.raises(ConfigError, match="is not a LightVAE"):
            objective(config, vae=backbone).build()

    def test_weights_that_do_not_fit(self, config: TrainConfig, backbone: Path) -> None:
        with pytest.raises(ConfigError, match="does not fit a DiffIML with encoder 'mit-b0'"):
            objective(replace(config, init=backbone), encoder="mit-b0").build()

    @pytest.mark.parametrize("encoder", ["mit-b0", "resnet50"])
    def test_starts_from_public_weights(
        self, encoder: str, config: TrainConfig, tmp_path: Path
    ) -> None:
        torch.manual_seed(3)
        wrapped = build_backbone(encoder).module
        prefix, head = ("segformer.encoder.", "classifier.") if "mit" in encoder else ("", "fc.")
        inner = cast("ImageNetInput", wrapped).backbone
        public = {prefix + name: value for name, value in inner.state_dict().items()}
        public |= {head + "weight": torch.zeros(1000, 3), head + "bias": torch.zeros(1000)}
        path = tmp_path / "public.safetensors"
        save_file(public, path)
        model = objective(config, encoder=encoder, backbone=path).build()
        for name, value in model.encoder.backbone.backbone.state_dict().items():  # type: ignore[union-attr,operator,unused-ignore]
            assert torch.equal(value, inner.state_dict()[name]), name

    @pytest.mark.parametrize("encoder", ["mit-b0", "efficient-rwkv-tiny"])
    def test_public_weights_that_do_not_fit(
        self, encoder: str, config: TrainConfig, tmp_path: Path
    ) -> None:
        path = tmp_path / "public.safetensors"
        save_file({"fc.weight": torch.zeros(3)}, path)
        with pytest.raises(ConfigError, match=f"does not fit a DiffIML with encoder '{encoder}'"):
            objective(config, encoder=encoder, backbone=path).build()

    def test_public_weights_that_are_a_pickle(self, config: TrainConfig, tmp_path: Path) -> None:
        path = tmp_path / "public.bin"
        path.write_bytes(b"\x80\x02}")
        with pytest.raises(ConfigError, match=r"cannot be read as safetensors.*weights convert"):
            objective(config, encoder="mit-b0", backbone=path).build()

    def test_a_frozen_backbone_neither_learns_nor_counts(self, config: TrainConfig) -> None:
        this = objective(config, encoder_rate=0.0)
        model = this.build()
        train_mode(model)
        assert not model.encoder.backbone.training
        assert not model.vae.training
        assert model.denoiser.training
        learning = {n for n, p in model.named_parameters() if p.requires_grad}
        assert not any(n.startswith(("encoder.backbone.", "vae.")) for n in learning)
        in_optimizer = [
            p
            for group in make_optimizer(model, config.optim, this.rates).param_groups
            for p in group["params"]
        ]
        assert len(in_optimizer) == len(learning)

    def test_the_backbone_has_its_own_rate(self, config: TrainConfig) -> None:
        this = objective(config, encoder_rate=0.25)
        model = this.build()
        factors = {
            id(p): group["factor"]
            for group in make_optimizer(model, config.optim, this.rates).param_groups
            for p in group["params"]
        }
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                expected = 0.25 if name.startswith("encoder.backbone.") else 1.0
                assert factors[id(parameter)] == expected, name


class TestRun:
    def test_trains_and_is_ready_for_use(
        self, config: TrainConfig, tmp_path: Path, vae: Path
    ) -> None:
        loaded = load(train(config, tmp_path / "run", device=CPU))
        assert isinstance(loaded.model, DiffIML)
        assert loaded.card.architecture == "diff-iml"
        state = load_file(tmp_path / "run" / "last.safetensors")
        for name, value in load_file(vae).items():  # frozen, its norms' statistics too
            assert torch.equal(state[f"model.vae.{name}"], value), name

    def test_goes_on_bit_for_bit(self, config: TrainConfig, tmp_path: Path) -> None:
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        train(config, whole, device=CPU)

        def interrupt(event: dict[str, Any]) -> None:
            if event["event"] == "step" and event["step"] == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(config, broken, device=CPU, report=interrupt)
        train(config, broken, device=CPU)
        first, second = (load_file(folder / "last.safetensors") for folder in (whole, broken))
        for key, value in first.items():
            assert torch.equal(value, second[key]), key


class TestConfig:
    def test_table(self, tmp_path: Path) -> None:
        path = tmp_path / "d.toml"
        path.write_text(
            '[data]\nphotos = ["p"]\n[diffusion]\nvae = "v.safetensors"\nencoder = "mit-b2"\n'
            'prior = 0\nedges = "band"\n'
        )
        diffusion = load_config(path).diffusion
        assert diffusion is not None
        assert (diffusion.encoder, diffusion.prior, diffusion.edges) == ("mit-b2", 0.0, "band")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"encoder": "vgg"}, f"unknown encoder 'vgg'; known: {ENCODERS[0]}"),
            ({"denoiser": "huge"}, "unknown denoiser"),
            ({"prior": -0.1}, "must not be negative"),
            ({"mask_weight": 1.5}, "mask_weight must lie"),
            ({"encoder_rate": -1.0}, "must not be negative"),
            ({"auxiliary": 1.0, "encoder": "mit-b0"}, "needs an encoder efficient-iml"),
            ({"auxiliary": 1.0, "encoder_rate": 0.0}, "needs an encoder_rate above 0"),
            ({"draws": 0}, "draws must be at least 1"),
            ({"noise_bias": 0.0}, "noise_bias above 0"),
        ],
    )
    def test_refuses(self, change: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            DiffusionConfig(tmp_path / "v", **change)


class TestSemantics:
    SHAPE = EfficientIMLConfig(backbone=replace(SIZES["tiny"], semantics=True), width=16)

    @staticmethod
    def public(tmp_path: Path) -> tuple[Path, EfficientNetLite]:
        """EfficientNet-Lite0 in the layout of its package, from ours by the names of its parts."""
        torch.manual_seed(5)
        network = EfficientNetLite()
        for buffer in network.buffers():
            if buffer.is_floating_point():
                torch.nn.init.uniform_(buffer, 0.5, 1.5)
        norms = {"widen": "_bn0", "around": "_bn1", "narrow": "_bn2"}
        convs = {"widen": "_expand_conv", "around": "_depthwise_conv", "narrow": "_project_conv"}
        tensors = {}
        for name, value in network.state_dict().items():
            *at, part, of, kind = name.split(".")
            if not at:
                theirs = "_conv_stem" if of == "conv" else "_bn0"
            else:
                theirs = f"_blocks.{at[1]}.{(convs if of == 'conv' else norms)[part]}"
            tensors[f"{theirs}.{kind}"] = value
        path = tmp_path / "lite0.safetensors"
        save_file(tensors | {"_fc.bias": torch.zeros(1000)}, path)
        return path, network

    def test_are_added_to_weights_without(
        self, config: TrainConfig, backbone: Path, tmp_path: Path
    ) -> None:
        path, network = self.public(tmp_path)
        config = replace(config, model=self.SHAPE, diffusion=None, init=backbone, semantics=path)
        model = cast("EfficientIML", make_objective(config).build()).eval()
        assert model.backbone.semantics is not None
        for name, value in model.backbone.semantics.network.state_dict().items():
            assert torch.equal(value, network.state_dict()[name]), name
        source = cast("EfficientIML", load(backbone).model).eval()
        image = batch()[0]
        with torch.no_grad():  # what reads them has to learn to speak first
            torch.testing.assert_close(model(image).logits, source(image).logits)

    def test_come_with_weights_that_have_them(self, config: TrainConfig, tmp_path: Path) -> None:
        torch.manual_seed(6)
        source = EfficientIML(self.SHAPE)
        path = tmp_path / "whole.safetensors"
        save(path, source, Card("efficient-iml", self.SHAPE.to_dict()), half=False)
        config = replace(config, model=self.SHAPE, diffusion=None, init=path)
        built = make_objective(config).build().state_dict()
        assert all(torch.equal(v, built[k]) for k, v in source.state_dict().items())

    def test_without_a_file_are_those_of_the_bundled_weights(
        self, config: TrainConfig, backbone: Path
    ) -> None:
        config = replace(config, model=self.SHAPE, diffusion=None)
        bundled = open_weights("efficientiml").model.state_dict()
        for init in (None, backbone):
            built = make_objective(replace(config, init=init)).build().state_dict()
            names = [k for k in built if k.startswith("backbone.semantics.network.")]
            assert len(names) > 50
            assert all(torch.equal(built[name], bundled[name]) for name in names)

    def test_of_another_network_are_refused(self, config: TrainConfig, tmp_path: Path) -> None:
        path = tmp_path / "other.safetensors"
        save_file({"fc.weight": torch.zeros(3)}, path)
        config = replace(config, model=self.SHAPE, diffusion=None, semantics=path)
        with pytest.raises(ConfigError, match=r"other.safetensors.*is not EfficientNet-Lite0"):
            make_objective(config).build()

    def test_stay_frozen_in_a_diff_iml_whose_encoder_learns(
        self, config: TrainConfig, tmp_path: Path
    ) -> None:
        shape = EfficientIMLConfig(backbone=SIZES["semantic"])
        path = tmp_path / "whole.safetensors"
        save(path, EfficientIML(shape), Card("efficient-iml", shape.to_dict()), half=False)
        this = objective(replace(config, init=path), encoder="efficient-iml-semantic")
        model = this.build()
        frozen = {n for n, p in model.encoder.named_parameters() if not p.requires_grad}
        assert frozen
        assert all(n.startswith("backbone.backbone.semantics.network.") for n in frozen)


def test_an_eye_for_outliers_is_added_to_weights_without(
    config: TrainConfig, backbone: Path, tmp_path: Path
) -> None:
    seeing = replace(SIZES["tiny"], outliers=True)
    shape = EfficientIMLConfig(backbone=seeing, width=16, outlier_gain=0.0)
    config = replace(config, model=shape, diffusion=None, init=backbone)
    model = cast("EfficientIML", make_objective(config).build())
    assert model.backbone.stem.unlike is not None
    source = cast("EfficientIML", load(backbone).model)
    image, mask = batch()
    with torch.no_grad():  # it has to learn to speak first
        torch.testing.assert_close(model.eval()(image).logits, source.eval()(image).logits)
    whole = Batch(image, mask, torch.ones_like(mask))
    make_objective(config).loss(model.train(), whole, 0)[0].backward()
    assert any(
        p.grad.abs().sum() > 0
        for p in model.backbone.stem.unlike.parameters()
        if p.grad is not None
    )
    path = tmp_path / "whole.safetensors"
    save(path, model, Card("efficient-iml", shape.to_dict()), half=False)
    built = make_objective(replace(config, init=path)).build().state_dict()
    assert all(torch.equal(v, built[k]) for k, v in model.state_dict().items())


def test_the_shipped_recipe_goes_on_from_the_shipped_weights(config: TrainConfig) -> None:
    """Score, reliability and the worth of copies are left aside: a run ends by teaching them."""
    shipped = open_weights("efficientiml").model
    recipe = TrainConfig(config.data, init="efficientiml")
    model = make_objective(recipe).build()
    ours, theirs = model.state_dict(), shipped.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert {name.partition(".")[0] for name in theirs.keys() - ours.keys()} == {
        "whole",
        "sight",
        "copied",
    }


@pytest.mark.parametrize("name", ["diffiml", "diffiml-joint"])
def test_presets_of_diff_iml_start_from_all_of_the_shipped_weights(name: str, vae: Path) -> None:
    preset = load_config(find_preset(name))
    built = objective(preset, vae=vae).build()
    seen = {k for k in built.state_dict() if k.startswith("encoder.backbone.")}
    shipped = open_weights("efficientiml").model.state_dict()
    for key in seen:
        theirs = shipped[key.removeprefix("encoder.backbone.")]
        assert torch.equal(built.state_dict()[key], theirs), key
    features = {k for k in shipped if k.startswith(("backbone.", "merges.", "refine."))}
    assert features <= {k.removeprefix("encoder.backbone.") for k in seen}


def test_weights_of_another_shape_are_refused_by_name(config: TrainConfig, backbone: Path) -> None:
    config = replace(config, model=EfficientIMLConfig(SIZES["tiny"]), diffusion=None, init=backbone)
    with pytest.raises(ConfigError, match=r"efficient.safetensors.*does not fit this preset"):
        make_objective(config).build()
