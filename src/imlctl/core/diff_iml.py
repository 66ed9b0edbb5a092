"""DiffIML: localization as generation. A mask is sampled, given the picture.

"Towards Generalized Image Manipulation Localization via Score-based Model". The condition encoder
runs once for a picture, the denoiser at every step; LightVAE's decoder turns the result into a map.
Mask and edge map are generated together, as eight channels of latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core import efficient_rwkv, imagenet
from imlctl.core.denoiser import DENOISERS, Denoiser, DenoiserConfig
from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig, TopDown
from imlctl.core.efficient_rwkv import STRIDES, EfficientRWKV
from imlctl.core.layers import Config, ConvNorm, Spread, check_choice, check_sides
from imlctl.core.light_vae import FACTOR, LightVAE, LightVAEConfig
from imlctl.core.light_vae import SIZES as VAE_SIZES
from imlctl.core.model import STEPS, Model, Parts, Prediction
from imlctl.core.sampler import ScheduleConfig, Spacing, alpha_bars, ddim, respaced

MEMBERS = 5  # runs that are averaged, the paper's choice: more change little (its Table 7)

_SPOT = 32  # pixels; the image-level score is the strongest spot of this side

ENCODERS = (
    *(f"efficient-iml-{size}" for size in efficient_rwkv.SIZES),
    *(f"efficient-rwkv-{size}" for size in efficient_rwkv.SIZES),
    *(f"mit-{size}" for size in imagenet.MIT_SIZES),
    *(f"resnet{size}" for size in imagenet.RESNET_SIZES),
)


class Backbone(NamedTuple):
    """A network that maps an image in [0, 1], and the clues in it, to its levels."""

    module: nn.Module
    widths: tuple[int, ...]  # channels of each level
    strides: tuple[int, ...]  # of each level against the image
    multiple: int  # of which height and width must be multiples


def build_backbone(name: str, *, heads: bool = False) -> Backbone:
    """Build a backbone of `ENCODERS` with random weights; see `DiffIMLConfig.heads`."""
    if name.startswith("mit-"):
        shape = imagenet.MIT_SIZES[name.removeprefix("mit-")]
        module = imagenet.ImageNetInput(imagenet.MixTransformer(shape))
        return Backbone(module, shape.dims, imagenet.STRIDES, imagenet.STRIDES[-1])
    if name.startswith("resnet"):
        layout = imagenet.RESNET_SIZES[name.removeprefix("resnet")]
        module = imagenet.ImageNetInput(imagenet.ResNet(layout))
        return Backbone(module, layout.dims, imagenet.STRIDES, 1)
    config = efficient_rwkv.SIZES[name.rpartition("-")[2]]
    if name.startswith("efficient-iml-"):  # its path back up too: what it knows of forgeries
        whole = EfficientIMLConfig(config)
        network = EfficientIML(whole) if heads else TopDown(whole)
        return Backbone(network, (whole.width,) * 3, STRIDES, STRIDES[0])
    strides = (STRIDES[0], *STRIDES)  # the stem shares the first
    widths = (config.dims[0], *config.dims)
    return Backbone(EfficientRWKV(config), widths, strides, strides[0])


class ConditionEncoder(nn.Module):
    """Backbone and head: from the picture to the condition f (section 3.2).

    Each level goes through a 1x1 convolution and to the size of the latents, which follows the
    picture; a 3x3 convolution mixes them.

    `stride` is the condition's against the picture. With `fold`, levels that are finer than it are
    folded into channels, rather than resized. For `heads` see `DiffIMLConfig`.
    """

    def __init__(
        self, name: str, channels: int, stride: int, *, fold: bool = False, heads: bool = False
    ) -> None:
        super().__init__()
        built = build_backbone(name, heads=heads)
        self.backbone, self.multiple = built.module, built.multiple
        self.stride = stride
        self.scales = tuple(s / stride for s in built.strides)
        self.folds = tuple(max(1, stride // s) if fold else 1 for s in built.strides)
        inputs = (w * n**2 for w, n in zip(built.widths, self.folds, strict=True))
        self.levels = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in inputs)
        self.mix = ConvNorm(len(built.widths) * channels, channels, 3)

    def clues(self, image: Tensor, spread: Spread = map) -> Tensor | None:
        """Look for what the backbone sees besides the image; see `Model.clues`."""
        return cast("Tensor | None", cast("EfficientRWKV", self.backbone).clues(image, spread))

    def forward(self, image: Tensor, clues: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, channels, H / stride, W / stride).

        H and W are multiples of `multiple`; for the clues see `EfficientRWKV.forward`.
        """
        return self.gather(self.backbone(image, clues), image)

    def gather(self, found: Prediction | Sequence[Tensor], image: Tensor) -> Tensor:
        """Make the condition of what the backbone found: its levels, or with heads an answer."""
        features = found.features if isinstance(found, Prediction) else found
        size = (image.shape[-2] // self.stride, image.shape[-1] // self.stride)
        each = zip(self.levels, features, self.scales, self.folds, strict=True)
        gathered = [_resized(level(F.pixel_unshuffle(x, n)), s, size) for level, x, s, n in each]
        return F.relu(self.mix(torch.cat(gathered, dim=1)), inplace=True)


def _resized(x: Tensor, scale: float, size: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == size:
        return x
    if scale > 1:  # exactly, and cut: a side that is no multiple would shift all of it
        larger = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
        return larger[..., : size[0], : size[1]]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True, slots=True)
class DiffIMLConfig(Config):
    """Shape of the model."""

    encoder: str = "efficient-iml-small"  # backbone of the condition encoder, of `ENCODERS`
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    vae: LightVAEConfig = field(default_factory=LightVAEConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    spacing: Spacing = "leading"  # which steps a short sampling visits; see `respaced`
    clip: float | None = None  # limit of predicted latents while sampling, see `ddim`
    fold: bool = False  # see `ConditionEncoder`; the paper resizes
    heads: bool = False  # keep those of an EfficientIML as encoder: it also answers by itself

    def __post_init__(self) -> None:
        if self.heads and not self.encoder.startswith("efficient-iml-"):
            raise ValueError(f"{self.encoder} has no heads that localize by themselves")
        check_choice("encoder", self.encoder, ENCODERS)
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
    """Localization by denoising, at any size."""

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
            heads=self.config.heads,
        )
        self.denoiser = Denoiser(shape)
        self.vae = LightVAE(self.config.vae)
        self.bars = alpha_bars(self.config.schedule)  # float64, on the CPU wherever the model is

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return math.lcm(self.encoder.multiple, self.config.latent_multiple)

    def clues(self, image: Tensor, spread: Spread = map) -> Tensor | None:
        """See `Model.clues`; they are the backbone's."""
        return self.encoder.clues(image, spread)

    def condition(self, image: Tensor, clues: Tensor | None = None) -> Tensor:
        """Encode a picture, once: what the denoiser adds at every step, (B, channels, h, w).

        Raises a `ValueError` if its size does not fit.
        """
        check_sides(image, self.multiple)
        return self.denoiser.prepare(self.encoder(image, clues))

    def noise_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape of one member's noise for a picture of this size, (C, h, w)."""
        return self.config.denoiser.latents, height // FACTOR, width // FACTOR

    def sample(self, prepared: Tensor, noise: Tensor, steps: int = STEPS) -> Tensor:
        """Denoise an ensemble, average it, and decode the mask (Algorithm 2): logits (B, 1, H, W).

        `prepared` is from `condition`, of B pictures; the noise has one row for each member, one
        picture after another, (B * N, C, h, w).
        """
        pictures = len(prepared)
        if pictures > 1:  # one alone broadcasts over its members
            prepared = prepared.repeat_interleave(len(noise) // pictures, dim=0)

        def denoise(z: Tensor, t: Tensor) -> Tensor:
            return cast("Tensor", self.denoiser(z.to(prepared.dtype), t, prepared))

        timesteps = respaced(steps, self.config.schedule.steps, self.config.spacing)
        latents = ddim(denoise, noise, timesteps, self.bars, clip=self.config.clip)
        # The mean comes before the decoder, which therefore runs once whatever N is.
        latents = torch.unflatten(latents, 0, (pictures, -1)).mean(1)  # (B, C, h, w)
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


def spot_score(logits: Tensor) -> Tensor:
    """Image-level logit, (B,): of the mean probability of the strongest spot of 32x32 pixels.

    The paper's model has no image-level head. A lone pixel is not a finding, so spots are averaged.
    """
    spots = F.avg_pool2d(torch.sigmoid(logits), _SPOT, _SPOT // 2).flatten(1).amax(1)
    return torch.logit(spots, eps=1e-6)
