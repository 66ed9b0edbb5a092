"""ONNX files, held against torch by ONNX Runtime."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch import nn

from imlctl.core import mixers
from imlctl.core.denoiser import DenoiserConfig
from imlctl.core.diff_iml import DiffIML, DiffIMLConfig
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.errors import OutputError, UsageError
from imlctl.weights.export import export_onnx

if TYPE_CHECKING:
    from pathlib import Path

# The search for copies takes the exporter half a minute; by hand it agreed to 1.2e-7, as below.
SHORT = EfficientIMLConfig(
    EfficientRWKVConfig(dims=(16, 16, 16), depths=(1, 1, 1), self_similarity=False, outliers=True),
    width=16,
)


@pytest.fixture
def model() -> EfficientIML:
    torch.manual_seed(0)
    made = EfficientIML(SHORT).eval()
    for norm in norms(made):  # so that folding has something to do
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            torch.nn.init.uniform_(cast("torch.Tensor", value), 0.5, 1.5)
    return made


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]


def test_onnx_runtime_says_what_torch_says(model: EfficientIML, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, operator = tmp_path / "model.onnx", mixers.bi_wkv
    export_onnx(model, path, height=64, width=96, about={"threshold": "0.5"})
    assert mixers.bi_wkv is operator
    session: Any = onnxruntime.InferenceSession(path)
    assert session.get_modelmeta().custom_metadata_map == {"threshold": "0.5"}
    assert [i.name for i in session.get_inputs()] == ["image"]
    for seed in range(2):
        image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(seed))
        probability, score = session.run(["probability", "score"], {"image": image.numpy()})
        with torch.inference_mode():
            expected = model(image)
        assert probability == pytest.approx(torch.sigmoid(expected.logits).numpy(), abs=1e-5)
        assert score == pytest.approx(torch.sigmoid(expected.score_logits).numpy(), abs=1e-5)
    with pytest.raises(OutputError):  # nothing is replaced unasked
        export_onnx(model, path, height=64, width=96)


def test_what_is_written_is_fused_and_the_model_stays_as_it_is(
    model: EfficientIML, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    written: list[nn.Module] = []

    def look(module: nn.Module, *args: object, **kwargs: object) -> None:
        written.append(module)
        raise InterruptedError

    monkeypatch.setattr(torch.onnx, "export", look)
    before = len(norms(model))
    with pytest.raises(InterruptedError):
        export_onnx(model, tmp_path / "m.onnx", height=64, width=64)
    assert norms(written[0]) == []
    assert all(part.fused for part in written[0].modules() if isinstance(part, mixers.OmniShift))
    assert not any(part.training for part in written[0].modules())
    assert len(norms(model)) == before > 0


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 100), (0, 64)])
def test_sizes_that_do_not_suit(
    model: EfficientIML, tmp_path: Path, height: int, width: int
) -> None:
    with pytest.raises(UsageError, match=f"not {height} x {width}"):
        export_onnx(model, tmp_path / "m.onnx", height=height, width=width)


def test_what_draws_noise_is_refused(tmp_path: Path) -> None:
    sampler = DiffIML(
        DiffIMLConfig("efficient-rwkv-tiny", DenoiserConfig(channels=32, condition=32))
    )
    with pytest.raises(UsageError, match="only an EfficientIML"):
        export_onnx(cast("EfficientIML", sampler), tmp_path / "m.onnx", height=64, width=64)


def test_without_the_extra_it_says_what_to_install(
    model: EfficientIML, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"imlctl\[onnx\]"):
        export_onnx(model, tmp_path / "m.onnx", height=64, width=64)
    assert not (tmp_path / "m.onnx").exists()
