"""Distilling LightVAE: masks in, a small autoencoder out, with a teacher's latents or without.

Eq. 6 of DiffIML with cross-entropy for its L1, which calibrates nothing. Diffusion will move
latents about, so what is decoded in training is moved too: by noise, and by blending two maps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path  # `load_preset` reads the annotation
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.core.light_vae import FACTOR, LightVAE, LightVAEConfig
from imlctl.device import autocast
from imlctl.errors import ConfigError, UsageError, WeightsError, first_line
from imlctl.forge.shapes import EdgeKind  # `load_preset` reads the annotation
from imlctl.train.batches import Batch
from imlctl.train.checkpoint import Log, Report, as_json
from imlctl.train.config import OptimConfig
from imlctl.train.loop import Learner, Stopwatch, TrainingRun, fresh_state, take_step
from imlctl.train.mask_maps import JudgeConfig, MaskMaps, round_trip
from imlctl.weights.load import Card, load

# Maps (B, 1, H, W) in -1 and +1 to scaled latents (B, C, H / 8, W / 8).
Teacher = Callable[[Tensor], Tensor]

_TEACHERS = ("AutoencoderKL", "AutoencoderTiny")  # of diffusers
_BOUND = 3.0  # standard deviations within which latents should stay


@dataclass(frozen=True, slots=True)
class TeacherConfig:
    """Choice of the autoencoder that teaches."""

    source: str = ""  # Id on the Hub, or a folder in its layout. Empty for no teacher.
    # commit, tag or branch on the Hub; pin a commit for a run that can be repeated
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class DistillWeights:
    """Weights of the terms of the loss."""

    teacher: float = 0.01  # Squared distance to the teacher's latents, lambda of Eq. 6.
    # distance of the latents from zero mean and unit variance, and how far they reach beyond three;
    # without a teacher only, since a teacher has its own
    moments: float = 0.01
    # Largest standard deviation of the noise added to scaled latents. Most maps get far less: what
    # noise there is all the time, the code has to spend its precision on.
    noise: float = 0.2
    blend: float = 0.05  # share of a batch in which two maps are blended

    def __post_init__(self) -> None:
        if min(self.teacher, self.moments, self.noise) < 0 or not 0 <= self.blend <= 1:
            raise ValueError("weights and noise must not be negative, blend must lie in [0, 1]")


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """A whole preset; a step takes `optim.batch` masks and as many edge maps.

    `init` names finished weights that are the start.
    """

    model: LightVAEConfig = field(default_factory=LightVAEConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: DistillWeights = field(default_factory=DistillWeights)
    optim: OptimConfig = field(default_factory=OptimConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    edges: EdgeKind = "canny"
    init: Path | None = None


def distill(
    config: DistillConfig,
    out: Path,
    *,
    device: torch.device,
    teacher: Teacher | None = None,
    report: Report | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Train LightVAE, or go on where `out` stopped.

    Writes into `out`: ``log.jsonl``, ``last.safetensors`` (the whole state) and
    ``best.safetensors`` (the averaged weights with the best round trip of held-out masks), whose
    path is returned; None if `stop`, asked after each step, said so. Without a `teacher` that of
    the preset is loaded.

    Raises:
        ImlctlError: The loss is not finite; the teacher or a checkpoint is wrong.
    """
    out.mkdir(parents=True, exist_ok=True)
    settings = as_json(config)
    optim = replace(config.optim, accumulate=1)  # all maps of a step go through at once
    teacher = teacher or load_teacher(config.teacher, latent=config.model.latent, device=device)
    objective = _Maps(config, teacher)
    state = fresh_state(objective, optim, device)
    learner = Learner(state.model, objective)
    log = Log(out / "log.jsonl", report)
    run = TrainingRun(state, optim, out, settings, log, samples=2 * optim.batch)  # and edge maps
    stream = MaskMaps(optim.size, optim.seed, config.edges)

    def advance(watch: Stopwatch) -> dict[str, float]:
        maps = stream.batch(state.step * optim.batch, optim.batch).to(device)
        return take_step(state, learner, optim, [Batch(maps, maps, maps)], watch)

    def judge() -> None:
        found = round_trip(state.ema.model, config.judge, config.edges, device)
        card = Card("light-vae", config.model.to_dict(), training={"preset": settings})
        run.keep_best("round trip", found, found["f1"], card)

    return out / "best.safetensors" if run(advance, judge, config.judge.every, stop) else None


