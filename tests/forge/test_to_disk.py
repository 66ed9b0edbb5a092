from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imlctl.data.manifest import read_manifest
from imlctl.data.masks import read_mask
from imlctl.errors import ConfigError
from imlctl.forge.synthesizer import Mix, Synthesizer
from imlctl.forge.to_disk import KINDS, make_maker, synthesize

if TYPE_CHECKING:
    from pathlib import Path

    from imlctl.forge.photos import PhotoPool


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name + p.parent.name: p.read_bytes() for p in folder.rglob("*.png")}


def test_pictures_masks_and_manifest_agree(pool: PhotoPool, tmp_path: Path) -> None:
    make = Synthesizer(pool, size=64)
    listed = read_manifest(synthesize(make, 8, tmp_path / "s", name="mine", split="test"))
    assert [entry.image.stem for entry in listed] == [f"{n:07}" for n in range(8)]
    for number, entry in enumerate(listed):
        sample = make(number)
        assert (entry.set, entry.split) == ("mine", "test")
        assert np.array_equal(np.asarray(Image.open(entry.image)), sample.pixels)
        assert (entry.mask is not None) == sample.mask.any()
        if entry.mask is not None:
            assert np.array_equal(read_mask(entry.mask), sample.mask)
    assert {entry.mask is None for entry in listed} == {True, False}


def test_parts_make_the_whole(pool: PhotoPool, tmp_path: Path) -> None:
    make = Synthesizer(pool, size=64)
    synthesize(make, 5, tmp_path / "whole", name="s")
    manifests = [synthesize(make, 5, tmp_path / "parts", name="s", part=n, parts=2) for n in (1, 2)]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert [len(read_manifest(path)) for path in manifests] == [3, 2]


def test_goes_on_where_it_stopped(pool: PhotoPool, tmp_path: Path) -> None:
    real, made = Synthesizer(pool, size=64), []

    def make(index: int) -> Any:
        if index == 3 and made.count(3) == 0:
            made.append(3)
            raise KeyboardInterrupt
        made.append(index)
        return real(index)

    with pytest.raises(KeyboardInterrupt):
        synthesize(make, 5, tmp_path / "s", name="s")
    assert not (tmp_path / "s" / "manifest.csv").exists()
    synthesize(make, 5, tmp_path / "s", name="s")
    assert made == [0, 1, 2, 3, 3, 4]
    synthesize(real, 5, tmp_path / "whole", name="s")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_alone(kind: str, pool: PhotoPool) -> None:
    make = make_maker(pool, kind, size=64, mix=Mix(), seed=1)
    assert {make(n).kind for n in range(4)} <= {kind, "authentic"}


def test_kinds_that_cannot_be_made(pool: PhotoPool) -> None:
    with pytest.raises(ConfigError, match="unknown kind of forgery 'collage'"):
        make_maker(pool, "collage", size=64, mix=Mix(), seed=0)
    bare = replace(pool, regenerated={})
    with pytest.raises(ConfigError, match="need an autoencoder"):
        make_maker(bare, "regenerated", size=64, mix=Mix(), seed=0)
