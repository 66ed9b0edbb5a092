from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.errors import WeightsError
from imlctl.mask.decide import Rule, Verdict
from imlctl.mask.rates import measured
from imlctl.weights.load import Card, load, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIG = EfficientIMLConfig(EfficientRWKVConfig(dims=(16, 16, 32), depths=(1, 1, 1)), width=16)
PLAIN = json.loads(json.dumps(CONFIG.to_dict()))
CARD = Card(
    "efficient-iml",
    PLAIN,
    Rule(0.9, 0.4),
    {"steps": 3, "photos": ["a", "b"]},
    score_scale=(0.8, -1.5),
)


@pytest.fixture
def model() -> EfficientIML:
    torch.manual_seed(0)
    model = EfficientIML(CONFIG).eval()
    for name, value in model.state_dict().items():
        if name == "backbone.stem.first.norm.running_var":
            value.uniform_(1e-12, 1e-9)  # as after flat pictures: below float16
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            value.normal_(0, 0.1)
    return model


@pytest.fixture
def path(model: EfficientIML, tmp_path: Path) -> Path:
    save(tmp_path / "w.safetensors", model, CARD)
    return tmp_path / "w.safetensors"


def rewrite(path: Path, change: dict[str, Any], *, drop: str = "", card: Any = None) -> Path:
    """Write the file again with some tensors changed, one dropped, or another metadata document."""
    tensors = load_file(path) | change
    tensors.pop(drop, None)
    text = json.dumps(CARD.to_dict() if card is None else card)
    save_file(tensors, path, metadata={"imlctl": text})
    return path


class TestRoundTrip:
    def test_exact_in_full_precision(self, model: EfficientIML, tmp_path: Path) -> None:
        save(tmp_path / "w.safetensors", model, CARD, half=False)
        loaded = load(tmp_path / "w.safetensors")
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.model.state_dict()[key], value), key

    def test_half_precision_keeps_the_answers(self, model: EfficientIML, path: Path) -> None:
        stored = load_file(path)
        loaded = load(path).model.state_dict()
        for key, value in model.state_dict().items():
            matrix = value.ndim >= 2 and value.is_floating_point()
            assert stored[key].dtype == (torch.float16 if matrix else value.dtype), key
            assert loaded[key].dtype == value.dtype, key
            expected = value.half().float() if matrix else value
            assert torch.equal(loaded[key], expected), key

    def test_running_variances_survive(self, path: Path) -> None:
        loaded = load(path).model
        for name, value in loaded.state_dict().items():
            if name.endswith("running_var"):
                assert (value > 0).all(), name
        assert torch.isfinite(loaded(torch.rand(1, 3, 64, 64)).logits).all()

    def test_weights_beyond_float16_are_kept_in_full(
        self, model: EfficientIML, tmp_path: Path
    ) -> None:
        with torch.no_grad():
            model.head.weight[0, 0] = 1e6
        save(tmp_path / "w.safetensors", model, CARD)
        assert float(load(tmp_path / "w.safetensors").model.head.weight[0, 0].detach()) == 1e6

    def test_ready_for_inference(self, path: Path) -> None:
        loaded = load(path)
        assert not loaded.model.training
        assert loaded.model.config == CONFIG
        assert all(v.device.type == "cpu" for v in loaded.model.state_dict().values())

    def test_where_it_came_from(self, path: Path) -> None:
        loaded = load(path)
        assert loaded.card == CARD
        assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert loaded.name == str(path)
        assert load(path, name="builtin").name == "builtin"
        assert load(path, expected_sha256=loaded.sha256).sha256 == loaded.sha256

    def test_the_same_weights_make_the_same_file(
        self, model: EfficientIML, path: Path, tmp_path: Path
    ) -> None:
        save(tmp_path / "again.safetensors", model, CARD)
        assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()

    def test_channels_last_is_stored_like_any_other(
        self, model: EfficientIML, path: Path, tmp_path: Path
    ) -> None:
        turned = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        save(tmp_path / "again.safetensors", turned, CARD)
        assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()

    def test_replaces_and_leaves_no_other_file(self, model: EfficientIML, path: Path) -> None:
        save(path, model, replace(CARD, rule=Rule(0.7, 0.6)))
        assert load(path).card.rule == Rule(0.7, 0.6)
        assert list(path.parent.iterdir()) == [path]


