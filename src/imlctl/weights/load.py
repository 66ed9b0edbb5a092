"""Reading and writing weights: safetensors only, strict, and never a damaged file.

A file holds the tensors of one model and, in its metadata under ``imlctl``, a JSON document with
the architecture, its configuration, the decision rule it was calibrated with, and how it was made.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from imlctl import atomic
from imlctl.errors import WeightsError
from imlctl.mask.decide import Rule
from imlctl.mask.rates import checked
from imlctl.weights.files import GET_AGAIN, KEY, foreign, mismatch, read_document, unreadable
from imlctl.weights.pull import find
from imlctl.weights.registry import known_weights, user_folder
from imlctl.weights.selftest import check_on_first_use, take_self_test

if TYPE_CHECKING:
    from imlctl.core.light_vae import LightVAE
    from imlctl.core.model import Model


FORMAT = 2
_LOCALIZERS = ("efficient-iml", "diff-iml")
_OF_OURS = "Use weights that this version of imlctl wrote."
_PICKLES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"})
# Module, and class; `Config` is added for that of the configuration. Imported when it is built.
_MODELS = {
    "efficient-iml": ("efficient_iml", "EfficientIML"),
    "diff-iml": ("diff_iml", "DiffIML"),
    "light-vae": ("light_vae", "LightVAE"),
}


@dataclass(frozen=True, slots=True)
class Card:
    """Card that travels with weights in their metadata; plain values, but for the rule."""

    architecture: str
    config: dict[str, Any]  # of the architecture
    rule: Rule = field(default_factory=Rule)  # how scores become verdicts, and maps masks
    training: dict[str, Any] = field(default_factory=dict)  # how they were made: free-form
    format: int = FORMAT
    self_test: dict[str, Any] = field(default_factory=dict)  # see `selftest`; empty for none
    # Slope and offset of the score, see `mask.decide`; None for the model's own number.
    score_scale: tuple[float, float] | None = None
    rates: dict[str, Any] | None = None  # of verdicts on real pictures, see `mask.rates.measured`

    def __post_init__(self) -> None:
        if self.score_scale is not None:  # JSON knows no tuples
            slope, offset = map(float, self.score_scale)
            if not 0 < slope < math.inf or not math.isfinite(offset):
                raise ValueError("score_scale must be a rising curve")
            object.__setattr__(self, "score_scale", (slope, offset))
        if not isinstance(self.architecture, str):
            raise TypeError("architecture must be a name")
        if not isinstance(self.config, dict) or not isinstance(self.self_test, dict):
            raise TypeError("config and self_test must be tables")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Card:
        """Read what `to_dict` returned; raises ValueError, TypeError or KeyError for others."""
        rule, rates = Rule(**values.get("rule", {})), values.get("rates")
        rates = None if rates is None else checked(rates)
        return cls(**values | {"rule": rule, "rates": rates})


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model ready for inference, and where it came from."""

    model: Model | LightVAE  # in float32 and evaluation mode, not fused
    card: Card
    sha256: str  # of the file
    name: str  # as the user named the weights


def save(path: Path, model: Model | LightVAE, card: Card, *, half: bool = True) -> None:
    """Write weights; filters and matrices in float16 if `half`, norms and statistics in float32.

    A running variance may lie below float16's range, so vectors are kept as they are.
    """

    def stored(value: Tensor) -> Tensor:
        if half and value.ndim >= 2 and value.is_floating_point():
            short = value.half()
            value = short if torch.isfinite(short).all() else value  # float16 ends at 65504
        return value.detach().cpu().contiguous()

    _write(path, {key: stored(value) for key, value in model.state_dict().items()}, card)


def _write(path: Path, tensors: dict[str, Tensor], card: Card) -> None:
    data = save_tensors(tensors, metadata={KEY: json.dumps(card.to_dict(), sort_keys=True)})
    atomic.write(path, data, overwrite=True)


