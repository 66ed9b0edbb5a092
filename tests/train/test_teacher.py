"""Teachers: tiny random ones, in the genuine layouts."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from imlctl.errors import ConfigError, ImlctlError, UsageError, WeightsError
from imlctl.train.distill import Teacher, TeacherConfig, load_teacher

CPU = torch.device("cpu")


def teacher(source: object, **options: Any) -> Teacher:
    found = load_teacher(TeacherConfig(str(source), **options), latent=4, device=CPU)
    assert found is not None
    return found


def maps(count: int = 2, height: int = 64, width: int = 48) -> torch.Tensor:
    return torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(0)).sign()


def test_none_is_none() -> None:
    assert load_teacher(TeacherConfig(), latent=4, device=CPU) is None


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
        torch.testing.assert_close(found(maps()), expected)

    def test_refuses_latents_of_another_shape(self, tmp_path: Path) -> None:
        tiny("AutoencoderTiny").save_pretrained(tmp_path / "vae")
        with pytest.raises(ConfigError, match=r"vae: makes latents .*\(1, 5, 8, 8\)"):
            load_teacher(TeacherConfig(str(tmp_path / "vae")), latent=5, device=CPU)

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
from imlctl.train.distill import TeacherConfig, load_teacher
config = TeacherConfig("some/vae", revision="v1")
teacher = load_teacher(config, latent=4, device=torch.device("cpu"))
torch.save(teacher(torch.ones(1, 1, 64, 64)), sys.argv[1])
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
        """In processes of their own, which read HF_ENDPOINT and HF_HUB_OFFLINE as a user's do."""
        source = str(Path(__file__).parents[2] / "src")
        env = os.environ | hub_server.environment(hub, tmp_path) | {"PYTHONPATH": source}
        command = [sys.executable, "-c", FETCH, str(tmp_path / "got.pt")]
        expected = teacher(tmp_path / "v1")(torch.ones(1, 1, 64, 64))
        for offline in ("0", "1"):
            hub.log.clear()
            variables = env | {"HF_HUB_OFFLINE": offline}
            subprocess.run(command, env=variables, check=True, timeout=240)
            torch.testing.assert_close(torch.load(tmp_path / "got.pt"), expected)
            assert bool(hub.asked()) == (offline == "0")

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("some/other", {}),
            ("some/vae", {"revision": "v9"}),
            ("not a name", {}),
        ],
    )
    def test_says_what_cannot_be_had(self, name: str, options: dict[str, Any], hub: Any) -> None:
        with pytest.raises(
            ImlctlError, match=f"{name}: cannot be loaded as a teacher .*HF_ENDPOINT"
        ):
            teacher(name, **options)
        assert bool(hub.asked()) == (name != "not a name")