class TestCard:
    def test_travels_with_the_weights(self, path: Path) -> None:
        assert load(path).card == CARD

    def test_defaults(self) -> None:
        card = Card("efficient-iml", {})
        assert (card.rule, card.rates, card.training) == (Rule(), None, {})

    def test_holds_measured_rates(self, model: EfficientIML, path: Path) -> None:
        rates = measured("of a test", [(Verdict.MANIPULATED, 0.2)], [Verdict.NOTHING_FOUND])
        save(path, model, replace(CARD, rates=rates))
        assert load(path).card.rates == rates

    @pytest.mark.parametrize("scale", [(0.0, 1.0), (-1.0, 0.0), (1.0, float("nan"))])
    def test_refuses_a_score_that_does_not_rise(self, scale: tuple[float, float]) -> None:
        with pytest.raises(ValueError, match="score_scale"):
            replace(CARD, score_scale=scale)


class TestRefusals:
    @pytest.mark.parametrize("suffix", [".pt", ".PTH", ".bin", ".ckpt", ".pkl", ".pickle"])
    def test_pickles_are_not_even_opened(self, suffix: str, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"model.*: is a pickle, .*refused") as caught:
            load(tmp_path / f"model{suffix}")
        assert "imlctl weights convert" in caught.value.remedy

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"gone.safetensors: cannot be read \(No such file"):
            load(tmp_path / "gone.safetensors")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"cannot be read \(Is a directory"):
            load(tmp_path)

    def test_wrong_hash_says_both(self, path: Path) -> None:
        wrong = "ab" * 32
        actual = hashlib.sha256(path.read_bytes()).hexdigest()
        with pytest.raises(
            WeightsError, match=f"w.safetensors: has sha256 {actual}, expected {wrong}"
        ):
            load(path, expected_sha256=wrong)

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda _: b"", "not safetensors: it ends after 0 bytes"),
            (lambda data: data[:5], "not safetensors: it ends after 5 bytes"),
            (lambda data: data[:-1], r"truncated to \d+ of at least"),
            (lambda data: data[:500], "truncated to 500 of at least"),
            (lambda data: data + b"x", "is damaged or not safetensors"),
            (lambda data: (1 << 60).to_bytes(8, "little") + data[8:], "announces a header of"),
            (lambda data: data[:8] + b"{" * 1000 + data[1008:], "no valid header"),
            (lambda data: data[:8] + b"[" * len(data), "no valid header"),
            (lambda _: (2).to_bytes(8, "little") + b"[]", "no valid header"),
            (lambda _: (5).to_bytes(8, "little") + b'{"a":', "no valid header"),
            (lambda _: (8).to_bytes(8, "little") + b'{"a": 3}', "no valid header"),
            (lambda _: b"not tensors at all, whatever the suffix says", "announces a header of"),
        ],
    )
    def test_damaged(self, damage: Callable[[bytes], bytes], words: str, path: Path) -> None:
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(WeightsError, match=rf"w.safetensors: .*{words}") as caught:
            load(path)
        assert "is damaged" in caught.value.what
        assert caught.value.remedy == "Get the file again."

    @pytest.mark.parametrize(
        ("start", "words"),
        [
            (b"PK\x03\x04", "is a pickle in a zip archive"),
            (b"\x80\x04\x95", "is a pickle, whatever its name says"),
            (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
            (b"<!DOCTYPE html>", "is a page of text"),
        ],
    )
    def test_something_else_under_the_name_of_weights(
        self, start: bytes, words: str, path: Path
    ) -> None:
        path.write_bytes(start + b"\xff" * 100)
        with pytest.raises(WeightsError, match=f"w.safetensors: {words}"):
            load(path)

    def test_flipped_metadata(self, path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(
            data[:8] + data[8:].replace(b'\\"architecture\\"', b'\\"archi-ecture\\"', 1)
        )
        with pytest.raises(WeightsError, match="has metadata that this version cannot read"):
            load(path)

    def test_foreign(self, path: Path) -> None:
        save_file({"layer.weight": torch.zeros(3)}, path)
        with pytest.raises(WeightsError, match=r"w.safetensors: holds no imlctl metadata"):
            load(path)

    @pytest.mark.parametrize(
        "card",
        [
            3,
            [],
            {},
            {"architecture": "efficient-iml"},
            {"architecture": ["efficient-iml"], "config": {}},
            {"architecture": "efficient-iml", "config": 3},
            {"architecture": "efficient-iml", "config": {}, "threshold": "high"},
            {"architecture": "efficient-iml", "config": {}, "threshold": 7},
            {"architecture": "efficient-iml", "config": {}, "future": 1},
        ],
    )
    def test_metadata_of_another_kind(self, card: Any, path: Path) -> None:
        rewrite(path, {}, card=card)
        with pytest.raises(WeightsError, match=r"w.safetensors: has metadata that this version"):
            load(path)

    @pytest.mark.parametrize("change", [{"architecture": "other-iml"}, {"format": 9}])
    def test_another_architecture_or_format(self, change: dict[str, Any], path: Path) -> None:
        rewrite(path, {}, card=CARD.to_dict() | change)
        with pytest.raises(
            WeightsError, match=r"is for architecture '.*', format \d\. This version"
        ):
            load(path)

    @pytest.mark.parametrize(
        "config",
        [
            {"width": 0},
            {"width": "wide"},
            {"depth": 3},
            {"backbone": 3},
            {"backbone": {"dims": [16, 16]}},
            {"backbone": {"dims": [16, 16, 17]}},
            {"backbone": {"mixing": "v9"}},
            {"width": 1 << 40},
        ],
    )
    def test_configuration_that_cannot_be_built(self, config: dict[str, Any], path: Path) -> None:
        rewrite(path, {}, card=asdict(CARD) | {"config": config})
        with pytest.raises(WeightsError, match="has a configuration that cannot be built"):
            load(path)

    def test_configuration_of_another_size(self, path: Path) -> None:
        other = replace(CONFIG, width=32).to_dict()
        rewrite(path, {}, card=asdict(CARD) | {"config": other})
        with pytest.raises(
            WeightsError, match=r"has the wrong shape in 'head.weight' and \d+ more"
        ):
            load(path)

    def test_missing_tensor(self, path: Path) -> None:
        rewrite(path, {}, drop="head.bias")
        with pytest.raises(WeightsError, match=r"w.safetensors: lacks the tensor 'head.bias'\."):
            load(path)

    def test_extra_tensors(self, path: Path) -> None:
        rewrite(path, {"zebra": torch.zeros(2), "ape": torch.zeros(2)})
        with pytest.raises(WeightsError, match=r"has the unknown tensor 'ape' and 1 more\."):
            load(path)

    def test_wrong_shape(self, path: Path) -> None:
        rewrite(path, {"head.bias": torch.zeros(2)})
        with pytest.raises(WeightsError, match=r"has the wrong shape in 'head.bias'\."):
            load(path)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_not_a_number(self, value: float, path: Path) -> None:
        rewrite(path, {"head.bias": torch.tensor([value])})
        with pytest.raises(WeightsError, match=r"holds NaN or infinity in 'head.bias'"):
            load(path)

    def test_beyond_the_range_of_the_model(self, path: Path) -> None:
        rewrite(path, {"head.bias": torch.tensor([1e300], dtype=torch.float64)})
        with pytest.raises(WeightsError, match=r"holds NaN or infinity in 'head.bias'"):
            load(path)

    def test_messages_use_the_name_given(self, path: Path) -> None:
        rewrite(path, {}, drop="head.bias")
        with pytest.raises(WeightsError, match=r"^builtin: lacks"):
            load(path, name="builtin")
