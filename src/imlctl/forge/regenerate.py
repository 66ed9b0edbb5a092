"""Regenerated photographs: a trip through a generator's autoencoder and back.

That trip is the trace that a latent-diffusion model's inpainting leaves. What is regenerated is
kept on disk, since it costs a thousand times more than the rest of a sample.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from imlctl import atomic
from imlctl.device import autocast
from imlctl.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imlctl.forge import Pixels
    from imlctl.forge.photos import PhotoPool

_LATENT = 32
_WIDTH = 64


def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)


class _Block(nn.Module):
    def __init__(self, pool: bool = False) -> None:
        super().__init__()
        n = _WIDTH
        self.conv = nn.Sequential(_conv(n, n), nn.ReLU(), _conv(n, n), nn.ReLU(), _conv(n, n))
        self.pool = None
        if pool:
            self.pool = nn.Sequential(
                nn.Conv2d(n, 4 * n, 1, bias=False),
                nn.GroupNorm(4, 4 * n),
                nn.ReLU(),
                nn.Conv2d(4 * n, n, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class TinyAutoencoder(nn.Module):
    """The TAESD family's autoencoder for 32 latent channels (taef2): 8x down and up."""

    def __init__(self) -> None:
        super().__init__()
        n = _WIDTH
        down: list[nn.Module] = [_conv(3, n), _Block()]
        for pool in (False, False, True):
            down += [_conv(n, n, stride=2, bias=False), *(_Block(pool) for _ in range(3))]
        self.encoder = nn.Sequential(*down, _conv(n, _LATENT))
        up: list[nn.Module] = [_Clamp(), _conv(_LATENT, n), nn.ReLU()]
        for pool in (True, False, False):
            up += [
                *(_Block(pool) for _ in range(3)),
                nn.Upsample(scale_factor=2),
                _conv(n, n, bias=False),
            ]
        self.decoder = nn.Sequential(*up, _Block(), _conv(n, 3))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to the same; H and W multiples of 8."""
        out: Tensor = self.decoder(self.encoder(image))
        return out.clamp(0, 1)


def load_autoencoder(folder: Path) -> tuple[TinyAutoencoder, str]:
    """Load ``*_encoder.safetensors`` and ``*_decoder.safetensors``; also return their short hash.

    Raises:
        ConfigError: The folder does not hold exactly one of each.
        WeightsError: The files are not in the layout of taef2.
    """
    model, digest = TinyAutoencoder(), hashlib.sha256()
    for part in ("encoder", "decoder"):
        paths = sorted(folder.glob(f"*_{part}.safetensors"))
        if len(paths) != 1:
            raise ConfigError(
                f"expected one *_{part}.safetensors, found {len(paths)}", source=str(folder)
            )
        digest.update(paths[0].read_bytes())
        try:
            state = {k.removeprefix(f"{part}."): v.float() for k, v in load_file(paths[0]).items()}
            getattr(model, part).load_state_dict(state)
        except (SafetensorError, RuntimeError) as error:
            raise WeightsError(
                f"not a tiny autoencoder in the layout of taef2: {error}", source=str(paths[0])
            ) from error
    return model.eval().to(memory_format=torch.channels_last), digest.hexdigest()[:12]  # type: ignore[call-overload]


def add_regenerated(
    pool: PhotoPool,
    autoencoder: Path,
    cache: Path,
    *,
    limit: int,
    report: Callable[[int, int], None] | None = None,
) -> PhotoPool:
    """Return the pool with up to `limit` of its photographs regenerated, through the cache."""
    model, name = load_autoencoder(autoencoder)
    folder = cache / f"regenerated-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    chosen = np.unique(np.linspace(0, len(pool) - 1, min(limit, len(pool))).astype(int)).tolist()
    done = {}
    for count, index in enumerate(chosen):
        pixels = pool.photos[index]
        path = folder / f"{hashlib.sha256(pixels.tobytes()).hexdigest()[:24]}.png"
        if not path.exists():
            with atomic.opened(path, overwrite=True) as file:
                regenerated = Image.fromarray(round_trip(model, pixels))
                regenerated.save(file, format="PNG", compress_level=3)
        with Image.open(path) as image:
            done[index] = np.asarray(image)
        if report:
            report(count + 1, len(chosen))
    return replace(pool, regenerated=done)


@torch.inference_mode()
def round_trip(model: TinyAutoencoder, pixels: Pixels) -> Pixels:
    """Encode and decode one photograph, (H, W, 3) uint8 to the same."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="reflect")
    image = torch.from_numpy(padded).permute(2, 0, 1)[None].float().div_(255)
    with autocast(image.device, "bfloat16"):
        out = model(image.contiguous(memory_format=torch.channels_last))[0].float()
    levels = out.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(levels[:height, :width])
