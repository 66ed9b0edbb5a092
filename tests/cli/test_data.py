"""`imlctl data index` and `synthesize` as a user meets them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from imlctl.data.manifest import read_manifest
from imlctl.errors import Exit


@pytest.fixture
def tree(tmp_path):
    rng = np.random.default_rng(0)
    box = np.zeros((40, 50), np.uint8)
    box[5:20, 5:20] = 255
    for kind in ("tampered", "masks", "authentic"):
        (tmp_path / "set" / kind).mkdir(parents=True)
    for name in "abcdefgh":
        for kind in ("tampered", "authentic"):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / kind / f"{name}.png")
        Image.fromarray(box).save(tmp_path / "set" / "masks" / f"{name}.png")
    return tmp_path / "set"


def test_index(run, tree, tmp_path):
    ran = run("data", "index", tree, "-o", tmp_path / "m.csv", "--split", "test")
    assert ran.code == Exit.OK
    assert "layout tree, 0 left out" in ran.out
    assert "set test: 8 tampered, 8 authentic" in ran.out
    assert len(read_manifest(tmp_path / "m.csv")) == 16


def test_what_is_wrong_is_named_and_the_exit_code_says_so(run, tree, tmp_path):
    (tree / "tampered" / "b.png").write_bytes(b"torn")
    (tree / "masks" / "c.png").unlink()
    ran = run("data", "index", tree, "-o", tmp_path / "m.csv", "--hold-out", 0.5, "--set", "mine")
    assert ran.code == Exit.SOME_FAILED
    assert "b.png" in ran.err
    assert "c.png: has no mask" in ran.err
    found = read_manifest(tmp_path / "m.csv")
    assert len(found) == 14
    assert {entry.set for entry in found} == {"mine"}
    assert {entry.split for entry in found} == {"train", "val"}


def test_against_another_manifest(run, tree, tmp_path):
    run("data", "index", tree, "-o", tmp_path / "train.csv")
    ran = run(
        *("data", "index", tree, "-o", tmp_path / "test.csv", "--split", "test"),
        *("--against", tmp_path / "train.csv"),
    )
    assert ran.code == Exit.USAGE  # nothing is left
    assert "which is in split 'train'" in ran.err
    assert "no usable picture" in ran.err
    assert not (tmp_path / "test.csv").exists()


def test_refusals(run, tree, tmp_path):
    (tmp_path / "m.csv").write_text("mine")
    ran = run("data", "index", tree, "-o", tmp_path / "m.csv")
    assert ran.code == Exit.USAGE
    assert (tmp_path / "m.csv").read_text() == "mine"
    assert run("data", "index", tree, "-o", tmp_path / "m.csv", "--force").code == Exit.OK
    ran = run("data", "index", tmp_path / "gone", "-o", tmp_path / "n.csv")
    assert (ran.code, "no such folder" in ran.err) == (Exit.USAGE, True)


def test_layouts_are_listed(run):
    ran = run("data", "index", "--layouts")
    assert ran.code == Exit.OK
    assert "casia2 " in ran.out
    assert "tampcoco" in ran.out


@pytest.fixture
def preset(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 14, 3), dtype=np.uint8))
        coarse.resize((220, 200), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    path = tmp_path / "preset.toml"
    path.write_text(f'[data]\nphotos = ["{folder}"]\nvalidation_share = 0.0\n[optim]\nsize = 64\n')
    return path


def test_synthesize(run, preset, tmp_path):
    """What is made can be indexed, and is what was asked for."""
    arguments = ("data", "synthesize", preset, "-o", tmp_path / "set", "--count", 4)
    ran = run(*arguments, "--kind", "splice", "--split", "test", "--seed", 3)
    assert ran.code == Exit.OK
    assert ran.out.strip() == str(tmp_path / "set" / "manifest.csv")
    found = read_manifest(tmp_path / "set" / "manifest.csv")
    assert [entry.split for entry in found] == ["test"] * 4
    assert all(entry.mask for entry in found)
    ran = run("data", "index", tmp_path / "set", "-o", tmp_path / "m.csv")
    assert (ran.code, "layout pairs" in ran.out) == (Exit.OK, True)
    assert {e.sha256 for e in read_manifest(tmp_path / "m.csv")} == {e.sha256 for e in found}


def test_synthesize_in_parts(run, preset, tmp_path):
    for part in ("1/2", "2/2"):
        arguments = ("data", "synthesize", preset, "-o", tmp_path / "set", "--count", 3)
        assert run(*arguments, "--shard", part).code == Exit.OK
    made = sorted(p.name for p in (tmp_path / "set" / "images").iterdir())
    assert made == [f"{n:07}.png" for n in range(3)]
    ran = run("data", "synthesize", preset, "-o", tmp_path / "set", "--shard", "3/2")
    assert ran.code == Exit.USAGE
    ran = run("data", "synthesize", preset, "-o", tmp_path / "x", "--kind", "collage")
    assert (ran.code, "unknown kind" in ran.err) == (Exit.USAGE, True)


@pytest.fixture
def judged(preset):
    """The same preset, with photographs held out."""
    preset.write_text(
        preset.read_text().replace("validation_share = 0.0", "validation_share = 0.5")
    )
    return preset


def test_a_seeded_set_is_made_again_bit_for_bit(run, judged, tmp_path):
    """Its manifest holds the hash of every picture: one text says whether two sets are one."""
    made = []
    for name in "ab":
        arguments = ("data", "synthesize", judged, "-o", tmp_path / name, "--count", 6, "--seed", 9)
        assert run(*arguments, "--held-out", "--split", "test").code == Exit.OK
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        made.append({str(p.relative_to(tmp_path / name)): p.read_bytes() for p in files})
    assert made[0] == made[1]
    assert len(made[0]) > 7
