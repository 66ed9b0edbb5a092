"""Training in several processes: one global batch, divided; the same result as in one process.

DistributedDataParallel averages gradients; what one process would take over the whole batch
(statistics of batch norm, denominators, numbers of noise) is taken over all processes here.
"""

from __future__ import annotations

import os
import secrets
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imlctl.errors import ConfigError, ImlctlError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from imlctl.train.config import OptimConfig

_TIMEOUT = timedelta(hours=2)  # the others wait while the first process validates


@dataclass(frozen=True, slots=True)
class Process:
    """Place of this process among those that train; `local` is the number of its GPU."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """True for the one process that writes files."""
        return self.rank == 0


@contextmanager
def processes(device: torch.device) -> Iterator[tuple[Process, torch.device]]:
    """Join the other processes, if torchrun started any: nccl between GPUs, gloo elsewhere."""
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        yield Process(), device
        return
    process = Process(*(int(os.environ.get(k, "0")) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    from torch.distributed.rendezvous import rendezvous  # which not every build of torch has

    store, _, _ = next(rendezvous("env://", timeout=_TIMEOUT))
    backend, device_id = "gloo", cast("torch.device | None", None)
    if device.type == "cuda":
        backend, device = "nccl", torch.device("cuda", process.local)
        device_id = device
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend,
        store=this_round_of(store, process),
        rank=process.rank,
        world_size=process.world,
        timeout=_TIMEOUT,
        device_id=device_id,
    )
    try:
        yield process, device
    finally:
        dist.destroy_process_group()


def this_round_of(store: Store, process: Process) -> Store:
    """Return a part of a store that holds nothing but what this start's processes put there.

    torchrun keeps its store when it restarts processes, with the addresses of those that died. So
    the first process names the round, each other answers with a word of its own, and believes in
    the round once it reads that word back; ImlctlError where it never does.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    own, end = secrets.token_hex(8), time.monotonic() + _TIMEOUT.total_seconds()
    if process.first:
        store.set("imlctl/round", own)
        for rank in range(1, process.world):
            key = f"imlctl/{own}/{rank}"
            store.set(f"{key}/seen", store.get(key).decode())  # waits
        return PrefixStore(f"imlctl/{own}", store)
    while time.monotonic() < end:
        name = store.get("imlctl/round").decode()  # waits for the first; may be an earlier one
        key = f"imlctl/{name}/{process.rank}"
        store.set(key, own)
        time.sleep(0.05)
        if store.check([f"{key}/seen"]) and store.get(f"{key}/seen").decode() == own:
            return PrefixStore(f"imlctl/{name}", store)
    raise ImlctlError("the first of the training processes does not answer")


def in_a_group() -> bool:
    """Return true if there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def barrier() -> None:
    """Wait for the other processes."""
    if in_a_group():
        dist.barrier()


@contextmanager
def first_alone(process: Process) -> Iterator[None]:
    """Let the first process fill a cache before the others read it."""
    if not process.first:
        barrier()
    yield
    if process.first:
        barrier()


def any_process(flag: bool, device: torch.device) -> bool:
    """Return true in all processes if the flag is set in any."""
    if not in_a_group():
        return flag
    flags = torch.tensor(float(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


def averaging(learner: nn.Module) -> nn.Module:
    """Make a module average its gradients over processes, if there are others."""
    if not in_a_group():
        return learner
    # Strides of filters of one pixel differ in name only, where they are used as matrices.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    with warnings.catch_warnings():  # torch 2.13 has another name for it, 2.4 has none
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(learner, broadcast_buffers=False)


def fair(count: Tensor) -> Tensor:
    """Denominator of a mean over the whole batch, at least 1, for processes to be averaged."""
    if not in_a_group():
        return count.clamp_min(1)
    total = count.detach().clone()
    dist.all_reduce(total)
    return total.clamp_min(1) / dist.get_world_size()


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batch of all processes, on any device; SyncBatchNorm is for GPUs."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's own name
        """Normalise (B, C, H, W) by the statistics of all processes."""
        if not self.training or not in_a_group():
            return super().forward(input)
        x = input.float()
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        sums = torch.cat([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), count])
        whole = cast("Tensor", _Sum.apply(sums))  # type: ignore[no-untyped-call]
        width = x.shape[1]
        total, squares, count = whole[:width], whole[width:-1], whole[-1:]
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        with torch.no_grad():
            cast("Tensor", self.num_batches_tracked).add_(1)
            rate = cast("float", self.momentum)
            cast("Tensor", self.running_mean).lerp_(mean, rate)
            cast("Tensor", self.running_var).lerp_(variance * count / (count - 1), rate)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        mean, scale, bias = (each.view(1, -1, 1, 1) for each in (mean, scale, self.bias))
        return ((x - mean) * scale + bias).to(input.dtype)


class _Sum(torch.autograd.Function):
    """Sum over processes; so is its gradient."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        del ctx
        total = values.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return _Sum.forward(ctx, grads[0])


def share_batch_norm(model: nn.Module) -> None:
    """Make all batch norms of a model take their statistics over all processes, in place."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d


def micro_batch(optim: OptimConfig, process: Process) -> int:
    """Pictures that go through the model at once; ConfigError if the batch does not divide."""
    parts = process.world * optim.accumulate
    if optim.batch % parts:
        among = f"{process.world} processes and {optim.accumulate} parts each"
        what = f"a batch of {optim.batch} cannot be divided among {among}"
        remedy = "Make optim.batch a multiple of processes times optim.accumulate."
        raise ConfigError(what, source="optim", remedy=remedy)
    return optim.batch // parts
