"""From a photograph to a result."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import imlctl
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import SIZES
from imlctl.errors import (
    DecodeError,
    InputError,
    NumericalError,
    TooLargeError,
    UsageError,
    WeightsError,
)
from imlctl.mask.decide import EVIDENCE, Rule, Verdict, critical
from imlctl.mask.rates import measured
from imlctl.pipeline import Localizer
from imlctl.settings import Sampling, Settings
from imlctl.weights.load import Card, load, save


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = EfficientIML(EfficientIMLConfig(backbone=SIZES["tiny"], width=16))
    for _ in range(3):  # norms with statistics of their own, so that fusing does something
        model(torch.rand(2, 3, 64, 64))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save(path, model, Card("efficient-iml", model.config.to_dict(), Rule(threshold=0.2)))
    return path


@pytest.fixture(scope="module")
def localizer(weights: Path) -> Localizer:
    return Localizer(Settings(weights=weights, device="cpu", tile=128))


def photo(height: int = 90, width: int = 120, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_path_bytes_and_stream_are_the_same_photograph(
    localizer: Localizer, tmp_path: Path
) -> None:
    data = encoded(photo())
    path = tmp_path / "a.png"
    path.write_bytes(data)
    sources = (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data))
    results = [localizer.localize(source) for source in sources]
    for result in results:
        assert result.probability.shape == (90, 120)
        assert result.probability.dtype == np.float32
        assert result.photo.sha256 == hashlib.sha256(data).hexdigest()
        np.testing.assert_array_equal(result.probability, results[0].probability)
    assert results[0].photo.source == str(path)
    assert localizer.localize(data, name="scan 7").record().path == "scan 7"


def test_a_mask_does_not_depend_on_what_came_before(weights: Path) -> None:
    first, second = encoded(photo(seed=1)), encoded(photo(64, 200, seed=2))
    fresh = Localizer(Settings(weights=weights, tile=128)).localize(second).probability
    used = Localizer(Settings(weights=weights, tile=128))
    used.localize(first)
    np.testing.assert_array_equal(used.localize(second).probability, fresh)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_stored_pixels_are_analysed_and_the_mask_is_delivered_upright(
    localizer: Localizer, orientation: int
) -> None:
    image = photo()
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = localizer.localize(encoded(image, exif=exif))
    stored = localizer.localize(encoded(image)).probability
    expected = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: stored.T[:, ::-1],
        7: stored[::-1, ::-1].T,
        8: stored.T[::-1],
    }[orientation]
    np.testing.assert_array_equal(turned.probability, expected)
    assert turned.pixels.shape[:2] == turned.probability.shape


def test_a_large_picture_is_analysed_in_tiles_at_native_resolution(
    weights: Path, localizer: Localizer
) -> None:
    data = encoded(photo(300, 290))
    tiled = localizer.localize(data)
    whole = Localizer(Settings(weights=weights, tile=1024)).localize(data)
    assert tiled.probability.shape == whole.probability.shape == (300, 290)
    assert not np.array_equal(tiled.probability, whole.probability)
    assert tiled.record().to_dict()["settings"]["tile"] == 128


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 900), (700, 3)])
def test_extreme_shapes(localizer: Localizer, height: int, width: int) -> None:
    result = localizer.localize(encoded(photo(height, width)))
    assert result.probability.shape == (height, width)
    assert np.isfinite(result.probability).all()


def test_black_sixteen_bit_grey_and_cmyk_are_analysed(localizer: Localizer) -> None:
    black = Image.new("RGB", (80, 70))
    deep = Image.fromarray(np.arange(80 * 70, dtype=np.uint16).reshape(70, 80) * 11)
    for data in (encoded(black), encoded(deep), encoded(photo().convert("CMYK"), "TIFF")):
        assert np.isfinite(localizer.localize(data).probability).all()
    assert localizer.localize(encoded(deep)).record().to_dict()["facts"]["bit_depth"] == 16


def test_threshold_comes_from_the_weights_unless_given(weights: Path, localizer: Localizer) -> None:
    assert localizer.localize(encoded(photo())).decision.threshold <= 0.2
    strict = Localizer(Settings(weights=weights, threshold=0.9))
    result = strict.localize(encoded(photo()))
    np.testing.assert_array_equal(result.decision.mask, result.probability >= 0.9)
    with pytest.raises(UsageError, match="threshold"):
        Settings(threshold=0.0)


def test_the_score_is_read_from_the_map_where_the_weights_say_how(
    weights: Path, localizer: Localizer, tmp_path: Path
) -> None:
    loaded = load(weights)
    path = tmp_path / "scaled.safetensors"
    save(path, loaded.model, replace(loaded.card, score_scale=(1.5, -0.25)))
    result = Localizer(Settings(weights=path)).localize(encoded(photo()))
    level = critical(result.probability, EVIDENCE)
    odds = math.log(level / (1 - level))
    assert result.score == pytest.approx(1 / (1 + math.exp(-(1.5 * odds - 0.25))))
    assert result.record().to_dict()["score"] == result.score
    assert result.score != localizer.localize(encoded(photo())).score  # the model's own number


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, True),
        ({"threshold": 0.3}, True),  # which changes marks, not scores
        ({"sampling": Sampling(seed=3)}, True),
        ({"sampling": Sampling(tta=True)}, False),
        ({"tile": 512}, False),
    ],
)
def test_rates_are_told_for_the_settings_that_they_were_measured_with(
    weights: Path, tmp_path: Path, settings: dict[str, Any], told: bool
) -> None:
    rates = measured("of a test", [(Verdict.MANIPULATED, 0.2)], list(Verdict))
    loaded = load(weights)
    path = tmp_path / "measured.safetensors"
    save(path, loaded.model, replace(loaded.card, rates=rates))
    record = Localizer(Settings(weights=path, **settings)).localize(encoded(photo())).to_dict()
    assert (record["rates"] is not None) == told
    if told:
        assert record["rates"]["pictures"] == "of a test"
        assert record["rates"]["authentic"]["of"] == 3


def test_record_and_pictures(localizer: Localizer) -> None:
    result = localizer.localize(encoded(photo()))
    record = json.loads(result.record().to_json())
    assert record["verdict"] == str(result.verdict)
    assert record["weights_sha256"] == localizer.provenance["weights_sha256"]
    assert record["device"] == "cpu"
    mask = np.asarray(Image.open(io.BytesIO(result.mask_png())))
    np.testing.assert_array_equal(mask, np.where(result.decision.mask, 255, 0))
    soft = np.asarray(Image.open(io.BytesIO(result.soft_png())))
    np.testing.assert_allclose(soft / 65535, result.probability, atol=1e-5)
    for png in (result.overlay_png(), result.heatmap_png()):
        assert Image.open(io.BytesIO(png)).mode == "RGB"


def test_bad_input_is_an_error_and_never_a_mask(localizer: Localizer, tmp_path: Path) -> None:
    data = encoded(photo(), "JPEG")
    with pytest.raises(DecodeError, match=r"cut\.jpg"):
        localizer.localize(data[: len(data) // 2], name="cut.jpg")
    with pytest.raises(InputError, match=r"missing\.png"):
        localizer.localize(tmp_path / "missing.png")


@pytest.mark.parametrize("part", ["head", "score"])
def test_a_model_that_returns_nan_gives_an_error(weights: Path, part: str) -> None:
    localizer = Localizer(Settings(weights=weights))
    layer = localizer.model.head if part == "head" else localizer.model.score[2]
    torch.nn.init.constant_(layer.bias, float("nan"))
    with pytest.raises(NumericalError, match="NaN"):
        localizer.localize(encoded(photo()))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16", "array", "grey", "deep"])
def test_pixels_are_localized_and_their_record_says_that_no_file_was_hashed(
    localizer: Localizer, mode: str
) -> None:
    arrays = {
        "array": np.asarray(photo()),
        "grey": np.asarray(photo().convert("L")),
        "deep": np.asarray(photo()).astype(np.uint16) * 257,
    }
    if mode == "I;16":
        source = Image.fromarray(arrays["grey"].astype(np.uint16) * 257)
    else:
        source = arrays[mode] if mode in arrays else photo().convert(mode)
    result = localizer.localize(source, name="pixels of mine")
    record = result.to_dict()
    assert record["path"] == "pixels of mine"
    assert "no file was hashed" in record["warnings"][0]
    assert len(record["sha256"]) == 64
    if mode in ("RGB", "RGBA", "array", "deep"):  # the same samples as in a file
        from_file = localizer.localize(encoded(photo()))
        assert from_file.photo.sha256 != record["sha256"]
        np.testing.assert_allclose(result.probability, from_file.probability, atol=1e-5)


def test_an_image_of_pillows_is_turned_as_its_exif_says(localizer: Localizer) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(io.BytesIO(encoded(photo(), exif=exif))) as image:
        assert localizer.localize(image).probability.shape == (120, 90)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (None, UsageError, "cannot localize NoneType"),
        (7, UsageError, "cannot localize int"),
        (io.StringIO("text"), UsageError, "cannot localize a text file"),
        (np.zeros((8, 8, 3), np.float32), DecodeError, "type float32 is no picture"),
        (np.zeros((8, 8, 4), np.uint8), DecodeError, r"shape \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), DecodeError, r"shape \(0, 8, 3\)"),
        (Image.new("CMYK", (8, 8)), DecodeError, "mode CMYK"),
        (Image.new("F", (8, 8)), DecodeError, "mode F"),
    ],
)
def test_what_is_no_picture_is_refused(
    localizer: Localizer, source: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        localizer.localize(source)


def test_pixels_beyond_the_limit_are_refused(weights: Path) -> None:
    small = Localizer(Settings(weights=weights, device="cpu", max_pixels=100))
    with pytest.raises(TooLargeError):
        small.localize(np.zeros((11, 10, 3), np.uint8))


def test_a_result_shows_itself_in_a_notebook(localizer: Localizer) -> None:
    result = localizer.localize(encoded(photo()), name="a.png")
    assert repr(result).startswith(f"<a.png: {result.verdict}, score 0.")
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert shown.format == "PNG"
        assert 120 <= max(shown.size) <= 1200
    assert result.to_dict() == result.record().to_dict()


def test_tiles_of_a_large_picture_tell_their_progress(localizer: Localizer) -> None:
    told: list[tuple[int, int]] = []
    localizer.localize(photo(128, 320), progress=lambda *each: told.append(each))
    assert told == [(done, told[0][1]) for done in range(told[0][1] + 1)]
    assert told[0][1] > 1


def test_the_package_shows_its_interface_and_checks_its_settings(weights: Path) -> None:
    assert {"load", "scan", "Localizer", "Result", "Settings"} <= set(dir(imlctl))
    for name in dir(imlctl):
        assert getattr(imlctl, name)
    with pytest.raises(UsageError, match=r"no setting 'treshold'.*Known are .*threshold"):
        imlctl.load(treshold=0.5)
    with pytest.raises(UsageError, match=r"no setting 'xyz'.*Known are device, ensemble"):
        imlctl.load(xyz=1)
    made = imlctl.load(weights=weights, seed=3, tta=True).settings.sampling
    assert (made.seed, made.tta) == (3, True)


def test_a_folder_is_scanned_from_python(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.png").write_bytes(encoded(photo()))
    (tmp_path / "deep" / "b.jpg").write_bytes(encoded(photo(), "JPEG")[:500])
    records = {
        Path(record["path"]).name: record
        for record in imlctl.scan(tmp_path, weights=weights, device="cpu", jobs=0)
    }
    assert records["a.png"]["verdict"] in ("manipulated", "inconclusive", "nothing found")
    assert records["b.jpg"]["verdict"] == "failed"
    with pytest.raises(UsageError, match="no setting 'job'"):
        imlctl.scan(tmp_path, job=1)


def test_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(WeightsError, match="efficientiml"):
        imlctl.load("no-such-model")


def test_bundled_weights_work_offline_from_python() -> None:
    result = imlctl.load().localize(encoded(photo(128, 128)))
    assert 0 <= result.score <= 1
    assert result.record().to_dict()["model"] == "efficientiml"


def test_importing_the_package_is_light() -> None:
    code = "import sys, imlctl; sys.exit(bool({'torch', 'cv2', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="nonsense"):
        _ = imlctl.nonsense


def test_cold_start_imports_no_compiler(weights: Path, tmp_path: Path) -> None:
    """The first picture must not pay for what it does not use, such as torch's compiler."""
    path = tmp_path / "a.png"
    path.write_bytes(encoded(photo()))
    code = (
        "import sys, imlctl; from pathlib import Path;"
        f"imlctl.load(weights=Path({str(weights)!r})).localize({str(path)!r});"
        "core = {'imlctl.core.imagenet', 'imlctl.core.diff_iml'};"
        "never = core | {'torch._dynamo', 'huggingface_hub'};"
        "sys.exit(bool(never & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("used", [False, True])
def test_a_forked_child_computes_instead_of_hanging(weights: Path, used: bool) -> None:
    """With one thread, as it says; the parent may have used its own before."""
    script = (
        "import os, sys, torch\n"
        "torch.set_num_threads(2)\n"
        "import imlctl\n"
        f"localizer = imlctl.load(weights={str(weights)!r})\n"
        "data = sys.stdin.buffer.read()\n"
        f"{'localizer.localize(data)' if used else ''}\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    result = localizer.localize(data)\n"
        "    os._exit(0 if result.provenance['settings']['threads'] == 1 else 9)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    data = encoded(photo(300, 280))
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", script]
    subprocess.run(command, input=data, check=True, timeout=120, env=environment)
