from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from imlctl.bench import speed
from imlctl.bench.speed import COST_SIZE, Plan, measure, photograph
from imlctl.core.denoiser import DenoiserConfig
from imlctl.core.diff_iml import DiffIML, DiffIMLConfig
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import EfficientRWKVConfig
from imlctl.core.imagenet import MIT_SIZES as SIZES
from imlctl.core.imagenet import MixTransformer
from imlctl.errors import UsageError
from imlctl.settings import Sampling

if TYPE_CHECKING:
    from torch import Tensor

TILE = 128
TINY = EfficientIMLConfig(EfficientRWKVConfig(dims=(16, 16, 16), depths=(1, 1, 1)), width=16)
SAMPLING = DiffIMLConfig("efficient-rwkv-tiny", DenoiserConfig(channels=32, condition=32))


class Localizer:
    """The parts of `pipeline.Localizer` that are measured."""

    def __init__(self, model: Any = None) -> None:
        torch.manual_seed(0)
        self.model = (model or EfficientIML(TINY)).fuse()
        self.device, self.overlap = torch.device("cpu"), 32
        self.settings = SimpleNamespace(sampling=Sampling(), tile=TILE)
        self.provenance = {"model": "mine", "weights_sha256": "0" * 64}
        self.seen: list[tuple[torch.Size, torch.dtype, bool]] = []
        self.localized: list[bytes] = []
        self.model.register_forward_pre_hook(self.note)

    def note(self, _: object, inputs: tuple[Tensor, ...]) -> None:
        image = inputs[0]
        channels_last = image.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((image.shape, image.dtype, channels_last))

    def localize(self, source: bytes, *, name: str) -> Any:
        self.localized.append(source)
        return SimpleNamespace(mask_png=lambda: b"mask")


@pytest.fixture(autouse=True)
def small_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MixTransformer", lambda: MixTransformer(SIZES["b0"]))
    monkeypatch.setattr("imlctl.bench.machine._BETWEEN_LOOKS", 0)


def measured(localizer: Localizer, *sizes: int, runs: int = 1, **plan: Any) -> dict[str, Any]:
    document = measure([cast("Any", localizer)], Plan(sizes, runs, **plan))
    json.dumps(document, allow_nan=False)
    (model,) = document["models"]
    return cast("dict[str, Any]", model)


def test_every_size_is_measured_as_it_is_localized() -> None:
    localizer = Localizer()
    found = measured(localizer, 192, 64, 128, 64, runs=2, tta=False)
    rows = found["speed"]
    assert [(row["size"], row["tiled"]) for row in rows] == [(64, False), (128, False), (192, True)]
    assert rows[0]["growth"] == 1.0
    for row in rows:
        assert row["fps"] == pytest.approx(1 / row["median"])
        assert 0 < row["median"] <= row["p95"]
        assert row["memory"] > 0
    assert [row["passes"] for row in rows] == [2, 2, 2]
    assert found["cost"]["size"] == COST_SIZE
    # No pass is larger than a tile, whose share of 192 pixels is 112; each is laid out as when
    # localizing.
    assert {shape[-1] for shape, *_ in localizer.seen} == {64, 112, TILE}
    assert {seen[1:] for seen in localizer.seen} == {(torch.float32, True)}
    assert [row["size"] for row in found["end_to_end"]] == [64, 128, 192]
    assert set(localizer.localized) == {photograph(size) for size in (64, 128, 192)}


def test_another_network_takes_turns_with_the_model() -> None:
    told: list[str] = []
    plan = Plan((64,), 3, tta=False)
    document = measure([cast("Any", Localizer())], plan, progress=told.append)
    turns = [text.partition(": ")[2] for text in told if text.startswith("round")]
    assert len(turns) == 9
    assert turns[:3] == turns[3:6] == turns[6:]
    assert turns[1:3] == ["64 px, end to end", "64 px, MiT-B3 encoder"]
    rival = document["models"][0]["against"]
    assert rival["size"] == 64
    assert rival["shares"][0]["share"] > 0
    assert rival["cost"]["parameters"] == pytest.approx(3.3e6, rel=0.05)  # b0's here


def test_neighbours_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imlctl.bench.machine.others_running", lambda: 0)
    for after, busy in ((0.0, False), (0.5, True)):
        monkeypatch.setattr(speed, "others_busy", lambda share=after: share)
        document = measure([cast("Any", Localizer())], Plan((64,), 1, tta=False))
        assert (document["others_after"], document["busy"]) == (after, busy)


@pytest.mark.parametrize(("size", "instead"), [(0, 64), (32, 64), (100, 96), (511, 512)])
def test_sizes_that_do_not_fit_are_refused(size: int, instead: int) -> None:
    localizer = Localizer()
    with pytest.raises(UsageError, match=f"Use {instead},"):
        measured(localizer, 64, size)
    assert not localizer.seen  # before anything runs


def test_a_budget_leaves_the_slow_fewer_rounds() -> None:
    rows = measured(Localizer(), 64, 128, runs=5, tta=False, budget=1e-9)["speed"]
    assert [(row["passes"], row["short"], row["memory"]) for row in rows] == [(1, True, None)] * 2


def test_mirrored_pictures_are_a_row_of_their_own() -> None:
    rows = measured(Localizer(), 64, 128)["speed"]
    assert [(row["size"], row["tta"], row["main"]) for row in rows] == [
        (64, False, True),
        (128, False, True),
        (64, True, False),
    ]
    (row,) = measured(Localizer(), 64, tta=True)["speed"]
    assert (row["tta"], row["main"]) == (True, True)


def test_a_sampling_model_is_measured_in_every_way_at_one_size() -> None:
    plan: dict[str, Any] = {"steps": (1, 3), "members": (1, 2)}
    localizer = Localizer(DiffIML(SAMPLING))
    localizer.settings.sampling = Sampling(steps=3, ensemble=2)  # the usual ones are the main ones
    found = measured(localizer, 96, 64, **plan)
    rows = found["speed"]
    ways = [(row["size"], row["members"], row["steps"], row["tta"]) for row in rows]
    assert ways[:2] == [(64, 2, 3, False), (96, 2, 3, False)]
    assert set(ways[2:]) == {
        (64, 1, 3, False),
        (64, 2, 1, False),
        (64, 1, 1, False),
        (64, 2, 3, True),
    }
    assert [row["main"] for row in rows] == [True, True] + [False] * 4
    assert len(found["against"]["shares"]) == 5
    (row,) = measured(Localizer(DiffIML(SAMPLING)), 64, steps=(3,), members=(2,), tta=False)[
        "speed"
    ]
    assert (row["steps"], row["members"], row["main"]) == (3, 2, True)


def test_the_photograph_is_the_same_every_time_and_compresses() -> None:
    data = photograph(128)
    assert data == photograph(128)
    picture = Image.open(io.BytesIO(data))
    assert (picture.size, picture.format) == ((128, 128), "JPEG")
    assert np.asarray(picture).std() > 20
    assert len(data) < 0.5 * 128 * 128 * 3
    with Image.open(io.BytesIO(photograph(640, 480))) as wide:  # as scripts/bars.py asks for
        assert wide.size == (640, 480)
