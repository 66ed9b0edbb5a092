"""ResNet against transformers', and against the layout of torchvision's files, written out here."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING

import pytest
import torch

from imlctl.core.imagenet import RESNET_SIZES as SIZES
from imlctl.core.imagenet import STRIDES, ImageNetInput, ResNet, ResNetConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    Randomise = Callable[[nn.Module], None]

Shapes = dict[str, tuple[int, ...]]

TINY = ResNetConfig(depths=(1, 2, 1, 1), width=4)


def torchvision_layout(depths: tuple[int, ...]) -> Shapes:
    """Names and shapes in torchvision's resnet50 and resnet101 files, the classifier included."""
    shapes: Shapes = {"fc.weight": (1000, 2048), "fc.bias": (1000,)}

    def add(conv: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        shapes[f"{conv}.weight"] = (outputs, inputs, kernel, kernel)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{name}"] = (outputs,)
        shapes[f"{norm}.num_batches_tracked"] = ()

    add("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for layer, (width, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True), 1):
        for block in range(depth):
            at = f"layer{layer}.{block}"
            add(f"{at}.conv1", f"{at}.bn1", width, inputs, 1)
            add(f"{at}.conv2", f"{at}.bn2", width, width, 3)
            add(f"{at}.conv3", f"{at}.bn3", width * 4, width, 1)
            if block == 0:
                add(f"{at}.downsample.0", f"{at}.downsample.1", width * 4, inputs, 1)
            inputs = width * 4
    return shapes


def as_torchvision(name: str) -> str:
    """Translate a name of transformers' ResNetModel."""
    name = name.replace("embedder.embedder.convolution", "conv1")
    name = name.replace("embedder.embedder.normalization", "bn1")
    name = re.sub(
        r"encoder\.stages\.(\d+)\.layers\.(\d+)",
        lambda m: f"layer{int(m[1]) + 1}.{m[2]}",
        name,
    )
    name = name.replace("shortcut.convolution", "downsample.0")
    name = name.replace("shortcut.normalization", "downsample.1")
    for i in range(3):
        name = name.replace(f"layer.{i}.convolution", f"conv{i + 1}")
        name = name.replace(f"layer.{i}.normalization", f"bn{i + 1}")
    return name


@pytest.mark.parametrize("size", ["50", "101"])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 101)])
@torch.inference_mode()
def test_computes_what_transformers_computes(
    randomise: Randomise, size: str, height: int, width: int
) -> None:
    transformers = pytest.importorskip("transformers")
    # The public depths and names at a quarter of the width; in float64, so that nothing hides.
    config = ResNetConfig(depths=SIZES[size].depths, width=16)
    torch.manual_seed(0)
    theirs = (
        transformers.ResNetModel(
            transformers.ResNetConfig(
                embedding_size=config.width,
                hidden_sizes=list(config.dims),
                depths=list(config.depths),
                layer_type="bottleneck",
                downsample_in_bottleneck=False,
            )
        )
        .double()
        .eval()
    )
    randomise(theirs)
    ours = ResNet(config).double().eval()
    ours.load_state_dict({as_torchvision(k): v for k, v in theirs.state_dict().items()})
    image = torch.randn(2, 3, height, width, dtype=torch.float64)
    _, *expected = theirs(image, output_hidden_states=True).hidden_states
    features = ours(image)
    assert len(features) == len(expected) == 4
    for mine, other in zip(features, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("size", "count"), [("50", 23_508_032), ("101", 42_500_160)])
def test_has_the_names_shapes_and_size_of_the_public_model(size: str, count: int) -> None:
    with torch.device("meta"):
        model = ResNet(SIZES[size])
    layout = torchvision_layout(SIZES[size].depths)
    del layout["fc.weight"], layout["fc.bias"]
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == layout
    assert sum(p.numel() for p in model.parameters()) == count


def file_of(model: ResNet, *, counters: bool = True) -> dict[str, torch.Tensor]:
    """Return the tensors of a file in torchvision's layout, with a classifier."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if not counters:
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    return state | {"fc.weight": torch.randn(10, model.config.dims[3]), "fc.bias": torch.randn(10)}


@pytest.mark.parametrize("counters", [True, False], ids=["today", "before-counters"])
@torch.inference_mode()
def test_loads_torchvision_files_but_for_the_classifier(
    randomise: Randomise, counters: bool
) -> None:
    source, target = ResNet(TINY).eval(), ResNet(TINY).eval()
    randomise(source)
    image = torch.randn(1, 3, 40, 40)
    assert not torch.equal(source(image)[3], target(image)[3])
    ImageNetInput(target).load_public(file_of(source, counters=counters))
    for mine, other in zip(target(image), source(image), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize(
    ("missing", "added", "match"),
    [
        ("layer2.1.conv2.weight", {}, "Missing key.*layer2.1.conv2.weight"),
        ("layer4.0.bn3.running_var", {}, "Missing key.*layer4.0.bn3.running_var"),
        (None, {"layer5.0.conv1.weight": torch.zeros(1)}, "Unexpected key.*layer5"),
        (None, {"fc.scale": torch.zeros(1)}, "Unexpected key.*fc.scale"),
        (None, {"conv1.weight": torch.zeros(4, 1, 7, 7)}, "size mismatch for conv1.weight"),
    ],
)
def test_any_other_file_is_refused(
    missing: str | None, added: dict[str, torch.Tensor], match: str
) -> None:
    tensors = file_of(ResNet(TINY)) | added
    if missing:
        del tensors[missing]
    with pytest.raises(RuntimeError, match=re.compile(match, re.DOTALL)):
        ImageNetInput(ResNet(TINY)).load_public(tensors)


@torch.inference_mode()
def test_features_lie_at_their_strides_for_any_size() -> None:
    model = ResNet(TINY).eval()
    for height, width in ((64, 96), (1, 1), (33, 250), (31, 7)):
        features = model(torch.randn(1, 3, height, width))
        assert len(features) == 4
        for x, dim, stride in zip(features, TINY.dims, STRIDES, strict=True):
            assert x.shape == (1, dim, -(-height // stride), -(-width // stride))
            assert torch.isfinite(x).all()


@torch.inference_mode()
def test_fusing_changes_no_feature_and_leaves_no_norm(randomise: Randomise) -> None:
    model = ResNet(TINY).double().eval()
    randomise(model)
    image = torch.randn(1, 3, 50, 40, dtype=torch.float64)
    expected = model(image)
    fused = model.train().fuse()
    assert fused is model
    assert fused.fuse() is model  # again: nothing is left to do
    assert not [k for k in fused.state_dict() if "running_var" in k]
    for mine, other in zip(fused(image), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_every_parameter_learns() -> None:
    model = ResNet(TINY)
    # No square of the sum: a norm makes that constant.
    sum((x * torch.randn_like(x)).sum() for x in model(torch.randn(2, 3, 64, 64))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_a_config_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        SIZES["50"].width = 2  # type: ignore[misc]
