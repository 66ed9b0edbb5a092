"""Training presets: TOML made into frozen dataclasses, checked key by key before anything runs."""

from __future__ import annotations

import math
import tomllib
import types
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from imlctl.core.denoiser import DENOISERS
from imlctl.core.diff_iml import ENCODERS
from imlctl.core.efficient_iml import EfficientIMLConfig
from imlctl.core.efficient_rwkv import SIZES
from imlctl.core.layers import check_choice
from imlctl.core.sampler import Spacing  # noqa: TC001  # `build` reads the annotation
from imlctl.errors import ConfigError
from imlctl.forge.synthesizer import Mix
from imlctl.resources import find_preset, read_toml
from imlctl.train.objective import LossWeights
from imlctl.train.real_samples import RealConfig  # noqa: TC001  # `load_preset` reads the annotation
from imlctl.train.score import HeadConfig


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Sources of the samples."""

    # folders of authentic photographs; may be empty when all samples are real
    photos: tuple[Path, ...]
    objects: Path | None = None  # folder of object masks, ``<stem>__<id>.png``; optional
    # folder with a tiny autoencoder for regenerated regions; optional
    autoencoder: Path | None = None
    regenerated: int = 400  # how many photographs to regenerate
    cache: Path = Path("runs/cache")  # where regenerated photographs are kept
    validation_share: float = 0.1  # share of the photographs never trained on
    workers: int = 2  # processes that make samples, for each process that trains
    real: RealConfig | None = None  # real forgeries to train on as well, or instead
    # share of the samples whose host is left as it was saved, edited and saved with care; see
    # `Synthesizer`
    originals: float = 0.3

    def __post_init__(self) -> None:
        enough = self.photos or (self.real and self.real.share == 1)
        shares = 0 <= self.validation_share < 1 and 0 <= self.originals <= 1
        if not enough or not shares or min(self.workers, self.regenerated) < 0:
            raise ValueError(
                "needs at least one folder of photos, a validation share below 1, a share of "
                "originals in [0, 1], and no negative counts"
            )


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """Length, batches and learning rate of a run."""

    steps: int = 20000  # optimizer steps
    batch: int = 8  # samples per step, all processes and parts together
    # parts that a process's share of the batch goes through the model in; batch norm and the loss
    # see one part at a time
    accumulate: int = 1
    size: int = 384  # side of a sample, in pixels
    rate: float = 2e-3  # peak learning rate of AdamW
    weight_decay: float = 0.05  # of AdamW, on matrices and filters only
    warmup: int = 200  # steps of linear warm-up; a cosine to zero follows
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.998  # decay of the averaged weights
    # ``float32`` or ``bfloat16`` (autocast; float32 on a processor that would only emulate it)
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    seed: int = 0  # seed of the weights and of the samples

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.size, self.rate, self.clip) <= 0 or self.warmup < 0:
            raise ValueError(
                "steps, batch, size, rate and clip must be positive, warmup not negative"
            )
        if self.size % 64:
            raise ValueError("size must be a multiple of 64")
        if self.weight_decay < 0 or self.seed < 0 or not 0 <= self.ema < 1:
            raise ValueError("weight_decay and seed must not be negative, ema must lie in [0, 1)")
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise ValueError("accumulate must divide the batch")


@dataclass(frozen=True, slots=True)
class ValidationConfig:
    """Schedule and data of validation."""

    # folder of sets, each with ``tampered``, ``masks``, ``authentic``; optional
    folder: Path | None = None
    every: int = 500  # steps between looks; also between checkpoints
    synthetic: int = 256  # held-out synthetic samples to score
    real: int = 256  # samples of real forgeries held out for validation to score

    def __post_init__(self) -> None:
        if self.every < 1 or min(self.synthetic, self.real) < 0:
            raise ValueError("every must be positive, synthetic and real not negative")


@dataclass(frozen=True, slots=True)
class DiffusionConfig:
    """Trains DiffIML instead of EfficientIML. Each switch of the paper's ablations is a key."""

    vae: Path  # weights of a LightVAE, as `imlctl distill` writes them; they stay as they are
    # backbone of the condition encoder, one of `diff_iml.ENCODERS`
    encoder: str = "efficient-iml-small"
    # public ImageNet weights of a MiT or ResNet (safetensors); none starts at random
    backbone: Path | None = None
    denoiser: str = "light"  # ``light`` or ``paper``; see `denoiser.DENOISERS`
    # keep all of levels that are finer than the condition; see `ConditionEncoder`
    fold: bool = False
    prior: float = 0.1  # Prior rate c of Eq. 15; 0 trains without it.
    # 1 draws time steps evenly, as the paper; 2 in proportion to the step, since the noisiest are
    # where only the picture can tell what the mask is
    noise_bias: float = 1.0
    mask_weight: float = 0.2  # w of Eq. 10; the edge map's loss has the rest.
    # How edge maps are drawn, ``canny`` (Eq. 7) or ``band`` (the authors' code); ``none`` trains
    # without edge supervision.
    edges: Literal["canny", "band", "none"] = "canny"
    # Noise levels that each picture is tried at in one step. The encoder, which is most of the
    # work, runs once for all of them.
    draws: int = 4
    # Which steps a short sampling will visit; see `sampler.respaced`. Training does not depend on
    # it.
    spacing: Spacing = "leading"
    # learning rate of the backbone against the rest's; 0 leaves it as it is
    encoder_rate: float = 1.0
    # weight of `localization_loss` on the heads of an EfficientIML as encoder, which then answers
    # by itself as well; 0 trains without them
    auxiliary: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("encoder", ENCODERS), ("denoiser", DENOISERS)):
            check_choice(name, getattr(self, name), known)
        if not self.prior >= 0 or not 0 <= self.mask_weight <= 1 or self.encoder_rate < 0:
            raise ValueError(
                "prior and encoder_rate must not be negative, mask_weight must lie in [0, 1]"
            )
        if self.auxiliary < 0 or (self.auxiliary and not self.encoder.startswith("efficient-iml-")):
            raise ValueError("auxiliary must not be negative, and needs an encoder efficient-iml-*")
        if self.auxiliary and not self.encoder_rate:
            raise ValueError("auxiliary needs an encoder_rate above 0: the heads are the encoder's")
        if self.draws < 1 or self.noise_bias <= 0:
            raise ValueError("draws must be at least 1, noise_bias above 0")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A whole preset; where it is silent it trains what ships.

    With a table `diffusion` it trains DiffIML; `model` is not used then, `loss` only for
    `diffusion.auxiliary`.
    `init` names weights to start from, by name or path: of the same architecture, or, for DiffIML,
    an EfficientIML that becomes its condition encoder, with or without the path back up. They may
    be older than a part of the model, which is then added. `semantics` is the ImageNet network of
    a backbone that has one, EfficientNet-Lite0 as safetensors; it does not learn, and is that of
    the bundled weights unless given. `heads` are trained when all else is done.
    """

    data: DataConfig
    model: EfficientIMLConfig = field(
        default_factory=lambda: EfficientIMLConfig(backbone=SIZES["forensic"])
    )
    mix: Mix = field(default_factory=Mix)
    loss: LossWeights = field(default_factory=LossWeights)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    init: str | None = None
    semantics: Path | None = None
    diffusion: DiffusionConfig | None = None
    heads: HeadConfig = field(default_factory=HeadConfig)


def load_config(wanted: str | Path, changes: Sequence[str] = ()) -> TrainConfig:
    """Read a preset of `imlctl train`; see `load_preset`."""
    return load_preset(wanted, TrainConfig, changes)


C = TypeVar("C")


def load_preset(wanted: str | Path, kind: type[C], changes: Sequence[str] = ()) -> C:
    """Read a preset, a file or the name of a built-in one, into the dataclass `kind`.

    Relative paths in it are taken from the working directory. `changes` set further keys, such as
    ``optim.steps=100``. ConfigError where it cannot be read, or as `build` raises it.
    """
    path = find_preset(wanted)
    values = read_toml(path)
    for change in changes:
        _change(values, change)
    return build(kind, values, str(path))


def _change(values: dict[str, Any], change: str) -> None:
    """Set one key of a preset; an empty value takes the key out."""
    key, given, text = change.partition("=")
    *tables, name = key.strip().split(".")
    if not given or not name:
        remedy = "Write a key and a value, such as optim.steps=100."
        raise ConfigError(f"cannot be read: {change!r}", source="--set", remedy=remedy)
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{table!r} is not a table", source=f"--set {key}")
    if not text.strip():
        values.pop(name, None)
        return
    try:
        values[name] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:  # a word or a path, which a shell has taken the quotes from
        values[name] = text.strip()


def build(kind: type[C], values: Any, where: str, base: C | None = None) -> C:
    """Make a frozen dataclass of nested tables; where they are silent, `base` or its defaults hold.

    ConfigError says which key is unknown or missing, or which value is wrong.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"must be a table, not {values!r}", source=where)
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        remedy = f"Known keys: {', '.join(known)}."
        raise ConfigError(f"unknown key {unknown[0]!r}", source=where, remedy=remedy)
    silent: dict[str, Any] = {}
    for f in fields(kind):  # type: ignore[arg-type]
        if base is not None:
            silent[f.name] = getattr(base, f.name)
        elif f.default_factory is not MISSING:
            silent[f.name] = f.default_factory()
        elif f.default is not MISSING:
            silent[f.name] = f.default
        elif f.name not in values:
            raise ConfigError(f"lacks {f.name!r}", source=where, remedy="Add it to the preset.")
    given = {k: _convert(hints[k], v, f"{where}: {k}", silent.get(k)) for k, v in values.items()}
    try:
        return kind(**(silent | given))
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error), source=where) from error


def _convert(hint: Any, value: Any, where: str, base: Any = None) -> Any:
    """Turn one TOML value into the type a field asks for; `base` is what a table adds to."""
    if get_origin(hint) in (Union, types.UnionType):  # only `X | None` is used
        hint = next(a for a in get_args(hint) if a is not type(None))
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where, base)
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        if inner is Path and isinstance(value, str):  # --set data.photos=FOLDER
            value = [value]
        if not isinstance(value, list):
            raise ConfigError(f"must be a list, not {value!r}", source=where)
        return tuple(_convert(inner, v, where) for v in value)
    if get_origin(hint) is Literal and value not in get_args(hint):
        known = ", ".join(get_args(hint))
        raise ConfigError(f"unknown value {value!r}; known: {known}", source=where)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (type(value) is bool and hint is not bool)
    ):
        raise ConfigError(f"must be {hint.__name__}, not {value!r}", source=where)
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"must be a finite number, not {value!r}", source=where)
    return value
