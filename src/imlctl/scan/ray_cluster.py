"""Join a Ray cluster or start one, and decide what each worker has of it."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imlctl.errors import ImlctlError, UsageError
from imlctl.process import silent_stderr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LONG = 16  # characters of a name of a folder


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine for as long.

    Nothing is printed, and no usage is reported to anybody. A cluster of our own takes orders only
    from who knows a random token, and leaves no files behind.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    _prepare_environment(own=address in ("", "local"))
    ray = _imported()
    if ray.is_initialized():
        yield
        return
    if "://" in address:
        raise UsageError(
            "a scan cannot be run from outside of a cluster",
            source=f"RAY_ADDRESS {address}",
            remedy="Run this on a machine of the cluster, with RAY_ADDRESS=auto,"
            " or hand it over with `ray job submit`.",
        )
    with tempfile.TemporaryDirectory(
        prefix="imlctl-ray-", dir=_place(), ignore_cleanup_errors=True
    ) as folder:
        try:
            _start(ray, address, folder)
        except Exception as error:
            raise UsageError(
                f"cannot join or start Ray: {gist(error)}",
                source=f"RAY_ADDRESS {address}" if address else "--ray",
                remedy="Check with `ray status` that the cluster runs and includes this machine.",
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def _place() -> str | None:
    """Return a folder for temporary files whose name is short: a socket's has 107 bytes at most."""
    common = "/tmp"  # noqa: S108 - only the parent of a folder that nobody else may enter
    return common if len(tempfile.gettempdir()) > _LONG and Path(common).is_dir() else None


def _prepare_environment(*, own: bool) -> None:
    """Set what Ray reads when it is imported, and what it hands on to the processes it starts."""
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        # It tells of workers that died on the standard output, where records may be going.
        "RAY_DEDUP_LOGS_SKIP_REGEX": "^",
    }
    if own:
        # It listens on all interfaces and runs what it is sent, by whoever has the token; it would
        # keep one of its own in the user's home.
        wanted["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        wanted["RAY_worker_niceness"] = "0"  # workers are all there is to do here
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            f"Ray is not installed ({error})",
            source="--ray",
            remedy='Install it with: pip install "imlctl[ray]"',
        ) from error
    return ray


def _start(ray: Any, address: str, folder: str) -> None:
    own = {"include_dashboard": False, "_temp_dir": folder, "_node_ip_address": "127.0.0.1"}
    # Ray puts the current folder first among those that workers import from, and it may hold
    # anything that is called like a library: pictures come with company.
    with contextlib.chdir(folder), silent_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            **(own if address in ("", "local") else {}),
        )


@dataclass(frozen=True, slots=True)
class Share:
    """Share of the cluster for one worker, which has one core.

    Attributes:
        device: For its settings.
        name: Of the device, as records say it.
        gpus: Cards that are kept for it.
        kind: Of the card, as Ray calls it, so that all workers have the same; None for any.
    """

    device: str
    name: str
    gpus: int = 0
    kind: str | None = None


def share_for(device: str, tell: Callable[[str], None]) -> Share:
    """Decide what each worker computes on; waits until the cluster has such a worker.

    Without a card, a worker has one thread, as in a scan on this machine alone, so that both
    compute the same to the last bit. What there is to wait for, `tell` is called with.

    Raises:
        UsageError: Ray cannot hand out such a device, or the machine that has it cannot use it.
    """
    if device not in ("auto", "cpu", "cuda", "xpu"):
        raise UsageError(
            "Ray chooses among cards by itself, and knows those of NVIDIA, AMD and Intel",
            source=f"--device {device}",
            remedy="Use auto, cpu, cuda or xpu with --ray.",
        )
    nodes = nodes_of().values()
    if device == "cpu" or (device == "auto" and not any(node["GPU"] for node in nodes)):
        if not any(int(node["CPU"]) for node in nodes):
            tell("waiting until the cluster has a machine with a free core")
        return Share("cpu", "cpu")
    if not any(node["GPU"] and node["CPU"] for node in nodes):
        tell("waiting until the cluster has a machine with a GPU")
    return _card(device)


def _card(device: str) -> Share:
    import ray

    look = ray.remote(num_cpus=1, num_gpus=1, max_calls=1)(_look)
    name, node = ray.get(look.remote(device))
    if isinstance(name, ImlctlError):
        raise name
    resources = nodes_of().get(node, Counter())
    prefix = "accelerator_type:"
    kinds = [key.removeprefix(prefix) for key in resources if key.startswith(prefix)]
    return Share(device, name, gpus=1, kind=kinds[0] if kinds else None)


def _look(device: str) -> tuple[str | ImlctlError, str]:
    import ray

    from imlctl.device import describe, resolve

    node = ray.get_runtime_context().get_node_id()
    try:
        return describe(resolve(device)), node
    except ImlctlError as error:
        return error, node


def nodes_of() -> dict[str, Counter[str]]:
    """Return what each machine of the cluster has, by its identity."""
    import ray

    untyped: Any = ray
    nodes = untyped.nodes()
    return {node["NodeID"]: Counter(node["Resources"]) for node in nodes if node["Alive"]}


def capacity(share: Share) -> int:
    """Return how many workers the machines of the cluster have room for."""
    return sum(int(node["GPU" if share.gpus else "CPU"]) for node in nodes_of().values())


def gist(error: BaseException) -> str:
    """Return the last line of what an exception says: Ray's say much, and the cause last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
