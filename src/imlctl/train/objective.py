"""Objectives: EfficientIML learns from masks, DiffIML from denoising latents.

The loop knows neither model; it asks an objective to build one, and for the loss of a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core import efficient_rwkv, mit, resnet
from imlctl.core.denoiser import DENOISERS
from imlctl.core.diff_iml import DiffIML, DiffIMLConfig
from imlctl.core.efficient_iml import EfficientIML, TopDown
from imlctl.core.light_vae import LightVAE
from imlctl.core.sampler import diffuse
from imlctl.device import autocast
from imlctl.errors import ConfigError, first_line
from imlctl.forge.shapes import edge_map
from imlctl.train.distributed import within_batch
from imlctl.train.losses import localization_loss, weighted_mean
from imlctl.weights.load import load
from imlctl.weights.open import open_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from imlctl.core.diff_iml import ImageNetInput
    from imlctl.core.efficient_rwkv import Semantics
    from imlctl.core.model import Model
    from imlctl.train.batches import Batch, Clues
    from imlctl.train.config import DiffusionConfig, TrainConfig

_BUNDLED = "efficientiml"
_SEMANTICS = "backbone.semantics."
# What older weights may be without: what a clue says to the stem is nothing until it has learned.
_SILENT = ("backbone.stem.repeats.", "backbone.stem.history.", "backbone.stem.unlike.")


class Objective(Protocol):
    """A model and its loss; `rates` are factors on the learning rate, by the start of a name."""

    architecture: str
    rates: Mapping[str, float]

    def build(self) -> Model:
        """Make the model, in float32 on the CPU."""

    def train_mode(self, model: nn.Module) -> None:
        """Make the parts that learn ready to."""

    def hot(self, model: Model) -> Iterable[nn.Module]:
        """Parts that a step spends its time in, each called as a module."""

    def loss(self, model: Model, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch on the samples' own pixels, and its terms by name."""


def make_objective(config: TrainConfig) -> Objective:
    """Choose by whether the preset has a table `diffusion`."""
    return Masks(config) if config.diffusion is None else Latents(config, config.diffusion)


