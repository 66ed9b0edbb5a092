"""LightVAE: mask and edge maps to four latent channels at an eighth of the size, and back.

DiffIML, section 3.2: fully convolutional, distilled from the autoencoder of Stable
Diffusion. `decode` returns logits of a probability. The paper's head is trained by L1 towards -1
and +1 and then put through a sigmoid, which can say nothing below 0.27 or above 0.73.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core.layers import Config, ConvNorm, Normed, check_choice, fuse_all

Decoder = Literal["shuffle", "transposed"]

FACTOR = 8  # pixels to a latent, each way


@dataclass(frozen=True, slots=True)
class LightVAEConfig(Config):
    """Shape of the autoencoder."""

    # Channels of the encoder at 1/2, 1/4 and 1/8; in reverse, of the transposed decoder.
    widths: tuple[int, int, int] = (16, 32, 64)
    # ``transposed``: three transposed convolutions up to full size, the paper's way. ``shuffle``:
    # all work at 1/8 and 1/2, one pixel shuffle each; several times faster.
    decoder: Decoder = "shuffle"
    hidden: int = 64  # channels of the shuffling decoder at 1/8
    fine: int = 16  # its channels at 1/2
    blocks: int = 2  # its residual blocks at 1/8
    encoder_blocks: int = 0  # residual blocks of the encoder at 1/8, which cost training only
    latent: int = 4  # channels of a latent
    scale: float = 0.18215  # factor on latents, as Stable Diffusion's, for about unit variance

    def __post_init__(self) -> None:
        if len(self.widths) != 3 or min(self.widths) < 1:
            raise ValueError(f"widths must be three positive numbers, not {self.widths}")
        check_choice("decoder", self.decoder, get_args(Decoder))
        if (
            min(self.blocks, self.encoder_blocks) < 0
            or min(self.hidden, self.fine, self.latent) < 1
            or not self.scale > 0
        ):
            raise ValueError("blocks must not be negative, all other numbers must be positive")


SIZES = {
    "light": LightVAEConfig(blocks=4, encoder_blocks=2),
    "paper": LightVAEConfig(widths=(32, 64, 128), decoder="transposed"),
}


class Grow(Normed):
    """Transposed 3x3 convolution to twice the size, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, 2 H, 2 W)."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class Residual(nn.Module):
    """x + ReLU(3x3 convolution of x), normed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = ConvNorm(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x + F.relu(self.conv(x), inplace=True)


class ReLUNorm(ConvNorm):
    """Convolution, batch norm, ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return F.relu(super().forward(x), inplace=True)


def _encoder(config: LightVAEConfig) -> nn.Sequential:
    steps = zip((1, *config.widths[:-1]), config.widths, strict=True)
    down = (ReLUNorm(i, o, 3, stride=2) for i, o in steps)
    width = config.widths[-1]
    deepen = (Residual(width) for _ in range(config.encoder_blocks))
    return nn.Sequential(*down, *deepen, nn.Conv2d(width, config.latent, 1))


def _transposed(config: LightVAEConfig) -> nn.Sequential:
    half, quarter, eighth = config.widths
    return nn.Sequential(
        ReLUNorm(config.latent, eighth),
        Grow(eighth, quarter),
        Grow(quarter, half),
        Grow(half, half),
        nn.Conv2d(half, 1, 3, padding=1),
    )


def _shuffle(config: LightVAEConfig) -> nn.Sequential:
    return nn.Sequential(
        ReLUNorm(config.latent, config.hidden, 3),
        *(Residual(config.hidden) for _ in range(config.blocks)),
        ReLUNorm(config.hidden, 16 * config.fine),
        nn.PixelShuffle(4),
        nn.Conv2d(config.fine, 4, 3, padding=1),
        nn.PixelShuffle(2),
    )


class LightVAE(nn.Module):
    """Masks as small latents; at any size that is a multiple of 8."""

    def __init__(self, config: LightVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config or LightVAEConfig()
        self.encoder = _encoder(self.config)
        make = _shuffle if self.config.decoder == "shuffle" else _transposed
        self.decoder = make(self.config)

    def encode(self, maps: Tensor) -> Tensor:
        """(B, 1, H, W), -1 outside and +1 inside, to latents, (B, latent, H / 8, W / 8).

        Raises a `ValueError` if H or W is no multiple of 8.
        """
        height, width = maps.shape[-2:]
        if height % FACTOR or width % FACTOR or maps.shape[1] != 1:
            given = f"{maps.shape[1]}x{height}x{width}"
            what = f"maps must be one channel of a size in multiples of {FACTOR}, not {given}"
            raise ValueError(what)
        return cast("Tensor", self.encoder(maps)) * self.config.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Logits of each pixel being inside, (B, 1, 8 h, 8 w), from (B, latent, h, w)."""
        return cast("Tensor", self.decoder(latents / self.config.scale))

    def fuse(self) -> Self:
        """Fold every norm into its convolution, for inference. Returns self."""
        fuse_all(self.eval())
        return self
