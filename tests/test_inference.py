"""Both models over whole pictures: tiles, clues, noise, flips."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from imlctl import inference
from imlctl.core.denoiser import DenoiserConfig
from imlctl.core.diff_iml import DiffIML, DiffIMLConfig
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import SIZES
from imlctl.core.light_vae import LightVAEConfig
from imlctl.core.residual_outliers import residual_outliers
from imlctl.core.self_similarity import self_similarity
from imlctl.errors import NumericalError, UsageError
from imlctl.image.decode import decode
from imlctl.image.prepare import prepare, to_float
from imlctl.inference import predict, probabilities
from imlctl.settings import Sampling
from imlctl.weights.load import open_weights

if TYPE_CHECKING:
    from imlctl.core.model import Model

CPU = torch.device("cpu")
QUICK = Sampling(steps=2, ensemble=2)


@pytest.fixture(scope="module", params=["efficient-iml", "diff-iml"])
def model(request: pytest.FixtureRequest) -> Model:
    torch.manual_seed(0)
    if request.param == "efficient-iml":
        seeing = replace(SIZES["tiny"], outliers=True)
        return EfficientIML(EfficientIMLConfig(backbone=seeing, width=16)).eval()
    return sampled()


def sampled() -> DiffIML:
    torch.manual_seed(0)
    vae = LightVAEConfig(widths=(4, 4, 8), hidden=8, fine=4, blocks=0)
    denoiser = DenoiserConfig(channels=32, condition=16)
    return DiffIML(DiffIMLConfig("efficient-rwkv-tiny", denoiser, vae)).eval()


def picture(height: int = 96, width: int = 128, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), generator=rng).to(torch.uint8)


def run(model: Model, image: Tensor, **options: Any) -> Tensor:
    options = {"sampling": QUICK, "device": CPU} | options
    return predict(model, image, **options)[0]


def test_map_and_score(model: Model) -> None:
    probability, score, _ = predict(model, picture(), device=CPU, sampling=QUICK)
    assert probability.shape == (96, 128)
    assert 0 <= probability.min() <= probability.max() <= 1
    assert 0 <= score <= 1


def test_repeats_bit_for_bit(model: Model) -> None:
    assert torch.equal(run(model, picture(), key=b"a"), run(model, picture(), key=b"a"))


def test_only_what_samples_depends_on_seed_and_picture(model: Model) -> None:
    first = run(model, picture(), key=b"a")
    by_key = run(model, picture(), key=b"b")
    by_seed = run(model, picture(), key=b"a", sampling=Sampling(2, 2, seed=1))
    deterministic = not model.samples
    assert torch.equal(first, by_key) is deterministic
    assert torch.equal(first, by_seed) is deterministic


def test_mirrored_pictures_have_mirrored_maps(model: Model) -> None:
    twice = Sampling(2, 2, tta=True)
    straight = run(model, picture(), key=b"a", sampling=twice)
    mirrored = run(model, picture().flip(-1), key=b"a", sampling=twice)
    torch.testing.assert_close(mirrored, straight.flip(-1), rtol=0, atol=1e-6)
    assert not torch.equal(straight, run(model, picture(), key=b"a"))


def test_small_pictures_share_a_pass_with_their_mirror_image(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only of a model that does not sample; map and score stay what two passes give."""
    passes: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    options: dict[str, Any] = {"device": CPU, "key": b"a", "sampling": Sampling(2, 2, tta=True)}
    monkeypatch.setattr(inference, "_FLIPS_AT_ONCE", 0)
    two, two_score, _ = predict(model, picture(), **options)
    assert passes == [1, 1]
    passes.clear()
    monkeypatch.setattr(inference, "_FLIPS_AT_ONCE", 128 * 96)
    one, one_score, _ = predict(model, picture(), **options)
    assert passes == ([1, 1] if model.samples else [2])
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    assert one_score == pytest.approx(two_score, abs=1e-6)
    passes.clear()
    predict(model, picture(), tile=64, overlap=0, **options)
    assert set(passes) == {1}  # tiles go one by one
    hook.remove()


def test_max_is_never_below_mean(model: Model) -> None:
    mean = run(model, picture(), sampling=Sampling(2, 2, tta=True))
    largest = run(model, picture(), sampling=Sampling(2, 2, tta=True, fusion="max"))
    assert (largest >= mean - 1e-6).all()
    assert not torch.equal(largest, mean)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (70, 41), (97, 190)])
def test_any_size_has_a_map_of_its_own_size(model: Model, size: tuple[int, int]) -> None:
    assert run(model, picture(*size)).shape == size
    assert run(model, picture(*size), tile=64, overlap=0).shape == size


def test_clues_are_taken_from_the_pictures_own_pixels(model: Model) -> None:
    seen: list[Tensor] = []

    def listen(_: Any, given: tuple[Tensor, Tensor]) -> None:
        seen.append(given[1])

    handle = model.register_forward_pre_hook(listen)
    run(model, picture(70, 130))
    handle.remove()
    own = model.clues(to_float(picture(70, 130))[None])
    assert own is not None
    assert own.shape[2:] == (18, 33)
    assert torch.equal(seen[0][..., :18, :33], own)
    assert torch.equal(seen[0][..., 18:, :33], own[..., -1:, :].expand_as(seen[0][..., 18:, :33]))


