"""Teachers: tiny random ones, in the genuine layouts."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from imlctl.errors import ConfigError, ImlctlError, UsageError, WeightsError
from imlctl.train.teacher import Teacher, TeacherConfig, load_teacher

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")


def teacher(source: object, **options: Any) -> Teacher:
    found = load_teacher(TeacherConfig(str(source), **options), latent=4, device=CPU)
    assert found is not None
    return found


def maps(count: int = 2, height: int = 64, width: int = 48) -> torch.Tensor:
    return torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(0)).sign()


def test_none_is_none() -> None:
    assert load_teacher(TeacherConfig(), latent=4, device=CPU) is None


def test_refuses_what_cannot_work() -> None:
    with pytest.raises(ValueError, match="scale must be positive"):
        TeacherConfig(scale=0.0)


class TestOnnx:
    @pytest.fixture
    def encoder(self, tmp_path: Path) -> Callable[..., Path]:
        """Write an encoder of one convolution; its weights lie next to it as ``.npy``."""

        def write(name: str = "encoder.onnx", channels: int = 4, stride: int = 8) -> Path:
            rng = np.random.default_rng(channels)
            weight = rng.normal(size=(channels, 3, stride, stride)).astype(np.float32)
            return save_conv(tmp_path / name, weight, stride)

        return write

    @pytest.mark.parametrize("channels", [4, 8])  # 8: mean, then log-variance
    def test_latents_are_the_models_scaled(
        self, channels: int, encoder: Callable[..., Path]
    ) -> None:
        path = encoder(channels=channels)
        weight = torch.from_numpy(np.load(path.with_suffix(".npy")))
        expected = F.conv2d(maps().expand(-1, 3, -1, -1), weight, stride=8)[:, :4]
        got = teacher(path, scale=0.5).encode(maps())
        torch.testing.assert_close(got, 0.5 * expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("wrong", [{"channels": 3}, {"stride": 4}])
    def test_refuses_latents_of_another_shape(
        self, wrong: dict[str, int], encoder: Callable[..., Path]
    ) -> None:
        with pytest.raises(ConfigError, match=r"encoder.onnx: makes latents .*\(1, 4, 8, 8\)"):
            teacher(encoder(**wrong))

    @pytest.mark.parametrize("content", [None, b"", b"not a model"])
    def test_refuses_what_is_no_model(self, content: bytes | None, tmp_path: Path) -> None:
        path = tmp_path / "bad.onnx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"bad.onnx: cannot be read as an ONNX model.*Give"):
            teacher(path)

    def test_refuses_a_model_of_something_else(self, tmp_path: Path) -> None:
        weight = np.zeros((4, 5, 8, 8), np.float32)
        path = save_conv(tmp_path / "five.onnx", weight, 8)
        with pytest.raises(WeightsError, match=r"five.onnx: does not take .*\(1, 3, 64, 64\)"):
            teacher(path)

    def test_says_which_package_is_missing(
        self, encoder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = encoder()
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(UsageError, match=r"onnxruntime.*pip install 'imlctl\[onnx\]'"):
            teacher(path)


def save_conv(path: Path, weight: np.ndarray[Any, Any], stride: int) -> Path:
    """Write an ONNX model of one convolution, for any batch and size."""
    outputs, inputs = weight.shape[:2]
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[stride, stride])
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", int(inputs), "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", int(outputs), "i", "j"])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    np.save(path.with_suffix(".npy"), weight)
    return path


def tiny(kind: str) -> Any:
    """A random autoencoder of diffusers, 8x down to four channels."""
    diffusers: Any = importlib.import_module("diffusers")
    torch.manual_seed(0)
    if kind == "AutoencoderTiny":
        return diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
            scaling_factor=0.7,
        ).eval()
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.3,
    ).eval()


class TestDiffusers:
    @pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
    def test_latents_are_the_posterior_mean_of_grey_maps(self, kind: str, tmp_path: Path) -> None:
        model = tiny(kind)
        model.save_pretrained(tmp_path / "vae")
        found = teacher(tmp_path / "vae")
        grey = torch.cat([maps()] * 3, dim=1)
        with torch.no_grad():
            if kind == "AutoencoderKL":
                # Of the encoder's eight channels, the mean comes first.
                expected = 0.3 * model.quant_conv(model.encoder(grey))[:, :4]
            else:
                expected = 0.7 * model.encoder(grey)
        torch.testing.assert_close(found.encode(maps()), expected)

    def test_pickles_are_refused(self, tmp_path: Path) -> None:
        tiny("AutoencoderKL").save_pretrained(tmp_path / "vae", safe_serialization=False)
        with pytest.raises(WeightsError, match="vae: cannot be loaded as a teacher"):
            teacher(tmp_path / "vae")

    def test_other_models_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
        with pytest.raises(ConfigError, match=r"is a UNet2DModel\. Teachers are: AutoencoderKL, "):
            teacher(tmp_path)

    def test_says_which_package_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "diffusers", None)
        with pytest.raises(UsageError, match=r"diffusers.*pip install 'imlctl\[teacher\]'"):
            teacher("some/name")


FETCH = """
import sys, torch
from imlctl.train.teacher import TeacherConfig, load_teacher
config = TeacherConfig("some/vae", revision="v1")
teacher = load_teacher(config, latent=4, device=torch.device("cpu"))
torch.save(teacher.encode(torch.ones(1, 1, 64, 64)), sys.argv[1])
"""


class TestHub:
    @pytest.fixture
    def hub(self, hub: Any, tmp_path: Path) -> Any:
        """A Hub with a teacher: two commits, of which the first has the tag ``v1``."""
        for seed, ref in ((1, "v1"), (2, "main")):
            model = tiny("AutoencoderKL")
            model.encoder.conv_in.weight.data.add_(seed)
            folder = tmp_path / ref
            model.save_pretrained(folder)
            files = {p.name: p.read_bytes() for p in folder.iterdir()}
            assert sorted(files) == ["config.json", "diffusion_pytorch_model.safetensors"]
            hub.repo("some/vae").commit(files, ref)
        return hub

    def test_comes_from_the_endpoint_and_then_from_the_cache(
        self, hub: Any, hub_server: Any, tmp_path: Path
    ) -> None:
        """First in a process of its own, which reads HF_ENDPOINT as a user's does."""
        source = str(Path(__file__).parents[2] / "src")
        env = os.environ | hub_server.environment(hub, tmp_path) | {"PYTHONPATH": source}
        command = [sys.executable, "-c", FETCH, str(tmp_path / "got.pt")]
        subprocess.run(command, env=env, check=True, timeout=240)
        got = torch.load(tmp_path / "got.pt")
        expected = teacher(tmp_path / "v1").encode(torch.ones(1, 1, 64, 64))
        torch.testing.assert_close(got, expected)
        assert any("diffusion_pytorch_model" in a.path for a in hub.asked())
        before = len(hub.asked())
        cached = teacher("some/vae", revision="v1", offline=True)
        torch.testing.assert_close(cached.encode(torch.ones(1, 1, 64, 64)), expected)
        assert len(hub.asked()) == before

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("some/other", {}),
            ("some/vae", {"revision": "v9"}),
            ("some/vae", {"offline": True}),
            ("not a name", {}),
        ],
    )
    def test_says_what_cannot_be_had(self, name: str, options: dict[str, Any], hub: Any) -> None:
        with pytest.raises(
            ImlctlError, match=f"{name}: cannot be loaded as a teacher .*HF_ENDPOINT"
        ):
            teacher(name, **options)
        assert bool(hub.asked()) == (name != "not a name" and "offline" not in options)