class _Maps:
    """LightVAE's `Objective`: maps, -1 and +1, which are a batch's image."""

    def __init__(self, config: DistillConfig, teacher: Teacher | None) -> None:
        self.config, self.teacher = config, teacher
        self.rates: Mapping[str, float] = {}

    def build(self) -> LightVAE:
        model = LightVAE(self.config.model)
        if self.config.init is not None:
            model.load_state_dict(load(self.config.init).model.state_dict())
        return model

    def loss(self, model: LightVAE, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        optim = self.config.optim
        maps = batch.image
        # By step, not by what was drawn before: a resumed run draws the same.
        chance = torch.Generator().manual_seed(optim.seed << 32 | step)
        with autocast(maps.device, optim.precision):
            latents = model.encode(maps).float()
            moved, inside = disturb(latents, (maps + 1) / 2, self.config.loss, chance)
            logits = model.decode(moved)
        target = self.teacher(maps) if self.teacher else None
        return distillation_loss(logits, inside, latents, target, self.config.loss)


def disturb(
    latents: Tensor, inside: Tensor, weights: DistillWeights, chance: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Blend some latents (B, C, h, w) with others' and add noise to all; masks first, then edges.

    Returns the latents to decode, and the probability (B, 1, H, W) that should come out.
    """
    count, device = len(latents), latents.device
    blended = (torch.rand(count, 1, 1, 1, generator=chance) < weights.blend).float()
    keep = (1 - blended * torch.rand(count, 1, 1, 1, generator=chance)).to(device)
    half = count // 2  # masks with masks, edge maps with edge maps
    masks = torch.randperm(half, generator=chance)
    edges = torch.randperm(count - half, generator=chance) + half
    other = torch.cat((masks, edges)).to(device)
    level = torch.rand(count, 1, 1, 1, generator=chance) ** 4 * weights.noise
    noise = (torch.randn(latents.shape, generator=chance) * level).to(device)
    moved = keep * latents + (1 - keep) * latents[other] + noise
    return moved, keep * inside + (1 - keep) * inside[other]


def distillation_loss(
    logits: Tensor, inside: Tensor, latents: Tensor, target: Tensor | None, weights: DistillWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 6 with cross-entropy as its reconstruction; its terms before weighting, detached.

    The decoded `logits` (B, 1, H, W) are compared with `inside`, in [0, 1]; the encoded and scaled
    `latents` (B, C, h, w) with the teacher's `target`, which is None without a teacher.
    """
    reconstruction = F.binary_cross_entropy_with_logits(logits.float(), inside)
    if target is not None:
        name, factor, term = "teacher", weights.teacher, F.mse_loss(latents, target)
    else:
        name, factor, term = "moments", weights.moments, moment_penalty(latents)
    loss = reconstruction + factor * term
    return loss, {"reconstruction": reconstruction.detach(), name: term.detach()}


def moment_penalty(latents: Tensor) -> Tensor:
    """Distance from zero mean and unit variance by channel, plus a tenth of the reach beyond 3."""
    flat = latents.transpose(0, 1).flatten(1)  # (C, B h w)
    deviation = flat.var(1).clamp(min=1e-6).sqrt()
    reach = F.relu(latents.abs() - _BOUND).square().mean()
    return flat.mean(1).square().mean() + (deviation - 1).square().mean() + 0.1 * reach


def load_teacher(config: TeacherConfig, *, latent: int, device: torch.device) -> Teacher | None:
    """Load a frozen autoencoder of diffusers, if one is asked for, and try it on a small map.

    A map is put into all three colours; of the posterior the mean is taken. ImlctlError where it
    cannot be fetched or read, or its latents are not the student's.
    """
    if not config.source:
        return None
    kind, model = _from_diffusers(config)
    model = model.to(device).eval().requires_grad_(False)
    scale, shift = model.config.scaling_factor, getattr(model.config, "shift_factor", None) or 0.0

    @torch.no_grad()
    def encode(maps: Tensor) -> Tensor:
        coded = model.encode(maps.expand(-1, 3, -1, -1))
        mean = coded.latents if kind == "AutoencoderTiny" else coded.latent_dist.mean
        return cast("Tensor", (mean - shift) * scale)

    side = 8 * FACTOR
    shape = tuple(encode(torch.ones(1, 1, side, side, device=device)).shape)
    if shape != (1, latent, FACTOR, FACTOR):
        what = f"makes latents {shape} of a {side}x{side} map, not {(1, latent, FACTOR, FACTOR)}"
        remedy = "Choose a teacher that goes down 8 times, with as many channels as the student."
        raise ConfigError(what, source=config.source, remedy=remedy)
    return encode


def _from_diffusers(config: TeacherConfig) -> tuple[str, Any]:
    """Load the autoencoder that a preset names; return its class's name too."""
    name = config.source
    try:
        import diffusers
    except ImportError as error:
        what = "a teacher needs the package diffusers, which is not installed"
        remedy = "Install it with: pip install 'imlctl[teacher]'."
        raise UsageError(what, source=name, remedy=remedy) from error
    # Never a pickle; and without accelerate there is no loading in low memory.
    how = {"revision": config.revision, "use_safetensors": True, "low_cpu_mem_usage": False}
    try:
        with warnings.catch_warnings(action="ignore"):  # it calls the Hub in ways of the past
            found = diffusers.AutoencoderKL.load_config(name, revision=config.revision)
            kind = found.get("_class_name")
            if kind in _TEACHERS:
                return kind, getattr(diffusers, kind).from_pretrained(name, **how)
    except (OSError, ValueError, RuntimeError, KeyError) as error:  # the Hub's are OSErrors
        what = f"cannot be loaded as a teacher ({first_line(error)})"
        remedy = "Check its name and revision, the network, HF_ENDPOINT and HF_HUB_OFFLINE."
        raise WeightsError(what, source=name, remedy=remedy) from error
    raise ConfigError(f"is a {kind}", source=name, remedy=f"Teachers are: {', '.join(_TEACHERS)}.")
