"""A whole run on manifests: what is trained on, and what chooses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from imlctl.core.efficient_iml import EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.data.manifest import Entry, write_manifest
from imlctl.errors import ConfigError
from imlctl.forge.synthesizer import Synthesizer
from imlctl.train.config import (
    DataConfig,
    OptimConfig,
    TrainConfig,
    ValidationConfig,
    load_config,
)
from imlctl.train.loop import train
from imlctl.train.material import decisive, load_material, require_sources
from imlctl.train.real_samples import Mixture, RealConfig, RealSamples, RealSource
from imlctl.weights.load import load

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
MODEL = EfficientIMLConfig(
    EfficientRWKVConfig(dims=(16, 16, 32), depths=(1, 1, 1)),
    width=16,
)


@pytest.fixture
def listed(tmp_path: Path, photo: Callable[..., Any]) -> Callable[..., Path]:
    """Write a manifest of forgeries and photographs: `listed("m.csv", train=4, val=2)`."""

    def write(name: str, seed: int, **splits: int) -> Path:
        entries = []
        for split, count in splits.items():
            for number in range(count):
                stem = tmp_path / f"{Path(name).stem}-{split}-{number}"
                pixels = photo(seed * 1000 + len(entries), 96, 112)
                Image.fromarray(pixels).save(stem.with_suffix(".png"))
                mask = None
                if number % 3 < 2:
                    box = np.zeros((96, 112), np.uint8)
                    box[20:60, 30:70] = 255
                    mask = stem.with_name(f"{stem.name}-mask.png")
                    Image.fromarray(box).save(mask)
                entries.append(Entry(stem.with_suffix(".png"), mask, Path(name).stem, split))
        write_manifest(tmp_path / name, entries)
        return tmp_path / name

    return write


@pytest.fixture
def config(listed: Callable[..., Path]) -> TrainConfig:
    """Real forgeries alone, two steps."""
    real = RealConfig((RealSource(listed("ours.csv", 1, train=6, val=3)),), share=1.0)
    return TrainConfig(
        DataConfig((), workers=0, real=real),
        model=MODEL,
        optim=OptimConfig(steps=2, batch=2, size=64, warmup=1, precision="float32"),
        validation=ValidationConfig(every=1, synthetic=0, real=4),
    )


def test_a_run_on_manifests(config: TrainConfig, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    best = train(config, tmp_path / "run", device=CPU, report=told.append)
    kinds = [event["event"] for event in told]
    assert kinds.count("validation") == 2
    for event in told:
        if event["event"] == "validation":
            assert event["objective"] == (event["real_auc"] + event["real_f1"]) / 2
    assert load(best).card.training["calibration"]["photos"] == 1  # the authentic one held out


def test_real_and_synthetic_are_mixed(
    config: TrainConfig, save_photos: Callable[..., Path]
) -> None:
    assert config.data.real is not None
    data = replace(
        config.data,
        photos=(save_photos(6),),
        validation_share=0.5,
        real=replace(config.data.real, share=0.25),
    )
    mixed = replace(config, data=data, validation=replace(config.validation, synthetic=4))
    material = load_material(mixed, lambda _: None)
    assert isinstance(material.training, Mixture)
    assert isinstance(material.judge, Synthesizer)
    assert isinstance(material.real_judge, RealSamples)
    assert material.held is not None
    sources = [material.training(n).sources for n in range(40)]
    assert sum("ours-train" in name for names in sources for name in names) == 10
    held = {name for n in range(12) for name in material.real_judge(n).sources}
    assert len(held) == 3
    assert all("ours-val" in name for name in held)


def test_only_what_changes_the_result_is_compared(config: TrainConfig) -> None:
    same = replace(
        config,
        data=replace(config.data, workers=7, cache=Path("elsewhere")),
        init=Path("start.safetensors"),
    )
    assert decisive(same, "d") == decisive(config, "d")
    for other in (
        replace(config, optim=replace(config.optim, batch=4)),
        replace(config, validation=replace(config.validation, real=5)),
        replace(config, data=replace(config.data, regenerated=9)),
        replace(config, data=replace(config.data, real=replace(config.data.real, per_epoch=3))),  # type: ignore[type-var]
    ):
        assert decisive(other, "d") != decisive(config, "d")
    assert decisive(config, "e") != decisive(config, "d")
    assert decisive(config, "d") == json.loads(json.dumps(decisive(config, "d")))


def test_everything_that_is_missing_is_told_at_once_with_how_to_get_it(tmp_path: Path) -> None:
    config = load_config(
        "diffiml",
        (
            f"data.photos={tmp_path / 'photos'}",
            f"data.autoencoder={tmp_path / 'autoencoder'}",
            f"data.objects={tmp_path}",
            "validation.folder=",
            f"diffusion.vae={tmp_path / 'runs' / 'vae' / 'best.safetensors'}",
            "diffusion.encoder=mit-b3",
            f"diffusion.backbone={tmp_path / 'mit.safetensors'}",
            f"data.real.sources=[{{manifest = '{tmp_path / 'casia.csv'}'}}]",
        ),
    )
    with pytest.raises(ConfigError) as caught:
        require_sources(config)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("the preset names files or folders that do not exist. ")
    assert "--set KEY=VALUE" in first
    told = {line.split(":")[0].strip(): line for line in lines}
    assert set(told) == {
        *("data.photos", "data.autoencoder", "diffusion.vae", "diffusion.backbone", "manifest")
    }
    assert "--set data.photos=" in told["data.photos"]
    assert "--set data.autoencoder=" in told["data.autoencoder"]
    assert f"imlctl distill distill -o {tmp_path / 'runs' / 'vae'}" in told["diffusion.vae"]
    assert "imlctl weights pull mit-b3" in told["diffusion.backbone"]
    assert f"imlctl data index FOLDER -o {tmp_path / 'casia.csv'}" in told["manifest"]


def test_a_starter_lacks_nothing_but_photographs(save_photos: Callable[..., Path]) -> None:
    require_sources(load_config("starter", [f"data.photos={save_photos(2)}"]))
    with pytest.raises(ConfigError) as caught:
        require_sources(load_config("starter"))
    assert str(caught.value).count("\n  ") == 1
