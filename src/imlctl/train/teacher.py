"""Teachers of LightVAE, whose latents a student imitates: diffusers' or ONNX encoders.

Both packages are extras, imported only when a teacher is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from imlctl.core.light_vae import FACTOR
from imlctl.errors import ConfigError, UsageError, WeightsError, first_line

Coder = Callable[[Tensor], Tensor]

_KINDS = ("AutoencoderKL", "AutoencoderTiny")
_EXPECTS = "images (B, 3, H, W) in [-1, 1]"


@dataclass(frozen=True, slots=True)
class TeacherConfig:
    """Choice of the autoencoder that teaches.

    Attributes:
        source: Id on the Hub, a folder in its layout, or an ONNX encoder (a file ending in
            ``.onnx``: images (B, 3, H, W) in [-1, 1] to latents). Empty for no teacher.
        revision: Commit, tag or branch on the Hub; pin a commit for a run that can be repeated.
        offline: Use only what is in the Hub's cache. HF_HUB_OFFLINE=1 does the same, and
            HF_ENDPOINT names another Hub.
        scale: Factor on an ONNX encoder's latents; a teacher of the Hub knows its own.
    """

    source: str = ""
    revision: str | None = None
    offline: bool = False
    scale: float = 0.18215

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError("scale must be positive")

    @property
    def is_onnx(self) -> bool:
        """True where the source is an ONNX file."""
        return Path(self.source).suffix.lower() == ".onnx"


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A frozen autoencoder, as the user named it.

    `encode` maps (B, 1, H, W) in -1 and +1, put into all three colours, to scaled latents
    (B, C, H / 8, W / 8): the mean of the posterior.
    """

    name: str
    encode: Coder


def load_teacher(config: TeacherConfig, *, latent: int, device: torch.device) -> Teacher | None:
    """Load the teacher, if one is asked for, and try it on a small map; ONNX computes on the CPU.

    Raises:
        ImlctlError: It cannot be fetched or read, or its latents are not the student's.
    """
    if not config.source:
        return None
    found = _from_onnx(config, latent) if config.is_onnx else _from_hub(config, device)
    side = 8 * FACTOR
    shape = tuple(found.encode(torch.ones(1, 1, side, side, device=device)).shape)
    if shape != (1, latent, FACTOR, FACTOR):
        raise ConfigError(
            f"makes latents {shape} of a {side}x{side} map, not {(1, latent, FACTOR, FACTOR)}",
            source=config.source,
            remedy="Choose a teacher that goes down 8 times, with as many channels as the student.",
        )
    return found


def _from_hub(config: TeacherConfig, device: torch.device) -> Teacher:
    name = config.source
    try:
        import diffusers
    except ImportError as error:
        raise UsageError(
            "this teacher needs the package diffusers, which is not installed",
            source=name,
            remedy="Install it with: pip install 'imlctl[teacher]'.",
        ) from error
    where: dict[str, Any] = {"revision": config.revision, "local_files_only": config.offline}
    try:
        with warnings.catch_warnings():  # diffusers calls the Hub's client in ways of the past
            warnings.simplefilter("ignore", UserWarning)
            kind = diffusers.AutoencoderKL.load_config(name, **where).get("_class_name")
            if kind not in _KINDS:
                raise ConfigError(
                    f"is a {kind}", source=name, remedy=f"Teachers are: {', '.join(_KINDS)}."
                )
            # Never a pickle; and without accelerate there is no loading in low memory.
            safe = {"use_safetensors": True, "low_cpu_mem_usage": False}
            model: Any = getattr(diffusers, kind).from_pretrained(name, **where, **safe)
    except (OSError, ValueError, RuntimeError) as error:  # the Hub's own errors are OSErrors
        raise WeightsError(
            f"cannot be loaded as a teacher ({first_line(error)})",
            source=name,
            remedy="Check its name and revision, the network, HF_ENDPOINT and HF_HUB_OFFLINE; or"
            " name a folder or an ONNX encoder, or no teacher.",
        ) from error
    model = model.to(device).eval().requires_grad_(False)
    scale, shift = model.config.scaling_factor, getattr(model.config, "shift_factor", None) or 0.0

    @torch.no_grad()
    def encode(maps: Tensor) -> Tensor:
        coded = model.encode(_three(maps))
        mean = coded.latents if kind == "AutoencoderTiny" else coded.latent_dist.mean
        return cast("Tensor", (mean - shift) * scale)

    return Teacher(name, encode)


def _from_onnx(config: TeacherConfig, latent: int) -> Teacher:
    run = open_network(config.source, expects=_EXPECTS)

    def encode(maps: Tensor) -> Tensor:
        # Where mean and log-variance come together, the mean comes first.
        return run(_three(maps))[:, :latent] * config.scale

    return Teacher(config.source, encode)


def _three(maps: Tensor) -> Tensor:
    return maps.expand(-1, 3, -1, -1)


def open_network(path: str, *, expects: str) -> Callable[[Tensor], Tensor]:
    """Open an ONNX network with one input, on the CPU; of several outputs it returns the largest.

    Raises:
        ImlctlError: The extra is not installed, or the file is no such network. The function itself
            raises it for an input that does not suit.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "this needs the package onnxruntime, which is not installed",
            source=path,
            remedy="Install it with: pip install 'imlctl[onnx]'.",
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (source,) = session.get_inputs()
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise WeightsError(
            f"cannot be read as an ONNX model with one input ({first_line(error)})",
            source=path,
            remedy=f"Give one that takes {expects}.",
        ) from error

    def run(x: Tensor) -> Tensor:
        array = np.ascontiguousarray(x.detach().cpu().numpy(), np.float32)
        try:
            out = max(session.run(None, {source.name: array}), key=np.size)
        except Exception as error:
            raise WeightsError(
                f"does not take an input of shape {tuple(array.shape)} ({first_line(error)})",
                source=path,
                remedy=f"Give one that takes {expects}, of any size.",
            ) from error
        return torch.from_numpy(np.asarray(out)).to(x.device)

    return run
