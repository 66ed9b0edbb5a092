from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from imlctl.errors import ConfigError, WeightsError
from imlctl.forge import photos as regenerate
from imlctl.forge.photos import (
    PhotoPool,
    TinyAutoencoder,
    add_regenerated,
    autoencode,
    load_autoencoder,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with random weights in the layout of the files that madebyollin/taesd publishes."""
    torch.manual_seed(0)
    model = TinyAutoencoder()
    folder = tmp_path / "weights"
    folder.mkdir()
    for part in ("encoder", "decoder"):
        state = {k: v.half() for k, v in model.get_submodule(part).state_dict().items()}
        save_file(state, folder / f"taef2_{part}.safetensors")
    return folder


def test_layout_is_the_published_one() -> None:
    """Names and shapes read off taef2_encoder.safetensors and taef2_decoder.safetensors."""
    model = TinyAutoencoder()
    encoder, decoder = (model.get_submodule(p).state_dict() for p in ("encoder", "decoder"))
    assert len(encoder) == len(decoder) == 79
    for state, known in (
        (
            encoder,
            {
                "0.weight": (64, 3, 3, 3),
                "1.conv.4.bias": (64,),
                "10.weight": (64, 64, 3, 3),
                "11.pool.0.weight": (256, 64, 1, 1),
                "11.pool.1.weight": (256,),
                "11.pool.3.weight": (64, 256, 1, 1),
                "14.weight": (32, 64, 3, 3),
            },
        ),
        (
            decoder,
            {
                "1.weight": (64, 32, 3, 3),
                "3.pool.3.weight": (64, 256, 1, 1),
                "7.weight": (64, 64, 3, 3),
                "12.weight": (64, 64, 3, 3),
                "19.weight": (3, 64, 3, 3),
            },
        ),
    ):
        for key, shape in known.items():
            assert tuple(state[key].shape) == shape, key


def test_reads_what_was_saved(weights: Path) -> None:
    torch.manual_seed(0)
    original = TinyAutoencoder().eval()
    model, name = load_autoencoder(weights)
    assert len(name) == 12
    image = torch.rand(1, 3, 32, 40)
    with torch.inference_mode():
        out = model(image)
        assert out.shape == image.shape
        assert float(out.min()) >= 0
        assert float(out.max()) <= 1
        torch.testing.assert_close(out, original(image), rtol=0, atol=2e-3)


def test_prefixed_names_are_read_too(weights: Path, tmp_path: Path) -> None:
    model, _ = load_autoencoder(weights)
    folder = tmp_path / "prefixed"
    folder.mkdir()
    for part in ("encoder", "decoder"):
        state = {f"{part}.{k}": v for k, v in model.get_submodule(part).state_dict().items()}
        save_file({k: v.contiguous() for k, v in state.items()}, folder / f"x_{part}.safetensors")
    again, _ = load_autoencoder(folder)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_latent_is_an_eighth_of_the_size() -> None:
    with torch.inference_mode():
        latent = TinyAutoencoder().get_submodule("encoder")(torch.rand(1, 3, 64, 32))
    assert latent.shape == (1, 32, 8, 4)


@pytest.mark.parametrize("missing", ["encoder", "decoder"])
def test_refuses_a_folder_without_both_files(weights: Path, missing: str) -> None:
    (weights / f"taef2_{missing}.safetensors").unlink()
    with pytest.raises(ConfigError, match=rf"expected one \*_{missing}.safetensors, found 0"):
        load_autoencoder(weights)


def test_refuses_a_folder_with_two(weights: Path) -> None:
    (weights / "other_decoder.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="found 2"):
        load_autoencoder(weights)


@pytest.mark.parametrize("damage", ["other", "shape", "torn"])
def test_refuses_another_layout(weights: Path, damage: str) -> None:
    path = weights / "taef2_decoder.safetensors"
    state = {
        k: v.clone() for k, v in TinyAutoencoder().get_submodule("decoder").state_dict().items()
    }
    if damage == "other":
        save_file({"weight": torch.zeros(3)}, path)
    elif damage == "shape":
        save_file(state | {"1.weight": torch.zeros(64, 16, 3, 3)}, path)
    else:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"taef2_decoder.safetensors: not a tiny autoencoder"):
        load_autoencoder(weights)


@pytest.mark.parametrize("size", [(64, 64), (61, 83), (56, 71)])
def test_round_trip_keeps_the_size(
    size: tuple[int, int], weights: Path, photo: Callable[..., Any]
) -> None:
    model, _ = load_autoencoder(weights)
    pixels = photo(0, *size)
    out = autoencode(model, pixels)
    assert out.shape == pixels.shape
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous


def test_round_trip_leaves_every_pixel_in_its_place(photo: Callable[..., Any]) -> None:
    pixels = photo(0, 61, 83)
    nothing = cast("TinyAutoencoder", torch.nn.Identity())
    assert np.array_equal(autoencode(nothing, pixels), pixels)


class TestAddRegenerated:
    @pytest.fixture
    def small(self, photo: Callable[..., Any]) -> PhotoPool:
        photos = tuple(photo(seed, 64, 64 + 8 * seed) for seed in range(5))
        return PhotoPool(tuple("abcde"), photos, {}, {}, ("one skipped",))

    def test_regenerates_evenly_and_keeps_the_rest(
        self, small: PhotoPool, weights: Path, tmp_path: Path
    ) -> None:
        told: list[tuple[int, int]] = []
        pool = add_regenerated(
            small,
            weights,
            tmp_path / "cache",
            limit=3,
            report=lambda done, total: told.append((done, total)),
        )
        assert sorted(pool.regenerated) == [0, 2, 4]
        assert told == [(1, 3), (2, 3), (3, 3)]
        assert pool.photos is small.photos
        assert pool.skipped == small.skipped
        model, _ = load_autoencoder(weights)
        for index, pixels in pool.regenerated.items():
            assert np.array_equal(pixels, autoencode(model, small.photos[index]))

    @pytest.mark.parametrize(("limit", "count"), [(0, 0), (5, 5), (99, 5)])
    def test_limits(
        self, limit: int, count: int, small: PhotoPool, weights: Path, tmp_path: Path
    ) -> None:
        pool = add_regenerated(small, weights, tmp_path / "cache", limit=limit)
        assert len(pool.regenerated) == count

    def test_the_second_time_comes_from_the_cache(
        self, small: PhotoPool, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = add_regenerated(small, weights, tmp_path / "cache", limit=3).regenerated

        def never(*_: object) -> None:
            pytest.fail("computed again")

        monkeypatch.setattr(regenerate, "autoencode", never)
        second = add_regenerated(small, weights, tmp_path / "cache", limit=3).regenerated
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[i], second[i]) for i in first)

    def test_other_weights_have_another_cache(
        self, small: PhotoPool, weights: Path, tmp_path: Path
    ) -> None:
        cache = tmp_path / "cache"
        add_regenerated(small, weights, cache, limit=1)
        path = weights / "taef2_encoder.safetensors"
        state = TinyAutoencoder().get_submodule("encoder").state_dict()
        save_file({k: v.clone() for k, v in state.items()}, path)
        add_regenerated(small, weights, cache, limit=1)
        assert len(list(cache.iterdir())) == 2
        assert not list(cache.rglob("*.part"))
