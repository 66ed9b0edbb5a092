"""Choice of the device that computes, and its guarantees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from imlctl.errors import UsageError

Item = TypeVar("Item")
Made = TypeVar("Made")

_BACKENDS = ("cuda", "mps", "xpu", "cpu")


def available() -> tuple[str, ...]:
    """Return the usable device types, best first; the last is always ``cpu``."""
    usable = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "xpu": torch.xpu.is_available(),
        "cpu": True,
    }
    return tuple(name for name in _BACKENDS if usable[name])


def resolve(name: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``xpu`` into a device.

    Raises a `UsageError` if the name is unknown, or this machine does not have the device.
    """
    usable = available()
    if name == "auto":
        return torch.device(usable[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        what, remedy = f"unknown device {name!r}", f"Use auto or one of {', '.join(_BACKENDS)}."
        raise UsageError(what, source="--device", remedy=remedy) from None
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type not in usable:
        what = f"this machine has no usable {device.type!r} device"
        raise UsageError(what, source="--device", remedy=f"Usable here: {', '.join(usable)}.")
    if device.index is not None and device.index >= count:
        what = f"there is no device {name!r}"
        raise UsageError(what, source="--device", remedy=f"Highest index here: {count - 1}.")
    return device


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to a device; to a graphics card from pinned memory, without waiting for it."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def side_by_side(
    work: Callable[[Item], Made], items: Sequence[Item], workers: int
) -> Iterator[Made]:
    """Yield what `work` returns for each item, in order, computed by some threads at once.

    They share out the threads that torch has in this process. Each has torch's modes of its own: a
    gradient or inference mode of the caller does not hold there.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    threads = torch.get_num_threads()
    each = max(1, threads // workers)
    try:
        with ThreadPoolExecutor(workers, "worker", torch.set_num_threads, (each,)) as pool:
            yield from pool.map(work, items)
    finally:  # threads that are started from now on have all of them again
        torch.set_num_threads(threads)


def make_deterministic() -> None:
    """Make repeated runs on one device agree bit for bit."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def describe(device: torch.device) -> str:
    """Name a device for the record, with the card's own name where it has one."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def bfloat16_pays(device: torch.device) -> bool:
    """Tell whether autocast to bfloat16 saves time: CPUs without AVX-512 only emulate it.

    There a training step takes two and a half times as long as in float32, and an autoencoder
    nine times.
    """
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision as a preset names it: bfloat16 where that pays, or none."""
    enabled = precision == "bfloat16" and bfloat16_pays(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
