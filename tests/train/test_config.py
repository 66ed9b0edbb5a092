from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imlctl.core.efficient_rwkv import SIZES
from imlctl.errors import ConfigError
from imlctl.forge.synthesizer import Mix
from imlctl.train.config import TrainConfig, load_config

CONFIGS = Path(__file__).parents[2] / "configs"
DATA = '[data]\nphotos = ["photos"]\n'


def read(tmp_path: Path, text: str) -> TrainConfig:
    path = tmp_path / "preset.toml"
    path.write_text(text)
    return load_config(path)


PRESETS = sorted(p for p in CONFIGS.rglob("*.toml") if not p.name.startswith("distill"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_presets_that_ship_load(path: Path) -> None:
    config = load_config(path)
    assert config.data.photos or config.data.real is not None
    assert config.optim.warmup < config.optim.steps


@pytest.mark.parametrize(
    "name", ["starter", "efficientiml", "diffiml", "protocol-mvss", "protocol-cat", "diffiml-paper"]
)
def test_there_are_presets(name: str) -> None:
    assert (CONFIGS / f"{name}.toml").is_file()


def test_every_table_is_read(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        init = "start.safetensors"
        [data]
        photos = ["a", "b"]
        objects = "o"
        validation_share = 0
        [model]
        width = 32
        [model.backbone]
        dims = [32, 64, 128]
        global_share = [1, 0.5, 0.5]
        local_share = [0, 0.5, 0.25]
        mixing = "v6"
        window = 4
        [mix]
        splice = 1
        [loss]
        levels = [1, 0.5]
        [optim]
        rate = 1
        [validation]
        folder = "val"
        """,
    )
    assert config.init == "start.safetensors"
    assert config.data.photos == (Path("a"), Path("b"))
    assert config.data.objects == Path("o")
    assert config.data.autoencoder is None
    assert config.model.width == 32
    assert config.model.backbone.dims == (32, 64, 128)
    assert config.model.backbone.global_share == (1.0, 0.5, 0.5)
    assert config.model.backbone.mixing == "v6"
    assert config.mix.splice == 1.0
    assert config.loss.levels == (1.0, 0.5)
    assert config.optim.rate == 1.0
    assert isinstance(config.optim.rate, float)
    assert config.validation.folder == Path("val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"preset.toml: lacks 'data'"),
        ("[data]", r"data: lacks 'photos'"),
        ("[data]\nphotos = []", r"data: needs at least one folder"),
        ("[data]\nphotos = true", r"data: photos: must be a list, not True"),
        ("[data]\nphotos = [3]", r"data: photos: must be Path, not 3"),
        (DATA + "worker = 2", r"data: unknown key 'worker'\. Known keys: photos, .*workers"),
        (DATA + "workers = 2.5", r"data: workers: must be int, not 2.5"),
        (DATA + "workers = true", r"data: workers: must be int, not True"),
        (DATA + "workers = -1", r"data: .*no negative counts"),
        (DATA + "validation_share = 1.0", r"data: .*validation share below 1"),
        (DATA + "objects = 3", r"data: objects: must be Path, not 3"),
        (DATA + "[optim]\nrate = 'fast'", r"optim: rate: must be float, not 'fast'"),
        (DATA + "[optim]\nrate = nan", r"optim: rate: must be a finite number, not nan"),
        (DATA + "[optim]\nrate = inf", r"optim: rate: must be a finite number, not inf"),
        (DATA + "[optim]\nrate = 0", r"optim: .*must be positive"),
        (DATA + "[optim]\nsteps = 0", r"optim: .*must be positive"),
        (DATA + "[optim]\nsize = 100", r"optim: size must be a multiple of 64"),
        (DATA + "[optim]\nseed = -1", r"optim: .*seed must not be negative"),
        (DATA + "[optim]\nema = 1.0", r"optim: .*ema must lie in \[0, 1\)"),
        (
            DATA + "[optim]\nprecision = 'half'",
            r"optim: precision: unknown value 'half'; known: float32, bfloat16",
        ),
        (DATA + "[diffusion]\nvae = 'v'\nedges = 'sobel'", r"edges: unknown value 'sobel'"),
        (DATA + "[diffusion]\nvae = 'v'\nspacing = 'even'", r"spacing: unknown value 'even'"),
        (DATA + "[diffusion]\nvae = 'v'\nspacing = 3", r"spacing: unknown value 3"),
        (DATA + "[diffusion]\nvae = 'v'\nedges = 'all'", r"edges: unknown value 'all'"),
        (
            DATA + "[[data.real.sources]]\nmanifest = 'm.csv'\nkind = 'some'",
            r"kind: unknown value 'some'; known: all, tampered, authentic",
        ),
        (DATA + "[model]\nbackbone = 3", r"model: backbone: must be a table, not 3"),
        (DATA + "[model]\nwidth = 0", r"model: the decoder's width"),
        (DATA + "[model.backbone]\ndims = [1, 2]", r"backbone: dims needs one value for each"),
        (DATA + "[model.backbone]\nmixing = 'v5'", r"backbone: mixing: unknown value 'v5'"),
        (DATA + "[model.backbone]\ndepth = 1", r"model: backbone: unknown key 'depth'"),
        (DATA + "[mix]\nsplice = -1", r"mix: .*must not be negative"),
        (DATA + "[mix]\nsplices = 1", r"mix: unknown key 'splices'"),
        (DATA + "[loss]\nedge = -1", r"loss: loss weights must not be negative"),
        (DATA + "[optim]\naccumulate = 3", r"optim: accumulate must divide the batch"),
        (DATA + "[data.real]\nshare = 0.5", r"real: lacks 'sources'"),
        (DATA + "[data.real]\nsources = [3]", r"sources: must be a table, not 3"),
        (DATA + "[validation]\nevery = 0", r"validation: every must be positive"),
        ("data = 3", r"data: must be a table, not 3"),
        (DATA + "[optim", r"preset.toml: is not valid TOML"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text)
    assert "preset.toml" in str(caught.value)


def test_the_shipped_recipe_is_the_default(tmp_path: Path) -> None:
    """The preset of what ships names photographs and nothing that decides how they are used."""
    shipped, bare = load_config("efficientiml"), read(tmp_path, DATA)
    for table in ("model", "mix", "loss", "optim"):
        assert getattr(shipped, table) == getattr(bare, table)
    assert bare.model.backbone == SIZES["forensic"]
    assert bare.loss.dice == 1.0


def test_a_table_changes_only_what_it_names(tmp_path: Path) -> None:
    config = read(tmp_path, DATA + "[model.backbone]\nwindow = 4\n[mix]\nsplice = 0.5")
    assert config.model.backbone == replace(SIZES["forensic"], window=4)
    assert config.mix == replace(Mix(), splice=0.5)


def test_keys_are_set_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "preset.toml"
    path.write_text(DATA + 'objects = "o"\n[optim]\nsteps = 5\n')
    changes = (
        *("optim.steps=100", "data.photos=Pictures", "data.objects=", "model.backbone.window=4"),
        *("init=efficientiml", "loss.levels=[1, 0.5]", " mix.splice = 1"),
    )
    config = load_config(path, changes)
    assert config.optim.steps == 100
    assert config.data.photos == (Path("Pictures"),)
    assert config.data.objects is None
    assert config.model.backbone.window == 4
    assert config.init == "efficientiml"
    assert config.loss.levels == (1.0, 0.5)
    assert config.mix.splice == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optim.steps", r"--set: cannot be read: 'optim.steps'\. Write a key and a value"),
        ("=3", r"--set: cannot be read: '=3'"),
        ("optim.stepps=3", r"optim: unknown key 'stepps'"),
        ("optim.steps=many", r"optim: steps: must be int, not 'many'"),
        ("optim.steps.more=1", r"--set optim.steps.more: 'steps' is not a table"),
    ],
)
def test_a_key_that_cannot_be_set_is_named(change: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "preset.toml"
    path.write_text(DATA + "[optim]\nsteps = 5\n")
    with pytest.raises(ConfigError, match=message):
        load_config(path, [change])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.toml: there is no such file, and no built-in"):
        load_config(tmp_path / "gone.toml")


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "preset.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_config(path)
