"""Pictures that share a forward pass: no bit of any map shows the others."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import imlctl.together
from imlctl.core.denoiser import DenoiserConfig
from imlctl.core.diff_iml import DiffIML, DiffIMLConfig
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
from imlctl.core.efficient_rwkv import SIZES, EfficientRWKVConfig
from imlctl.core.light_vae import LightVAEConfig
from imlctl.errors import NumericalError
from imlctl.inference import Model, Sampling, predict, predict_alike
from imlctl.together import Together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Answers = list[tuple[Tensor, float]]

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["efficient-iml", "diff-iml"])
def model(request: pytest.FixtureRequest) -> Model:
    return deterministic() if request.param == "efficient-iml" else sampled()


def deterministic(backbone: EfficientRWKVConfig = SIZES["tiny"]) -> EfficientIML:
    torch.manual_seed(0)
    model = EfficientIML(EfficientIMLConfig(backbone=backbone, width=16))
    for _ in range(3):  # norms with statistics of their own, so that every branch says something
        model(torch.rand(2, 3, 64, 64))
    make_lively(model)
    return model.fuse()


def sampled() -> DiffIML:
    torch.manual_seed(0)
    vae = LightVAEConfig(widths=(4, 4, 8), hidden=8, fine=4, blocks=0)
    denoiser = DenoiserConfig(channels=32, condition=16)
    model = DiffIML(DiffIMLConfig("efficient-rwkv-tiny", denoiser, vae))
    make_lively(model)
    return model.fuse()


def make_lively(model: Model) -> None:
    """Give branches that start silent a voice: their rounding must be seen."""
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.0)


def pictures(count: int, height: int = 96, width: int = 128) -> list[Tensor]:
    rng = torch.Generator().manual_seed(height)
    coarse = torch.randint(256, (count, 3, height // 8, width // 8), generator=rng)
    fine = torch.randint(64, (count, 3, height, width), generator=rng)
    large = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return list((large * 3 // 4 + fine).to(torch.uint8))


def keys(count: int) -> list[bytes]:
    return [b"picture %d" % number for number in range(count)]


def together(
    model: Model, size: int, sampling: Sampling | None = None, tile: int = 256
) -> Together:
    sampling = sampling or Sampling(steps=2, ensemble=2)
    return Together(model, size, device=CPU, tile=tile, overlap=0, sampling=sampling)


def assert_same(first: Answers, second: Answers) -> None:
    assert len(first) == len(second)
    for (one, score), (other, other_score) in zip(first, second, strict=True):
        assert torch.equal(one, other)
        assert score == other_score


@pytest.fixture
def passes(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of entries of every pass of the model."""
    seen: list[int] = []
    forward = type(model).forward

    def listen(self: Any, images: Tensor, *rest: Any) -> Any:
        seen.append(len(images))
        return forward(self, images, *rest)

    monkeypatch.setattr(type(model), "forward", listen)
    return seen


@pytest.mark.parametrize(("size", "tta"), [(2, False), (3, False), (4, True), (5, False)])
def test_a_map_is_the_same_whoever_its_neighbours_are(
    model: Model, size: int, tta: bool, passes: list[int]
) -> None:
    """Alone, in any place, beside any others, in any order and in batches that are not full."""
    run = together(model, size, Sampling(2, 3, tta=tta))
    images, names = pictures(size + 2, 96, 96), keys(size + 2)  # the coarsest stage has odd sides
    alone = [run([image], [name])[0] for image, name in zip(images, names, strict=True)]
    for seed in range(2):
        order = list(range(len(images)))
        random.Random(seed).shuffle(order)
        mixed = run([images[place] for place in order], [names[place] for place in order])
        assert_same(mixed, [alone[place] for place in order])
    assert set(passes) <= {1, size}  # on a machine whose kernels do not shift, all have `size`
    assert len({probability.sum().item() for probability, _ in alone}) == len(alone)


def test_every_place_of_a_batch_gives_the_same_map(model: Model) -> None:
    run = together(model, 4)
    image, *others = pictures(4)
    first = run([image, *others], keys(4))[0]
    for place in range(1, 4):
        row = [*others[:place], image, *others[place:]]
        names = [*keys(4)[1 : place + 1], keys(4)[0], *keys(4)[place + 1 :]]
        assert_same([run(row, names)[place]], [first])


