"""DiffIML: localization as generation. A mask is sampled, given the picture.

"Towards Generalized Image Manipulation Localization via Score-based Model". Its named parts are the
condition encoder, which runs once for a picture; the denoiser, which runs at every step; and
LightVAE, whose decoder turns the result into a map. Mask and edge map are generated together, as
eight channels of latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from imlctl.core.condition import ENCODERS, ConditionEncoder
from imlctl.core.denoiser import DENOISERS, Denoiser, DenoiserConfig
from imlctl.core.layers import check_size, fuse_all
from imlctl.core.light_vae import FACTOR, LightVAE, LightVAEConfig
from imlctl.core.light_vae import SIZES as VAE_SIZES
from imlctl.core.model import STEPS, Model, Parts, Prediction
from imlctl.core.plain import Plain
from imlctl.core.sampler import sample_mean
from imlctl.core.schedule import ScheduleConfig, Spacing, alpha_bars, respaced

MEMBERS = 5  # runs that are averaged, the paper's choice: more change little (its Table 7)

_SPOT = 32  # pixels; the image-level score is the strongest spot of this side


@dataclass(frozen=True, slots=True)
class DiffIMLConfig(Plain):
    """Shape of the model.

    Attributes:
        encoder: Backbone of the condition encoder, one of `condition.ENCODERS`.
        denoiser: Shape of the denoiser.
        vae: Shape of LightVAE.
        schedule: Noise schedule.
        spacing: Which steps a short sampling visits; see `respaced`.
        clip: Limit of predicted latents while sampling; None for none, see `ddim`.
        fold: See `ConditionEncoder`; the paper resizes.
    """

    encoder: str = "efficient-iml-small"
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    vae: LightVAEConfig = field(default_factory=LightVAEConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    spacing: Spacing = "leading"
    clip: float | None = None
    fold: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.encoder not in ENCODERS:
            raise ValueError(f"unknown encoder {self.encoder!r}; known: {', '.join(ENCODERS)}")
        if self.denoiser.latents != 2 * self.vae.latent:
            raise ValueError("the denoiser needs the latents of two maps, mask and edge")
        respaced(1, self.schedule.steps, self.spacing)

    @property
    def latent_multiple(self) -> int:
        """Height and width must be multiples of this for the denoiser's sake."""
        return FACTOR * self.denoiser.patch


SIZES = {
    "diffiml": DiffIMLConfig(vae=VAE_SIZES["light"], spacing="trailing", fold=True),
    "diffiml-mit-b3": DiffIMLConfig("mit-b3", DENOISERS["paper"], VAE_SIZES["paper"]),
    "diffiml-resnet50": DiffIMLConfig("resnet50", DENOISERS["paper"], VAE_SIZES["paper"]),
    "diffiml-resnet101": DiffIMLConfig("resnet101", DENOISERS["paper"], VAE_SIZES["paper"]),
}


class DiffIML(Model):
    """Localization by denoising, at any size.

    Attributes:
        encoder: Picture to condition.
        denoiser: Noisy latents, step and condition to clean latents.
        vae: Mask and edge maps to latents and back.
    """

    config: DiffIMLConfig
    samples = True
    bars: Tensor

    def __init__(self, config: DiffIMLConfig | None = None) -> None:
        super().__init__()
        self.config = config or DiffIMLConfig()
        shape = self.config.denoiser
        self.encoder = ConditionEncoder(
            self.config.encoder,
            shape.condition,
            self.config.latent_multiple,
            fold=self.config.fold,
        )
        self.denoiser = Denoiser(shape)
        self.vae = LightVAE(self.config.vae)
        self.bars = alpha_bars(self.config.schedule)  # float64, on the CPU wherever the model is

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return math.lcm(self.encoder.multiple, self.config.latent_multiple)

    def clues(self, image: Tensor) -> Tensor | None:
        """See `Model.clues`; they are the backbone's."""
        return self.encoder.clues(image)

    def condition(self, image: Tensor, clues: Tensor | None = None) -> Tensor:
        """Encode a picture, once.

        Args:
            image: (B, 3, H, W) in [0, 1]; H and W multiples of `multiple`.
            clues: See `EfficientRWKV.forward`.

        Returns:
            What the denoiser adds at every step, (B, channels, h, w).

        Raises:
            ValueError: The size does not fit.
        """
        check_size(image, self.multiple)
        return self.denoiser.prepare(self.encoder(image, clues))

    def noise_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape of one member's noise for a picture of this size, (C, h, w)."""
        return self.config.denoiser.latents, height // FACTOR, width // FACTOR

    def sample(self, prepared: Tensor, noise: Tensor, steps: int = STEPS) -> Tensor:
        """Denoise an ensemble, average it, and decode the mask (Algorithm 2).

        Args:
            prepared: From `condition`, of B pictures.
            noise: One row for each member, (B * N, C, h, w), one picture after another.
            steps: Denoising steps.

        Returns:
            Logits of each pixel being manipulated, (B, 1, H, W).
        """
        pictures = len(prepared)
        if pictures > 1:  # one alone broadcasts over its members
            prepared = prepared.repeat_interleave(len(noise) // pictures, dim=0)
        timesteps = respaced(steps, self.config.schedule.steps, self.config.spacing)
        latents = sample_mean(
            lambda z, t: self.denoiser(z.to(prepared.dtype), t, prepared),
            noise,
            timesteps,
            self.bars,
            clip=self.config.clip,
            pictures=pictures,
        )
        return self.vae.decode(latents[:, : self.config.vae.latent].to(prepared.dtype)).float()

    def forward(
        self,
        image: Tensor,
        clues: Tensor | None = None,
        noise: Tensor | None = None,
        steps: int = STEPS,
    ) -> Prediction:
        """Localize; see `Model.forward`."""
        if noise is None:
            raise ValueError("DiffIML starts from noise; give some of `noise_shape`")
        logits = self.sample(self.condition(image, clues), noise, steps)
        return Prediction(logits, (), spot_score(logits))

    def parts(self) -> Parts:
        """Name the condition encoder, the denoiser and LightVAE."""
        steps = (name for name, _ in self.denoiser.named_children() if name != "inject")
        return {
            "encoder: backbone": ("encoder.backbone",),
            "encoder: head": ("encoder.levels", "encoder.mix", "denoiser.inject"),
            "denoiser": tuple(f"denoiser.{name}" for name in steps),
            "LightVAE decoder": ("vae.decoder",),
            "LightVAE encoder (training)": ("vae.encoder",),
        }

    def fuse(self) -> Self:
        """Fold every norm and shift into its convolution, for inference. Returns self."""
        fuse_all(self.eval())
        return self


def spot_score(logits: Tensor) -> Tensor:
    """Image-level logit, (B,): of the mean probability of the strongest spot of 32x32 pixels.

    The paper's model has no image-level head. A lone pixel is not a finding, so spots are averaged.
    """
    spots = F.avg_pool2d(torch.sigmoid(logits), _SPOT, _SPOT // 2).flatten(1).amax(1)
    return torch.logit(spots, eps=1e-6)
