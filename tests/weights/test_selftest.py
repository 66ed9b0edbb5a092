"""The self-test that weights carry."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from imlctl.core.diff_iml import DiffIML
from imlctl.core.light_vae import LightVAE
from imlctl.errors import WeightsError
from imlctl.weights.load import Card, attach, load, save
from imlctl.weights.selftest import answer, check_on_first_use, picture, take_self_test

if TYPE_CHECKING:
    from pathlib import Path

    from imlctl.core.efficient_iml import EfficientIML
    from imlctl.weights.load import Loaded


def pixels(image: torch.Tensor) -> bytes:
    return (image * 255).round().to(torch.uint8).numpy().tobytes()


def reference_picture(seed: int, side: int) -> bytes:
    """The recipe again, pixel by pixel, in whole numbers of any size."""
    count, values = 3 * side * side, []
    for index in range(count):
        noise = (index + seed * count) * 2654435761 % 2**32
        noise = (noise ^ (noise >> 15)) * 1540483477 % 2**32
        noise = (noise ^ (noise >> 13)) >> 26
        row, column = divmod(index % (side * side), side)
        values.append(noise + (row + 2 * column) * 192 // (3 * side))
    return bytes(values)


@pytest.mark.parametrize(("seed", "side"), [(0, 64), (1, 64), (123456, 32)])
def test_the_picture_is_its_recipe(seed: int, side: int) -> None:
    image = picture(seed, side)
    assert image.shape == (1, 3, side, side)
    assert image.dtype == torch.float32
    assert pixels(image) == reference_picture(seed, side)


def test_the_picture_is_the_same_for_ever() -> None:
    """Files in the world carry this hash; a change of the recipe would refuse them all."""
    expected = "fbea409ba94b111152a0277ef97e3bfb0ab33d69f6851a992fd57e290f7ec806"
    assert hashlib.sha256(pixels(picture(0))).hexdigest() == expected
    assert len(set(pixels(picture(0)))) > 200
    assert pixels(picture(0)) != pixels(picture(1))


def test_the_answer_is_blocks_and_score(small_model: EfficientIML) -> None:
    image = picture(0)
    values = answer(small_model, image)
    with torch.inference_mode():
        prediction = small_model(image)
    assert len(values) == 8 * 8 + 1
    assert values[9] == pytest.approx(float(prediction.logits[0, 0, 8:16, 8:16].mean()), abs=1e-5)
    assert values[-1] == prediction.score_logits[0]


@pytest.mark.parametrize("model", [LightVAE, DiffIML])
def test_other_models_answer_too(model: type[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = model().eval()
    path = tmp_path / "w.safetensors"
    name = {LightVAE: "light-vae", DiffIML: "diff-iml"}[model]
    save(path, made, Card(name, made.config.to_dict()))
    attach(path)
    loaded = load(path)
    assert len(loaded.card.self_test["answer"]) == 8 * 8 + (model is DiffIML)
    assert check_on_first_use(loaded, tmp_path / "memory")
    with torch.no_grad():
        for value in loaded.model.parameters():
            value *= 3
    with pytest.raises(WeightsError, match="fails its self-test"):
        check_on_first_use(loaded, tmp_path / "other")


def test_attached_to_a_file_it_changes_nothing_else(model_file: Path) -> None:
    before, tensors = load(model_file), load_file(model_file)
    attach(model_file)
    after = load(model_file)
    assert replace(after.card, self_test={}) == before.card
    assert after.card.self_test == take_self_test(before.model)
    for key, value in load_file(model_file).items():
        assert torch.equal(value, tensors[key])
        assert value.dtype == tensors[key].dtype


def test_passes_once_and_is_remembered(model_file: Path, tmp_path: Path) -> None:
    attach(model_file)
    loaded, memory = load(model_file), tmp_path / "memory"
    assert check_on_first_use(loaded, memory)
    assert not check_on_first_use(loaded, memory)
    assert len(list(memory.iterdir())) == 1
    assert check_on_first_use(replace(loaded, sha256="0" * 64), memory)  # other weights


def test_is_run_again_with_another_torch(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(model_file)
    check_on_first_use(load(model_file), tmp_path)
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert check_on_first_use(load(model_file), tmp_path)


def test_files_without_one_are_as_before(model_file: Path, tmp_path: Path) -> None:
    assert not check_on_first_use(load(model_file), tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


def test_a_memory_that_cannot_be_written_is_no_error(model_file: Path, tmp_path: Path) -> None:
    attach(model_file)
    (tmp_path / "memory").write_text("a file where the folder should be")
    assert check_on_first_use(load(model_file), tmp_path / "memory")


def damaged(loaded: Loaded, change: float) -> Loaded:
    with torch.no_grad():
        loaded.model.head.bias += change
    return loaded


@pytest.mark.parametrize("change", [0.05, -3.0, float("nan")])
def test_a_model_that_computes_something_else_is_refused_every_time(
    change: float, model_file: Path, tmp_path: Path
) -> None:
    attach(model_file)
    loaded = damaged(load(model_file), change)
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"fails its self-test: .* off") as caught:
            check_on_first_use(loaded, tmp_path / "memory")
    assert "Nothing was analysed" in caught.value.remedy
    assert not (tmp_path / "memory").exists()


def test_rounding_of_another_machine_is_tolerated(model_file: Path, tmp_path: Path) -> None:
    attach(model_file)
    assert check_on_first_use(damaged(load(model_file), 1e-3), tmp_path / "memory")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_sha256": "0" * 64}, "another picture or answer"),
        ({"version": 2}, "another picture or answer"),
        ({"answer": [0.0]}, "another picture or answer"),
        ({"answer": "zero"}, "cannot read"),
        ({"seed": "x"}, "cannot read"),
        ({"side": -4}, "cannot read"),
        ({"tolerance": None}, "cannot read"),
    ],
)
def test_a_self_test_of_another_kind(
    change: dict[str, Any], words: str, model_file: Path, tmp_path: Path
) -> None:
    attach(model_file)
    card = load(model_file).card
    text = json.dumps(replace(card, self_test=card.self_test | change).to_dict())
    save_file(load_file(model_file), model_file, metadata={"imlctl": text})
    with pytest.raises(WeightsError, match=words):
        check_on_first_use(load(model_file), tmp_path / "memory")