def test_a_batch_says_what_one_picture_alone_says_but_for_rounding(model: Model) -> None:
    sampling = Sampling(2, 3, tta=True)
    images, names = pictures(3), keys(3)
    answers = together(model, 4, sampling)(images, names)
    for image, name, (probability, score) in zip(images, names, answers, strict=True):
        expected, expected_score = predict(model, image, device=CPU, sampling=sampling, key=name)
        torch.testing.assert_close(probability, expected, rtol=0, atol=1e-4)
        assert score == pytest.approx(expected_score, abs=1e-4)


def test_the_encoder_runs_once_for_a_picture_and_members_have_their_pictures_noise() -> None:
    model = sampled()
    encoded: list[int] = []
    denoised: list[Tensor] = []
    model.encoder.register_forward_hook(lambda _part, args, _out: encoded.append(len(args[0])))
    model.denoiser.register_forward_pre_hook(lambda _part, args: denoised.append(args[0]))
    sampling = Sampling(steps=2, ensemble=3)
    grey = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    twins = predict_alike(
        model, [grey, grey], size=4, device=CPU, sampling=sampling, keys=[b"a", b"b"]
    )
    assert encoded == [4]
    assert [len(latents) for latents in denoised] == [12, 12]
    first = torch.unflatten(denoised[0], 0, (4, 3))
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first[1], first[3])  # the last picture stands in for those that are missing
    assert not torch.equal(twins[0][0], twins[1][0])


def test_pictures_of_all_sizes_come_back_in_their_order(model: Model, passes: list[int]) -> None:
    run = together(model, 2)
    shapes = [(96, 128), (64, 64), (96, 128), (64, 320), (64, 64), (64, 64)]
    images = [pictures(6, *shape)[place] for place, shape in enumerate(shapes)]
    answers = run(images, keys(6))
    assert [tuple(probability.shape) for probability, _ in answers] == shapes
    # The fourth is larger than a tile, and so goes alone, in two of them.
    assert sorted(passes) == [1, 1, *[2] * (2 + 1 + 2)]  # two trials, three passes
    lone = [run([image], [name])[0] for image, name in zip(images, keys(6), strict=True)]
    assert_same(answers, lone)


def test_a_batch_of_one_is_a_picture_alone(model: Model, passes: list[int]) -> None:
    images = pictures(2)
    answers = together(model, 1)(images, keys(2))
    assert passes == [1, 1]
    sampling = Sampling(steps=2, ensemble=2)
    pairs = zip(images, keys(2), strict=True)
    assert_same(
        answers, [predict(model, i, device=CPU, sampling=sampling, key=name) for i, name in pairs]
    )


def test_pictures_go_alone_where_a_place_would_show(
    model: Model, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with some kernels: here the last place differs by one unit in the last digit."""

    def shifting(model: Model, images: Sequence[Tensor], **options: Any) -> Answers:
        *others, (probability, score) = predict_alike(model, images, **options)
        return [*others, (torch.nextafter(probability, torch.ones(())), score)]

    images = pictures(3)
    with monkeypatch.context() as patch:
        patch.setattr(imlctl.together, "predict_alike", shifting)
        run = together(model, 2)
        answers = run(images, keys(3))
    assert passes == [2, 1, 1, 1]
    assert_same(answers, together(model, 1)(images, keys(3)))


def test_a_cpu_gets_batches_of_small_pictures_on_one_thread(model: Model) -> None:
    assert together(model, 4, tile=1024).may_share(512, 512)
    assert not together(model, 5, tile=1024).may_share(512, 512)
    assert not together(model, 4, tile=256).may_share(64, 320)
    torch.set_num_threads(2)
    assert not together(model, 4).may_share(64, 64)


def test_a_model_that_looks_at_the_whole_batch_gets_none() -> None:
    from dataclasses import replace

    model = deterministic(replace(SIZES["tiny"], mixing="v6"))
    assert not together(model, 4).may_share(64, 64)


@pytest.mark.parametrize(
    "part", [lambda model: model.head.bias, lambda model: model.score[2].bias], ids=["map", "score"]
)
def test_not_a_number_is_an_error(part: Callable[[EfficientIML], Tensor]) -> None:
    model = deterministic()
    torch.nn.init.constant_(part(model), float("nan"))
    with pytest.raises(NumericalError, match="NaN"):
        together(model, 2)(pictures(1), keys(1))
