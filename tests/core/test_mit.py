"""MiT against transformers' SegFormer, whose files have the layout of the public checkpoints."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from imlctl.core.imagenet import MIT_SIZES as SIZES
from imlctl.core.imagenet import STRIDES, MixTransformer, MixTransformerConfig

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "segformer.encoder."


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers")


def public(transformers: Any, config: MixTransformerConfig) -> Any:
    """Build transformers' own model with random weights, norms and biases included."""
    torch.manual_seed(0)
    model = transformers.SegformerForImageClassification(
        transformers.SegformerConfig(
            hidden_sizes=list(config.dims),
            depths=list(config.depths),
            num_attention_heads=list(config.heads),
            sr_ratios=list(config.reductions),
            mlp_ratios=[config.expansion] * 4,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def written(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Return the encoder's tensors as a published file names them."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    return {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}


# b3's depths at b0's widths: its names and its arithmetic, at a fraction of its weight.
NARROW_B3 = MixTransformerConfig(dims=SIZES["b0"].dims, depths=SIZES["b3"].depths)


@pytest.mark.parametrize("config", [SIZES["b0"], NARROW_B3], ids=["b0", "narrow-b3"])
@torch.inference_mode()
def test_loads_what_transformers_writes_and_computes_the_same(
    transformers: Any, tmp_path: Path, config: MixTransformerConfig
) -> None:
    theirs = public(transformers, config)
    ours = MixTransformer(config).eval()
    ours.load_state_dict(written(theirs, tmp_path))  # strict
    image = torch.randn(2, 3, 96, 64)
    expected = theirs(image, output_hidden_states=True).hidden_states
    features = ours(image)
    assert len(features) == len(expected) == 4
    for mine, other in zip(features, expected, strict=True):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_b3_has_the_names_and_shapes_of_the_public_model(transformers: Any, tmp_path: Path) -> None:
    expected = written(public(transformers, SIZES["b3"]).half(), tmp_path)
    with torch.device("meta"):
        state = MixTransformer(SIZES["b3"]).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize(
    ("name", "millions"),  # Xie et al. 2021, Table 6: the encoder's parameters
    [("b0", 3.4), ("b1", 13.1), ("b2", 24.2), ("b3", 44.0), ("b4", 60.8), ("b5", 81.4)],
)
def test_sizes_have_the_parameters_of_the_paper(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = MixTransformer(SIZES[name])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.12)


@torch.inference_mode()
def test_features_lie_at_their_strides_for_any_multiple_of_32() -> None:
    model = MixTransformer(SIZES["b0"]).eval()
    for height, width in ((32, 32), (32, 160), (96, 64)):
        features = model(torch.randn(1, 3, height, width))
        for x, dim, stride in zip(features, SIZES["b0"].dims, STRIDES, strict=True):
            assert x.shape == (1, dim, height // stride, width // stride)
            assert torch.isfinite(x).all()


def test_every_parameter_learns() -> None:
    model = MixTransformer(MixTransformerConfig(dims=(16, 16, 20, 16), depths=(1, 1, 1, 1)))
    sum(x.square().sum() for x in model(torch.randn(2, 3, 64, 64))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("shape", [(1, 3, 48, 64), (1, 3, 64, 33)])
def test_other_sizes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        MixTransformer(SIZES["b0"])(torch.zeros(shape))


def test_a_config_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        SIZES["b0"].expansion = 2  # type: ignore[misc]