def open_weights(wanted: str | Path = "") -> Loaded:
    """Load a model, check it against what is known of it, and test it when it is new here.

    What is wanted is as for `pull.find`; nothing stands for the registry's default. Raises a
    `WeightsError` if the weights are not here, damaged, not what was expected, or no model.
    """
    found = find(wanted or known_weights().default, kind="model")
    loaded = load(found.path, name=found.name, expected_sha256=found.sha256)
    card, entry = loaded.card, found.entry
    if card.architecture not in _LOCALIZERS:
        what = f"holds {card.architecture!r}, which marks no pixels by itself"
        remedy = "It is only a part of a model; imlctl weights list shows models."
        raise WeightsError(what, source=loaded.name, remedy=remedy)
    if entry and entry.architecture not in ("", card.architecture):
        says = f"its entry in the registry says {entry.architecture!r}"
        what = f"holds {card.architecture!r}, and {says}"
        remedy = "Correct the entry, or get the file that belongs to it."
        raise WeightsError(what, source=loaded.name, remedy=remedy)
    check_on_first_use(loaded, user_folder("cache") / "self-tests")
    return loaded


def load(path: Path, *, name: str = "", expected_sha256: str | None = None) -> Loaded:
    """Read a safetensors file that `save` wrote, check it, and return the model on the CPU.

    `name` stands for it in messages and records, if it is not the path. Raises a `WeightsError` if
    it is missing, a pickle, damaged, of another hash or architecture, or holds NaN or infinity.
    """
    name = name or str(path)
    if path.suffix.lower() in _PICKLES:
        what = "is a pickle, which can run any code when it is opened, so it is refused"
        remedy = "Convert it to safetensors with imlctl weights convert, and use that file."
        raise WeightsError(what, source=name, remedy=remedy)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(error, name) from error
    digest = hashlib.sha256(data).hexdigest()
    if expected_sha256 and digest != expected_sha256:
        raise mismatch(name, path, digest, expected_sha256, GET_AGAIN)
    document = read_document(data, name)
    if document is None:
        what = "holds no imlctl metadata, so its architecture is unknown"
        raise WeightsError(what, source=name, remedy=_OF_OURS)
    try:
        card = Card.from_dict(document)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise foreign(error, name) from error
    model = _build(card, name)
    _fill(model, data, name)
    return Loaded(model.eval(), card, digest, name)


def _build(card: Card, name: str) -> Model | LightVAE:
    if card.format != FORMAT or card.architecture not in _MODELS:
        what = f"is for architecture {card.architecture!r}, format {card.format}"
        remedy = f"This version knows {', '.join(_MODELS)}, format {FORMAT}."
        raise WeightsError(what, source=name, remedy=remedy)
    module, name_of_class = _MODELS[card.architecture]
    home = import_module(f"imlctl.core.{module}")
    model, config = getattr(home, name_of_class), getattr(home, f"{name_of_class}Config")
    try:
        return cast("Model | LightVAE", model(config.from_dict(card.config)))
    except (ValueError, TypeError, RuntimeError) as error:  # torch raises the last
        what = f"has a configuration that cannot be built ({error})"
        raise WeightsError(what, source=name) from error


def _fill(model: Model | LightVAE, data: bytes, name: str) -> None:
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        what = f"is damaged or not safetensors ({error})"
        raise WeightsError(what, source=name, remedy=GET_AGAIN) from error
    expected = model.state_dict()
    both = expected.keys() & tensors.keys()
    state = {k: tensors[k].to(expected[k].dtype) for k in both}
    faults = {
        "lacks the tensor": expected.keys() - both,
        "has the unknown tensor": tensors.keys() - both,
        "has the wrong shape in": {k for k in both if expected[k].shape != tensors[k].shape},
        "holds NaN or infinity in": {k for k in both if not torch.isfinite(state[k]).all()},
    }
    for what, keys in faults.items():
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            remedy = GET_AGAIN if "NaN" in what else _OF_OURS
            raise WeightsError(f"{what} {min(keys)!r}{more}", source=name, remedy=remedy)
    model.load_state_dict(state)


def attach(path: Path) -> None:
    """Give a file of weights its self-test, measured as they are stored; raises as `load` does."""
    loaded = load(path)
    card = replace(loaded.card, self_test=take_self_test(loaded.model))
    _write(path, load_tensors(path.read_bytes()), card)