class Masks:
    """EfficientIML: supervised at every level; see `losses`."""

    architecture = "efficient-iml"

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.rates: Mapping[str, float] = {}

    def build(self) -> EfficientIML:
        """Make the model; from `init`, if the preset names one.

        Raises:
            ImlctlError: A file cannot be read or does not fit.
        """
        model = EfficientIML(self.config.model)
        semantics, init = model.backbone.semantics, self.config.init
        state = open_weights(init).model.state_dict() if init else model.state_dict()
        if semantics is not None and (not init or not any(k.startswith(_SEMANTICS) for k in state)):
            _load_semantics(semantics, self.config.semantics)
            state |= _part_of(model, _SEMANTICS)
        for part in _SILENT:
            if not any(k.startswith(part) for k in state):
                state |= _part_of(model, part)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ConfigError(
                f"does not fit this preset's model ({first_line(error)})",
                source=str(init),
                remedy="Name weights of the same shape, or none.",
            ) from error
        return model

    def train_mode(self, model: nn.Module) -> None:
        """See `Objective`."""
        model.train()

    def hot(self, model: Model) -> Iterable[nn.Module]:
        """See `Objective`."""
        return encoder_blocks(model)

    def loss(self, model: Model, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Objective`."""
        del step
        with autocast(batch.image.device, self.config.optim.precision):
            prediction = model(batch.image, batch.clues)
        return localization_loss(prediction, batch.mask, self.config.loss, valid=batch.valid)


class Latents:
    """DiffIML: the mean squared error of clean latents of mask and edge map (Eq. 8 to 10, 15).

    Noise, prior and time step are drawn on the CPU from seed and step: a resumed run draws alike.
    """

    architecture = "diff-iml"

    def __init__(self, config: TrainConfig, diffusion: DiffusionConfig) -> None:
        self.config, self.diffusion = config, diffusion
        self.rates: Mapping[str, float] = {"encoder.backbone.": diffusion.encoder_rate}

    def build(self) -> DiffIML:
        """Make the model around a finished LightVAE; the backbone from `init`, if there is one.

        Raises:
            ImlctlError: A file cannot be read or does not fit.
        """
        named = self.diffusion.vae
        vae = load(named).model
        if not isinstance(vae, LightVAE):
            raise ConfigError(
                "is not a LightVAE", source=str(named), remedy="Make one with imlctl distill."
            )
        config = DiffIMLConfig(
            self.diffusion.encoder,
            DENOISERS[self.diffusion.denoiser],
            vae.config,
            spacing=self.diffusion.spacing,
            fold=self.diffusion.fold,
        )
        model = DiffIML(config)
        if self.diffusion.backbone is not None:
            self._load_public(model, self.diffusion.backbone)
        if self.config.init is not None:
            self._load_init(model, self.config.init)
        model.vae.load_state_dict(vae.state_dict())
        model.vae.requires_grad_(False)
        if not self.diffusion.encoder_rate:
            model.encoder.backbone.requires_grad_(False)
        return model

    def _load_init(self, model: DiffIML, wanted: str) -> None:
        init: nn.Module = open_weights(wanted).model
        part: nn.Module = model
        state = init.state_dict()
        if isinstance(init, EfficientIML):  # its heads are left aside
            part = model.encoder.backbone
            init = init if isinstance(part, TopDown) else init.backbone
            known = part.state_dict()
            state = {k: v for k, v in init.state_dict().items() if k in known}
        try:
            part.load_state_dict(state)
        except RuntimeError as error:
            raise self._misfit(wanted) from error

    def _load_public(self, model: DiffIML, path: Path) -> None:
        tensors = _tensors(path)
        try:
            cast("ImageNetInput", model.encoder.backbone).load_public(tensors)
        except (RuntimeError, AttributeError) as error:  # the latter: our own backbone
            raise self._misfit(path) from error

    def _misfit(self, path: str | Path) -> ConfigError:
        return ConfigError(
            f"does not fit a DiffIML with encoder {self.diffusion.encoder!r}",
            source=str(path),
            remedy="Name weights of the same shape, or none.",
        )

    def train_mode(self, model: nn.Module) -> None:
        """Only what learns: norms of frozen parts keep their statistics."""
        model.train()
        ours = cast("DiffIML", model)
        ours.vae.eval()
        if not self.diffusion.encoder_rate:
            ours.encoder.backbone.eval()

    def hot(self, model: Model) -> Iterable[nn.Module]:
        """Parts that a step spends its time in."""
        return (*encoder_blocks(model), cast("DiffIML", model).denoiser)

    def loss(self, model: Model, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch, at `draws` noise levels for each picture."""
        model, draws = cast("DiffIML", model), self.diffusion.draws
        clean = self.targets(model, batch.mask).repeat_interleave(draws, 0)  # (B * draws, 8, h, w)
        noisy, t = self.noisy(model, clean, step)
        with autocast(batch.image.device, self.config.optim.precision):
            prepared = model.condition(batch.image, batch.clues).repeat_interleave(draws, 0)
            guess = model.denoiser(noisy, t, prepared)
        own = F.adaptive_avg_pool2d(batch.valid, clean.shape[-1]).repeat_interleave(draws, 0)
        apart = (guess.float() - clean).square()
        half = model.config.vae.latent
        terms = {
            "mask": weighted_mean(apart[:, :half], own),
            "edge": weighted_mean(apart[:, half:], own),
        }
        weight = 1.0 if self.diffusion.edges == "none" else self.diffusion.mask_weight
        total = weight * terms["mask"] + (1 - weight) * terms["edge"]
        return total, {k: v.detach() for k, v in terms.items()}

    @torch.no_grad()
    def targets(self, model: DiffIML, mask: Tensor) -> Tensor:
        """Clean latents of masks (B, 1, H, W) and of their edge maps, (B, 8, h, w)."""
        if self.diffusion.edges == "none":
            edges = torch.zeros_like(mask)
        else:
            kind = self.diffusion.edges
            drawn = [edge_map(each, kind) for each in (mask[:, 0] > 0.5).cpu().numpy()]
            edges = torch.from_numpy(np.stack(drawn)[:, None]).to(mask)
        return torch.cat([model.vae.encode(maps * 2 - 1) for maps in (mask, edges)], dim=1)

    def noisy(self, model: DiffIML, clean: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Latents with prior and noise of random strength (Eq. 15), and their time steps."""
        seed = np.random.SeedSequence((self.config.optim.seed, step)).generate_state(1)[0]
        rng = torch.Generator("cpu").manual_seed(int(seed))
        # Other processes hold the rest of the batch: draw for all of it, and take our part.
        first, total = (n * self.diffusion.draws for n in within_batch())
        mine = slice(first, first + len(clean))
        whole = (total or len(clean), *clean.shape[1:])
        even = torch.rand(whole[0], generator=rng, dtype=torch.float64)[mine]
        t = (even ** (1 / self.diffusion.noise_bias) * model.config.schedule.steps).long()
        noise, prior = (torch.randn(whole, generator=rng)[mine].to(clean.device) for _ in range(2))
        z = diffuse(clean, noise, t, model.bars, prior=self.diffusion.prior, prior_noise=prior)
        return z, t.to(clean.device)


def _part_of(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if k.startswith(prefix)}


def _load_semantics(part: Semantics, path: Path | None) -> None:
    """Fill the ImageNet network, which does not learn; from the bundled weights without a file."""
    try:
        if path is not None:
            part.network.load_public(_tensors(path))
            return
        bundled = open_weights(_BUNDLED).model.state_dict()
        start = f"{_SEMANTICS}network."
        found = {k.removeprefix(start): v for k, v in bundled.items() if k.startswith(start)}
        part.network.load_state_dict(found)
    except RuntimeError as error:
        raise ConfigError(
            f"is not EfficientNet-Lite0 ({first_line(error)})", source=str(path or _BUNDLED)
        ) from error


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"cannot be read as safetensors ({error})",
            source=str(path),
            remedy="Pickles become safetensors with imlctl weights convert.",
        ) from error


def encoder_blocks(model: nn.Module) -> list[nn.Module]:
    """The encoder's repeated parts. One by one, since equal ones are compiled once."""
    kinds = (efficient_rwkv.Block, mit.Block, resnet.Bottleneck)
    return [part for part in model.modules() if isinstance(part, kinds)]


def clues_of(model: Model) -> Clues | None:
    """Return what finds a model's clues, for whoever makes the samples to call; None without."""
    if model.clues(torch.zeros(1, 3, 64, 64)) is None:
        return None
    return cast("Clues", model.clues)