def test_the_edge_of_authentic_pictures_is_marked_no_more_than_the_inside() -> None:
    """Whatever has to be added to the right and below; by the bundled weights."""
    model = cast("Model", open_weights("efficientiml").model).fuse()
    edge, inside = [], []
    for seed, (height, width) in enumerate([(262, 326), (258, 327), (200, 324), (257, 331)]):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (height // 16, width // 16, 3)).astype(np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        grain = cv2.GaussianBlur(rng.normal(0, 8, smooth.shape), (0, 0), 0.7)
        drawn = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        _, data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 92])
        photo = decode(data.tobytes(), source="drawn")
        probability = predict(model, prepare(photo), device=CPU).probability
        edge += [probability[:, -12:].mean(), probability[-12:].mean()]
        inside.append(probability[:-32, :-32].mean())
    assert torch.stack(edge).mean() < 2 * torch.stack(inside).mean()


@pytest.mark.parametrize("tta", [False, True])
def test_tiles_see_the_clues_of_the_whole_picture(
    model: Model, tta: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(64, 192)
    whole = self_similarity(to_float(image)[None])
    if isinstance(model, EfficientIML):
        whole = torch.cat((whole, residual_outliers(to_float(image)[None])), dim=1)
    seen: list[Tensor] = []
    forward = type(model).forward

    def listen(self: Any, view: Tensor, clues: Tensor, *rest: Any) -> Any:
        seen.extend(clues.split(1))  # both views may come as one batch
        return forward(self, view, clues, *rest)

    monkeypatch.setattr(type(model), "forward", listen)
    monkeypatch.setattr(inference, "_MOST_TILES", 1)  # in order
    run(model, image, tile=64, overlap=0, sampling=Sampling(1, 1, tta=tta))
    expected = [whole[..., left : left + 16] for left in (0, 16, 32)]
    if tta:  # the mirrored picture is analysed as a picture of its own
        clues = model.clues(to_float(image.flip(-1))[None])
        assert clues is not None
        expected += [clues[..., left : left + 16] for left in (0, 16, 32)]
    assert len(seen) == len(expected)
    for got, wanted in zip(seen, expected, strict=True):
        assert torch.equal(got, wanted)


def test_clues_looked_for_in_threads_are_the_same(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    answers = []
    try:
        torch.set_num_threads(2)
        for least in (10**9, 1):
            monkeypatch.setattr(inference, "_CLUES_AT_ONCE", least)
            answers.append(predict(model, picture(70, 130), device=CPU, sampling=QUICK))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    alone, at_once = answers
    torch.testing.assert_close(at_once.probability, alone.probability, rtol=0, atol=1e-6)


def test_tiles_side_by_side_give_what_they_give_one_after_the_other(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    answers = []
    try:
        for threads, tiles in ((1, 1), (3, 3)):  # one thread for each tile, both times
            torch.set_num_threads(threads)
            monkeypatch.setattr(inference, "_MOST_TILES", tiles)
            options: dict[str, Any] = {"tile": 64, "overlap": 32, "sampling": QUICK, "device": CPU}
            answers.append(predict(model, picture(160, 200), **options))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    one, side_by_side = answers
    torch.testing.assert_close(side_by_side.probability, one.probability, rtol=0, atol=1e-6)
    assert side_by_side.score == pytest.approx(one.score, abs=1e-6)


def test_tiles_have_noise_of_their_own() -> None:
    model = sampled()
    image = torch.full((3, 64, 128), 90, dtype=torch.uint8)
    probability = run(model, image, tile=64, overlap=0)
    assert not torch.allclose(probability[:, :64], probability[:, 64:])


def test_batches_are_one_picture_after_the_other(model: Model) -> None:
    images = torch.stack([to_float(picture(64, 64, seed)) for seed in range(2)])
    both = probabilities(model, images, QUICK)
    assert both.shape == (2, 1, 64, 64)
    with torch.no_grad():
        first = probabilities(model, images[:1], QUICK)
    torch.testing.assert_close(both[:1], first, rtol=1e-4, atol=1e-5)


def test_a_score_that_is_not_finite_is_an_error() -> None:
    model = EfficientIML(EfficientIMLConfig(backbone=SIZES["tiny"], width=16)).eval()
    torch.nn.init.constant_(model.score[2].bias, float("nan"))  # type: ignore[arg-type]
    with pytest.raises(NumericalError, match="score is NaN"):
        run(model, picture())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "0 steps"),
        ({"steps": 1001}, "1001 steps"),
        ({"ensemble": 0}, "0 members"),
        ({"fusion": "median"}, "median"),
    ],
)
def test_impossible_sampling(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sampling(**wrong)
