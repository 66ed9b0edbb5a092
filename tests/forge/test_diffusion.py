"""A tiny pipeline with random weights, saved and loaded in the layout of the real ones."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from imlctl.errors import ConfigError, WeightsError
from imlctl.forge.to_disk import (
    PROMPTS,
    DiffusionEdits,
    Inpaint,
    load_pipeline,
    read_prompts,
)

if TYPE_CHECKING:
    from pathlib import Path

    from imlctl.forge.photos import PhotoPool

SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    diffusers, transformers = (pytest.importorskip(n) for n in ("diffusers", "transformers"))
    home: Path = tmp_path_factory.mktemp("pipeline")
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz,"]
    words += [f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz,"]
    (home / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (home / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            sample_size=SIDE,
        )
        unet = diffusers.UNet2DConditionModel(
            sample_size=SIDE // 2,
            in_channels=9,
            out_channels=4,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        text = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=77,
                bos_token_id=0,
                eos_token_id=1,
            )
        )
        tokenizer = transformers.CLIPTokenizer(
            vocab=str(home / "vocab.json"), merges=str(home / "merges.txt"), model_max_length=77
        )
        diffusers.StableDiffusionInpaintPipeline(
            vae=vae,
            unet=unet,
            text_encoder=text,
            tokenizer=tokenizer,
            scheduler=diffusers.DDIMScheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(home / "tiny")
    return home / "tiny"


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_in_the_genuine_layout(folder: Path, pool: PhotoPool) -> None:
    assert (folder / "model_index.json").is_file()
    pipeline = load_pipeline(str(folder), device=torch.device("cpu"), steps=2)
    assert pipeline[1] == SIDE
    make = DiffusionEdits(pool, *pipeline, prompts=("a dog", "a cat"), seed=3)
    sample = make(1)
    original = pool.photos[pool.names.index(sample.sources[0])]
    assert sample.pixels.shape == original.shape
    assert np.array_equal(sample.pixels[~sample.mask], original[~sample.mask])
    assert not np.array_equal(sample.pixels[sample.mask], original[sample.mask])
    again = make(1)
    assert np.array_equal(again.pixels, sample.pixels)


def painted(asked: list[Any]) -> tuple[Inpaint, int]:
    """Paints the hole green, and writes down what it was asked."""

    def inpaint(pixels: Any, mask: Any, prompt: str, chance: torch.Generator) -> Any:
        asked.append((pixels.shape, mask.copy(), prompt, chance.initial_seed()))
        out = pixels.copy()
        out[mask] = (0, 255, 0)
        return out

    return inpaint, 96


def test_only_the_mask_changes_and_all_of_it(pool: PhotoPool) -> None:
    asked: list[Any] = []
    make = DiffusionEdits(pool, *painted(asked), seed=1)
    for index in range(12):
        sample = make(index)
        photo = pool.photos[pool.names.index(sample.sources[0])]
        assert sample.kind == "diffusion"
        assert sample.pixels.shape == photo.shape
        assert np.array_equal(sample.pixels[~sample.mask], photo[~sample.mask])
        changed = (sample.pixels != photo).any(-1)
        assert changed[sample.mask].mean() > 0.9
        shape, mask, prompt, _ = asked[-1]
        assert shape == (96, 96, 3)
        assert mask.any()
        assert prompt in PROMPTS
    assert len({seed for *_, seed in asked}) == 12
    assert all(photo.flags.writeable is False for photo in pool.photos)


def test_outlined_objects_are_what_is_repainted(pool: PhotoPool) -> None:
    make = DiffusionEdits(pool, *painted([]), seed=0)
    outlined = [s for s in map(make, range(20)) if s.sources == (pool.names[1],)]
    assert outlined
    for sample in outlined:
        assert np.array_equal(sample.mask, pool.objects[1][0])


def test_prompts(tmp_path: Path) -> None:
    assert read_prompts(None) == PROMPTS
    path = tmp_path / "p.txt"
    path.write_text("\n a dog \n\nein Löwe\n", "utf-8")
    assert read_prompts(path) == ("a dog", "ein Löwe")
    path.write_text(" \n")
    with pytest.raises(ConfigError, match="holds no prompts"):
        read_prompts(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prompts(tmp_path / "gone")


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_pipeline(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(WeightsError, match="cannot be loaded as an inpainting pipeline"):
        load_pipeline(str(tmp_path), device=torch.device("cpu"))
