"""A model's self-test: it must compute here what it computed when its weights were written.

The weights' card carries the recipe of a small picture and what the model made of it, compared on
first use, before a photograph is judged. The picture is made of integers alone, so that it is the
same on every machine, whatever the version of any random generator.
"""

from __future__ import annotations

import hashlib
import math
import platform
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl import __version__, atomic
from imlctl.core.model import Model
from imlctl.errors import OutputError, WeightsError

if TYPE_CHECKING:
    from imlctl.core.light_vae import LightVAE
    from imlctl.weights.load import Loaded

SIDE = 64  # pixels; the smallest picture that every model takes
_BLOCK = 8  # the answer is averaged over blocks of 8 x 8 pixels
_TOLERANCE = 0.01  # of a logit, or of the largest logit where that exceeds 1
_STEPS = 2  # of a model that samples: enough to use every part of it
_MASK = (1 << 32) - 1


def picture(seed: int, side: int = SIDE) -> Tensor:
    """Make a picture, a slope under 6 bits of noise: (1, 3, side, side) float32, in 1/255."""
    noise = _mixed(3 * side * side, seed) >> 26  # its 6 highest bits
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    slope = (rows + 2 * columns) * 192 // (3 * side)
    pixels = noise.view(3, side, side) + slope
    return (pixels.float() / 255)[None]


def _mixed(count: int, seed: int) -> Tensor:
    """Numbers of 32 bits without a pattern, (count,) int64: a hash of where they stand."""
    noise = (torch.arange(count) + seed * count) * 2654435761 & _MASK
    noise = (noise ^ noise >> 15) * 1540483477 & _MASK
    return noise ^ noise >> 13


@torch.inference_mode()
def answer(model: nn.Module, image: Tensor) -> Tensor:
    """Run a model, in evaluation mode on the CPU, over a picture (1, 3, H, W) in [0, 1].

    DiffIML is given noise of our own for two steps of one member, and LightVAE the picture's red
    channel as a mask to encode and decode. Returns logits, (N,) float32: the mean of each block,
    row by row, and the score's of a model that has one.
    """
    if not isinstance(model, Model):
        vae = cast("LightVAE", model)
        mask = (image[:, :1] > 0.5).float() * 2 - 1
        return F.avg_pool2d(vae.decode(vae.encode(mask)).float(), _BLOCK).flatten()
    noise, shape = None, model.noise_shape(*image.shape[-2:])
    if shape is not None:
        noise = _mixed(math.prod(shape), 0) / 2**32 - 0.5  # uniform, of variance 1/12
        noise = (noise * math.sqrt(12)).view(1, *shape)
    prediction = model(image, None, noise, _STEPS)
    blocks = F.avg_pool2d(prediction.logits.float(), _BLOCK)
    return torch.cat([blocks.flatten(), prediction.score_logits.float().flatten()])


def take_self_test(model: nn.Module, seed: int = 0) -> dict[str, Any]:
    """Return the self-test of a model, as a card keeps it."""
    image = picture(seed)
    return {
        "version": 1,
        "seed": seed,
        "side": SIDE,
        "input_sha256": _digest(image),
        "answer": [round(v, 6) for v in answer(model, image).tolist()],
        "tolerance": _TOLERANCE,
    }


def check_on_first_use(loaded: Loaded, memory: Path) -> bool:
    """Run the self-test of weights that are new here; without one in their card, do nothing.

    The model is on the CPU, not fused; `memory` remembers which weights passed with which versions.
    Returns whether the test was run; raises a `WeightsError` if the model fails it.
    """
    test = loaded.card.self_test
    versions = f"{__version__}-{torch.__version__}-{platform.machine()}"
    passed = memory / f"{loaded.sha256}-{versions.replace('/', '_')}"
    if not test or passed.is_file():
        return False
    _compare(loaded, test)
    with suppress(OutputError):  # a folder that cannot be written costs a test on every use
        atomic.write(passed, b"", overwrite=True)
    return True


def _compare(loaded: Loaded, test: dict[str, Any]) -> None:
    """Refuse a model that does not give the stored answer."""
    try:
        image = picture(test["seed"], test["side"])
        expected = torch.tensor(test["answer"], dtype=torch.float32)
        tolerated = float(test["tolerance"]) * max(1.0, float(expected.abs().max()))
        same_input = test["version"] == 1 and _digest(image) == test["input_sha256"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        what = f"has a self-test that this version cannot read ({error})"
        raise WeightsError(what, source=loaded.name) from error
    found = answer(loaded.model, image)
    deviation, why = math.nan, "its self-test has another picture or answer than this version"
    if same_input and found.shape == expected.shape:
        deviation = float((found - expected).abs().max())
        why = f"its answer is {deviation:.3g} off, and {tolerated:.3g} is tolerated"
    if not deviation <= tolerated:  # NaN fails too
        remedy = "Nothing was analysed. Reinstall imlctl and torch; if it still fails, report it."
        raise WeightsError(f"fails its self-test: {why}", source=loaded.name, remedy=remedy)


def _digest(image: Tensor) -> str:
    return hashlib.sha256((image * 255).round().to(torch.uint8).numpy().tobytes()).hexdigest()
