"""Objectives: EfficientIML learns from masks, DiffIML from denoising latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core.denoiser import DENOISERS
from imlctl.core.diff_iml import DiffIML, DiffIMLConfig
from imlctl.core.efficient_iml import EfficientIML, TopDown
from imlctl.core.light_vae import LightVAE
from imlctl.core.sampler import diffuse
from imlctl.device import autocast
from imlctl.errors import ConfigError, first_line
from imlctl.forge.shapes import edge_map
from imlctl.train.checkpoint import starting_with
from imlctl.train.distributed import fair
from imlctl.weights.load import load, open_weights

if TYPE_CHECKING:
    from imlctl.core.efficientnet import EfficientNetLite
    from imlctl.core.imagenet import ImageNetInput
    from imlctl.core.model import Model, Prediction
    from imlctl.train.batches import Batch, Clues
    from imlctl.train.config import DiffusionConfig, TrainConfig

_BUNDLED = "efficientiml"
_SEMANTICS = "backbone.semantics."
# What older weights may be without: what a clue says to the stem is nothing until it has learned.
_SILENT = ("backbone.stem.repeats.", "backbone.stem.history.", "backbone.stem.unlike.")
# Score, reliability and what copies are worth, which a run teaches anew when it ends.
_TAUGHT_LAST = ("whole.", "sight.", "copied.")
_ANSWERS = ("head.", "level_heads.", "score.", *_TAUGHT_LAST)  # of an EfficientIML, to its features


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weight of each term of `localization_loss`."""

    # of the full map and of each coarser level, finest first
    levels: tuple[float, ...] = (1.0, 0.5, 0.25)
    dice: float = 1.0  # of the Dice term against the cross-entropy of the same level
    # Of the cross-entropy near the borders of the mask (IML-ViT, Ma et al. 2023).
    edge: float = 0.3
    consistency: float = 0.5  # of the distance between each coarser level and the full map
    score: float = 0.2  # of the image-level cross-entropy

    def __post_init__(self) -> None:
        if min(*self.levels, self.dice, self.edge, self.consistency, self.score) < 0:
            raise ValueError("loss weights must not be negative")


