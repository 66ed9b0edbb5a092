"""From what a user calls weights to a model in memory."""

from __future__ import annotations

import hashlib
import io
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imlctl.errors import WeightsError
from imlctl.mask.decide import Rule
from imlctl.pipeline import Localizer
from imlctl.settings import Settings
from imlctl.weights.load import Card, attach, load, open_weights, save
from imlctl.weights.pull import find, pull
from imlctl.weights.registry import WeightsEntry, load_registry

if TYPE_CHECKING:
    from pathlib import Path

    from imlctl.core.efficient_iml import EfficientIML


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def own(path: Path, **change: Any) -> WeightsEntry:
    values = {"source": "file", "file": str(path), "sha256": sha256(path), "licence": "MIT"}
    return WeightsEntry(name="own", **values | change)


def published(hub: Any, path: Path) -> str:
    hub.repo("lab/model").commit({"w.safetensors": path.read_bytes()}, ref="v1")
    return "hf://lab/model@v1/w.safetensors"


def test_a_name_a_file_and_a_reference_are_the_same_model(
    hub: Any, model_file: Path, add_entry: Any
) -> None:
    add_entry(own(model_file))
    text = published(hub, model_file)
    pull(text, trust_on_first_use=True)
    for wanted in ("own", model_file, str(model_file), text):
        loaded = open_weights(wanted)
        assert (loaded.name, loaded.sha256) == (str(wanted), sha256(model_file))


def test_the_pipeline_takes_all_of_them(hub: Any, model_file: Path, add_entry: Any) -> None:
    add_entry(own(model_file))
    text = published(hub, model_file)
    pull(text, trust_on_first_use=True)
    hub.log.clear()
    for wanted in ("own", model_file, str(model_file), text):
        localizer = Localizer(Settings(weights=wanted, device="cpu"))
        assert localizer.provenance["model"] == str(wanted)
        assert localizer.provenance["weights_sha256"] == sha256(model_file)
    assert Localizer(Settings(model="own", device="cpu")).card.rule.threshold == 0.4
    assert hub.log == []


def test_nothing_given_is_the_default() -> None:
    default = load_registry()[load_registry().default]
    found = find(default.name)
    assert (found.path, found.sha256, found.entry) == (default.path, default.sha256, default)


@pytest.mark.parametrize("name", ["nonsense", "efficient-iml"])
def test_a_mistyped_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(WeightsError, match=rf"no weights named '{name}'.*efficientiml"):
        open_weights(name)


@pytest.mark.parametrize(
    "text", ["gone.safetensors", "./gone", "some/where/gone", "some/gone.safetensors"]
)
def test_a_path_is_a_path(text: str) -> None:
    with pytest.raises(WeightsError, match=rf"^{text}: cannot be read \(No such file"):
        open_weights(text)


def test_a_file_in_the_current_folder_needs_no_ending(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_file.parent)
    model_file.rename(model_file.parent / "plain")
    assert open_weights("plain").name == "plain"


def test_using_weights_never_fetches_them(hub: Any, model_file: Path) -> None:
    text = published(hub, model_file)
    for wanted in (text, "taesd"):
        with pytest.raises(WeightsError, match="fetched only when asked for") as caught:
            find(wanted)
        assert caught.value.remedy.endswith(f"imlctl weights pull {wanted}")
    assert hub.log == []


def test_what_another_program_cached_is_not_trusted(hub: Any, model_file: Path) -> None:
    from huggingface_hub import hf_hub_download

    text = published(hub, model_file)
    hf_hub_download("lab/model", "w.safetensors", revision="v1")
    with pytest.raises(WeightsError, match="fetched only when asked for"):
        find(text)


@pytest.mark.parametrize("name", ["mit-b0", "sd-vae-ft-mse"])
def test_only_models_localize(name: str) -> None:
    kind = load_registry()[name].kind
    with pytest.raises(WeightsError, match=f"{name}: is of kind '{kind}', and a model is needed"):
        open_weights(name)


def test_parts_of_models_do_not(tmp_path: Path) -> None:
    from imlctl.core.light_vae import LightVAE

    path = tmp_path / "vae.safetensors"
    vae: Any = LightVAE()
    save(path, vae, Card("light-vae", vae.config.to_dict()))
    with pytest.raises(WeightsError, match="holds 'light-vae', which marks no pixels by itself"):
        open_weights(path)


@pytest.mark.parametrize("where", ["own", "hub"])
def test_bytes_that_changed_on_this_machine_are_refused(
    where: str,
    hub: Any,
    model_file: Path,
    small_model: EfficientIML,
    add_entry: Any,
) -> None:
    add_entry(own(model_file))
    text = published(hub, model_file)
    cached = pull(text, trust_on_first_use=True).path
    before = sha256(model_file)
    card = load(model_file).card
    victim, wanted = (model_file, "own") if where == "own" else (cached.resolve(), text)
    save(victim, small_model, replace(card, rule=Rule(threshold=0.9)))  # valid, and not what it was
    with pytest.raises(WeightsError) as caught:
        open_weights(wanted)
    assert f"has sha256 {sha256(victim)}, expected {before}" in caught.value.what
    assert victim.exists()


def test_a_file_that_is_not_what_its_entry_says(model_file: Path, add_entry: Any) -> None:
    add_entry(own(model_file, architecture="diff-iml"))
    with pytest.raises(WeightsError, match=r"^own: holds 'efficient-iml', .* says 'diff-iml'"):
        open_weights("own")


def test_the_self_test_runs_once(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(model_file)
    open_weights(model_file)
    (memory,) = (tmp_path / "cache" / "imlctl" / "self-tests").iterdir()
    assert memory.name.startswith(sha256(model_file))
    monkeypatch.setattr("imlctl.weights.selftest.answer", None)  # would fail if it were called
    assert open_weights(model_file).card.self_test


def test_with_sockets_blocked_the_bundled_weights_localize(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    photo = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    result = Localizer(Settings(device="cpu")).localize(buffer.getvalue())
    assert result.probability.shape == (64, 80)


@pytest.mark.parametrize("home", ["/dev/null", "read-only"])
def test_a_home_that_cannot_be_written_to_is_enough(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o500)
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", home if home == "/dev/null" else str(folder))
    assert open_weights("efficientiml").name == "efficientiml"
    with pytest.raises(WeightsError, match="is not on this machine"):
        find("hf://lab/model/w.safetensors")