class Objective(Protocol):
    """Interface of what is trained, for a loop that knows no model."""

    rates: Mapping[str, float]  # factors on the learning rate, by starts of parameters' names

    def build(self) -> Any:
        """Make the model, in float32 on the CPU."""

    def loss(self, model: Any, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch on the samples' own pixels, and its terms by name."""


def make_objective(config: TrainConfig) -> Masks | Latents:
    """Choose by whether the preset has a table `diffusion`."""
    return Masks(config) if config.diffusion is None else Latents(config, config.diffusion)


class Masks:
    """EfficientIML: supervised at every level; see `localization_loss`."""

    architecture = "efficient-iml"

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.rates: Mapping[str, float] = {}

    def build(self) -> EfficientIML:
        """Make the model, from `init` if there is one; ImlctlError where a file does not fit."""
        model = EfficientIML(self.config.model)
        semantics, init = model.backbone.semantics, self.config.init
        fresh = model.state_dict()
        state = open_weights(init).model.state_dict() if init else dict(fresh)
        lacking = [part for part in _SILENT if not any(k.startswith(part) for k in state)]
        if semantics is not None and not (init and any(k.startswith(_SEMANTICS) for k in state)):
            _load_semantics(semantics.network, self.config.semantics)
            lacking.append(_SEMANTICS)
        state |= {k: v for k, v in fresh.items() if k.startswith(tuple(lacking))}
        state = {k: v for k, v in state.items() if k in fresh or not k.startswith(_TAUGHT_LAST)}
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise _misfit("this preset's model", str(init)) from error
        return model

    def loss(self, model: Model, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch on the samples' own pixels, and its terms by name."""
        del step
        with autocast(batch.image.device, self.config.optim.precision):
            prediction = model(batch.image, batch.clues)
        return localization_loss(prediction, batch.mask, self.config.loss, valid=batch.valid)


class Latents:
    """DiffIML: the mean squared error of clean latents of mask and edge map (Eq. 8 to 10, 15).

    With `auxiliary`, the losses of `Masks` on the condition encoder's own heads as well.

    Noise, prior and time step are drawn on the CPU from seed and step: a resumed run draws alike.
    """

    architecture = "diff-iml"

    def __init__(self, config: TrainConfig, diffusion: DiffusionConfig) -> None:
        self.config, self.diffusion = config, diffusion
        self.rates: Mapping[str, float] = {"encoder.backbone.": diffusion.encoder_rate}

    def build(self) -> DiffIML:
        """Make the model around a finished LightVAE, backbone from `init`; raises as `Masks`."""
        asked = self.diffusion
        vae = load(asked.vae).model
        if not isinstance(vae, LightVAE):
            remedy = "Make one with imlctl distill."
            raise ConfigError("is not a LightVAE", source=str(asked.vae), remedy=remedy)
        own = DiffIMLConfig(
            asked.encoder,
            DENOISERS[asked.denoiser],
            vae.config,
            spacing=asked.spacing,
            fold=asked.fold,
            heads=asked.auxiliary > 0,
        )
        model = DiffIML(own)
        for source, fill in ((asked.backbone, _load_public), (self.config.init, _load_init)):
            try:
                if source is not None:
                    fill(model, source)
            except (RuntimeError, AttributeError) as error:  # our own backbones have none public
                fault = f"a DiffIML with encoder {asked.encoder!r}"
                raise _misfit(fault, str(source)) from error
        model.vae.load_state_dict(vae.state_dict())
        model.vae.requires_grad_(False)
        if not asked.encoder_rate:
            model.encoder.backbone.requires_grad_(False)
        return model

    def loss(self, model: Model, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch, at `draws` noise levels for each picture, and its terms by name."""
        model, draws = cast("DiffIML", model), self.diffusion.draws
        clean = self.targets(model, batch.mask).repeat_interleave(draws, 0)  # (B * draws, 8, h, w)
        noisy, t = self.noisy(model, clean, step, batch.first, batch.total)
        with autocast(batch.image.device, self.config.optim.precision):
            found = model.encoder.backbone(batch.image, batch.clues)
            prepared = model.denoiser.prepare(model.encoder.gather(found, batch.image))
            guess = model.denoiser(noisy, t, prepared.repeat_interleave(draws, 0))
        own = F.adaptive_avg_pool2d(batch.valid, clean.shape[-1]).repeat_interleave(draws, 0)
        of_mask, of_edge = (guess.float() - clean).square().split(model.config.vae.latent, 1)
        terms = {"mask": weighted_mean(of_mask, own), "edge": weighted_mean(of_edge, own)}
        weight = 1.0 if self.diffusion.edges == "none" else self.diffusion.mask_weight
        total = weight * terms["mask"] + (1 - weight) * terms["edge"]
        if model.config.heads:
            pixels, _ = localization_loss(found, batch.mask, self.config.loss, valid=batch.valid)
            terms["auxiliary"] = self.diffusion.auxiliary * pixels
            total = total + terms["auxiliary"]
        return total, {k: v.detach() for k, v in terms.items()}

    @torch.no_grad()
    def targets(self, model: DiffIML, mask: Tensor) -> Tensor:
        """Clean latents of masks (B, 1, H, W) and of their edge maps, (B, 8, h, w)."""
        kind, edges = self.diffusion.edges, torch.zeros_like(mask)
        if kind != "none":
            drawn = [edge_map(each, kind) for each in (mask[:, 0] > 0.5).cpu().numpy()]
            edges = torch.from_numpy(np.stack(drawn)[:, None]).to(mask)
        return torch.cat([model.vae.encode(maps * 2 - 1) for maps in (mask, edges)], dim=1)

    def noisy(
        self, model: DiffIML, clean: Tensor, step: int, first: int = 0, total: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Latents with prior and noise of random strength (Eq. 15), and their time steps.

        They are those of the pictures from number `first` on, of `total` in the batch: the noise of
        all of it is drawn, of which other processes take the rest.
        """
        seed = np.random.SeedSequence((self.config.optim.seed, step)).generate_state(1)[0]
        rng = torch.Generator("cpu").manual_seed(int(seed))
        begin = first * self.diffusion.draws
        mine = slice(begin, begin + len(clean))
        whole = (total * self.diffusion.draws or len(clean), *clean.shape[1:])
        even = torch.rand(whole[0], generator=rng, dtype=torch.float64)[mine]
        t = (even ** (1 / self.diffusion.noise_bias) * model.config.schedule.steps).long()
        noise, prior = (torch.randn(whole, generator=rng)[mine].to(clean.device) for _ in range(2))
        z = diffuse(clean, noise, t, model.bars, prior=self.diffusion.prior, prior_noise=prior)
        return z, t.to(clean.device)


def localization_loss(
    prediction: Prediction,
    mask: Tensor,
    weights: LossWeights | None = None,
    *,
    valid: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of all terms, and each term by name.

    L = sum_s w_s [ BCE(p_s, m_s) + l_d Dice(p_s, m_s) + l_c MSE(p_s, stopgrad(down(p))) ]
        + l_e BCE_edge(p, m) + l_i BCE(score)

    The mask is (B, 1, H, W), 0 or 1; `valid` likewise, 0 on padding, where nothing is learned.
    """
    w = weights or LossWeights()
    mask = mask.float()
    own = torch.ones_like(mask) if valid is None else valid
    final = prediction.logits.float()
    terms = dict.fromkeys(("bce", "dice", "consistency"), final.new_zeros(()))
    settled = torch.sigmoid(final.detach())
    for weight, logits in zip(w.levels, (final, *prediction.levels), strict=False):
        logits = logits.float()
        target, here = mask, own
        if logits is not final:
            size = (logits.shape[-2], logits.shape[-1])
            here = F.adaptive_avg_pool2d(own, size)  # the share of each place that counts
            target = F.adaptive_avg_pool2d(mask * own, size) / here.clamp_min(1e-6)
        wrong = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        terms["bce"] = terms["bce"] + weight * weighted_mean(wrong, here)
        terms["dice"] = terms["dice"] + weight * w.dice * dice_loss(logits, target, here)
        if logits is not final:
            apart = (torch.sigmoid(logits) - F.adaptive_avg_pool2d(settled, size)).square()
            apart = weight * w.consistency * weighted_mean(apart, here)
            terms["consistency"] = terms["consistency"] + apart
    near = F.binary_cross_entropy_with_logits(final, mask, reduction="none")
    terms["edge"] = w.edge * weighted_mean(near, edge_band(mask) * own)
    forged = ((mask * own).flatten(1).amax(1) > 0).float()
    verdict = F.binary_cross_entropy_with_logits(prediction.score_logits.float(), forged)
    terms["score"] = w.score * verdict
    return torch.stack(tuple(terms.values())).sum(), {k: v.detach() for k, v in terms.items()}


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of (B, C, H, W) with weights (B, 1, H, W), over the whole batch and all processes."""
    return (values * weights).sum() / (fair(weights.sum()) * values.shape[1])


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 - Dice, averaged over the pictures of the batch that hold a forgery; 0 when none does.

    All are (B, 1, H, W): logits, the target in [0, 1], and how much of each place counts.
    """
    p, m = torch.sigmoid(logits), target
    if valid is not None:
        p, m = p * valid, m * valid
    p, m = p.flatten(1), m.flatten(1)
    overlap = 2 * (p * m).sum(1) / (p.sum(1) + m.sum(1) + 1e-6)
    forged = (m.amax(1) > 0).to(overlap.dtype)
    return ((1 - overlap) * forged).sum() / fair(forged.sum())


def edge_band(mask: Tensor, width: int = 7) -> Tensor:
    """1 within `width` // 2 pixels of a border of the mask, 0 elsewhere; same shape as the mask."""
    reach = width // 2
    tall, wide = ((width, 1), 1, (reach, 0)), ((1, width), 1, (0, reach))

    def grown(values: Tensor) -> Tensor:  # down, then across, in half the time of squares
        return F.max_pool2d(F.max_pool2d(values, *tall), *wide)

    return grown(mask) + grown(-mask)


def train_mode(model: nn.Module) -> None:
    """Make the parts that learn ready to; norms of frozen parts keep their statistics."""
    model.train()
    for part in model.modules():
        learns = [p.requires_grad for p in part.parameters()]
        if learns and not any(learns):
            part.eval()


def clues_of(model: Model) -> Clues | None:
    """Return what finds a model's clues, for whoever makes the samples to call; None without."""
    return None if model.clues(torch.zeros(1, 3, 64, 64)) is None else cast("Clues", model.clues)


def _load_init(model: DiffIML, wanted: str | Path) -> None:
    """Fill a DiffIML, or its backbone from an EfficientIML, whose heads it may not have."""
    init: nn.Module = open_weights(wanted).model
    part: nn.Module = model
    state = init.state_dict()
    if isinstance(init, EfficientIML):
        part = model.encoder.backbone
        known = part.state_dict()
        state = (init if isinstance(part, TopDown) else init.backbone).state_dict()
        # Other parts that it lacks, such as those of a clue, would be missed: they do not fit.
        state = {k: v for k, v in state.items() if k in known or not k.startswith(_ANSWERS)}
    part.load_state_dict(state)


def _load_public(model: DiffIML, path: str | Path) -> None:
    cast("ImageNetInput", model.encoder.backbone).load_public(_tensors(path))


def _load_semantics(network: EfficientNetLite, path: Path | None) -> None:
    """Fill the ImageNet network, which does not learn; from the bundled weights without a file."""
    try:
        if path is not None:
            network.load_public(_tensors(path))
        else:
            bundled = open_weights(_BUNDLED).model.state_dict()
            network.load_state_dict(starting_with(f"{_SEMANTICS}network.", bundled))
    except RuntimeError as error:
        what = f"is not EfficientNet-Lite0 ({first_line(error)})"
        raise ConfigError(what, source=str(path or _BUNDLED)) from error


def _misfit(what: str, source: str) -> ConfigError:
    return ConfigError(
        f"does not fit {what}", source=source, remedy="Name weights of the same shape, or none."
    )


def _tensors(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        what = f"cannot be read as safetensors ({error})"
        remedy = "Pickles become safetensors with imlctl weights convert."
        raise ConfigError(what, source=str(path), remedy=remedy) from error
