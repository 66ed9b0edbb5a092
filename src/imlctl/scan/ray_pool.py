"""Scan on a Ray cluster: tasks elsewhere do all but the writing, which stays in one place.

Ray finds the functions by their names: the same imlctl must be installed on every machine.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imlctl import __version__
from imlctl.errors import ConfigError, ImlctlError, InputError, UsageError
from imlctl.process import keep_freed_blocks, silent_stderr
from imlctl.scan.analysis import Analysis
from imlctl.scan.messages import Decoded, Failed, Finished, bare
from imlctl.scan.pool import Engine, until
from imlctl.scan.processes import Decoder, with_hash
from imlctl.weights.load import open_weights

if TYPE_CHECKING:
    from imlctl.scan.analysis import Options
    from imlctl.scan.messages import Request
    from imlctl.scan.naming import Job
    from imlctl.scan.pool import Answers, Requests, Stopped

_TRIES = 3  # of a picture whose worker dies; then it is the picture's fault
_PER_CARD = 4  # workers that share a graphics card, which has work while others decode
_POLL = 0.2  # seconds between two looks at whether to stop
_PATIENCE = 60.0  # seconds until a word is said about waiting for a machine
_SHARED = "Inputs, outputs and weights must have the same path on all machines of the cluster."


@contextlib.contextmanager
def ray_cluster() -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine for as long.

    Nothing is printed, and no usage is reported to anybody. A cluster of our own takes orders only
    from who knows a random token, and leaves no files behind. Raises a `UsageError` without Ray, or
    without such a cluster.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    own = address in ("", "local")
    if "://" in address:
        remedy = "Run this on a machine of the cluster, with RAY_ADDRESS=auto, or hand it over with"
        remedy += " `ray job submit`."
        what = "a scan cannot be run from outside of a cluster"
        raise UsageError(what, source=f"RAY_ADDRESS {address}", remedy=remedy)
    _prepare_environment(own)
    try:
        import ray
    except ImportError as error:
        remedy = 'Install it with: pip install "imlctl[ray]"'
        raise UsageError(f"Ray is not installed ({error})", source="--ray", remedy=remedy) from None
    # The name must be short: that of a socket has 107 bytes at most.
    place = "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108
    with tempfile.TemporaryDirectory(
        "", "imlctl-ray-", place, ignore_cleanup_errors=True
    ) as folder:
        ours = {"include_dashboard": False, "_temp_dir": folder, "_node_ip_address": "127.0.0.1"}
        how = {"log_to_driver": False, "logging_level": logging.CRITICAL, **(ours if own else {})}
        try:
            # Ray puts the current folder first among those that workers import from, and it may
            # hold anything that is called like a library: pictures come with company.
            with contextlib.chdir(folder), silent_stderr(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(address=address or "local", **how)  # type: ignore[arg-type]
        except Exception as error:
            what = f"cannot join or start Ray: {gist(error)}"
            source = f"RAY_ADDRESS {address}" if address else "--ray"
            remedy = "Check with `ray status` that the cluster runs and includes this machine."
            raise UsageError(what, source=source, remedy=remedy) from error
        try:
            yield
        finally:
            ray.shutdown()


def _prepare_environment(own: bool) -> None:
    """Set what Ray reads when it is imported, and what it hands on to the processes it starts."""
    default = os.environ.setdefault
    default("RAY_USAGE_STATS_ENABLED", "0")
    default("RAY_BACKEND_LOG_LEVEL", "fatal")
    # It tells of workers that died on the standard output, where records may be going.
    default("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
    if own:
        # It listens on all interfaces and runs what it is sent, by whoever has the token; it would
        # keep one of its own in the user's home.
        default("RAY_AUTH_TOKEN", secrets.token_hex(32))
        default("RAY_worker_niceness", "0")  # workers are all there is to do here


def gist(error: BaseException) -> str:
    """Return the last line of what an exception says: Ray's say much, and the cause last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@functools.cache
def _prepared(options: Options, folder: str) -> tuple[Decoder, Analysis]:
    """Return what decodes and what analyses; made once in the life of a worker."""
    # Names mean the same as where the scan was begun; absolute ones do so anyway.
    with contextlib.suppress(OSError):
        os.chdir(folder)
    keep_freed_blocks()
    return Decoder(options), Analysis(options)


def analyse(options: Options, folder: str, request: Request | None) -> tuple[Any, str, bool]:
    """Do all but the writing; return the answer, this host, and if it can read what failed."""
    answer: Any
    try:
        decode, analysis = _prepared(options, folder)
        answer = decode(request) if request else analysis.provenance
        if isinstance(answer, Decoded):
            answer = analysis(answer)
    except ImlctlError as error:
        answer = bare(error)
    lost = request and isinstance(answer, Failed) and not os.access(request.path, os.R_OK)
    return answer, socket.gethostname(), not lost


def received(answer: Any, host: str, provenance: Mapping[str, Any], *, reads: bool) -> Any:
    """Return the answer of a worker; raises what concerns all pictures or the whole machine."""
    if isinstance(answer, ImlctlError):
        answer.source = f"{answer.source} (on {host})" if answer.source else f"on {host}"
        raise answer
    if isinstance(answer, Finished):
        ours = {**provenance, "imlctl": __version__}
        # Another imlctl may lack any of them.
        versions = answer.record.get("versions", {})
        theirs = {**answer.record, "imlctl": versions.get("imlctl")}
        if different := [name for name in ours if theirs.get(name) != ours[name]]:
            listed = ", ".join(f"{n} is {theirs.get(n)!r}, not {ours[n]!r}" for n in different)
            remedy = "Install the same imlctl and weights on machines of the same kind."
            raise ConfigError(f"the machine {host} gives other results: {listed}", remedy=remedy)
    if isinstance(answer, Failed) and not reads:
        path = answer.error.source
        if os.access(path, os.R_OK):
            what = f"the machine {host} of the cluster cannot read it, though this one can"
            raise UsageError(what, source=path, remedy=_SHARED)
    return answer


def start_ray(options: Options, stack: ExitStack, *, tell: Callable[[str], None]) -> Engine:
    """Join the cluster, which is left when the stack is closed.

    Cards are used where the cluster has any, unless the device is the CPU, with one thread a
    worker; `tell` is called with what there is to wait for. Raises an `ImlctlError` if weights,
    device or cluster do not suit.
    """
    device = options.settings.device
    if device not in ("auto", "cpu", "cuda"):
        what = "Ray chooses among cards by itself, and hands out those of CUDA alone"
        remedy = "Use auto, cpu or cuda with --ray."
        raise UsageError(what, source=f"--device {device}", remedy=remedy)
    open_weights(options.settings.weights or options.settings.model)  # wrong ones show at once
    stack.enter_context(ray_cluster())
    import ray

    if device == "auto" and not _has("GPU"):
        device = "cpu"
    share: dict[str, Any] = {"num_cpus": 1, "max_retries": _TRIES - 1, "max_calls": 0}
    if device != "cpu":
        share["num_gpus"] = 1 / _PER_CARD
    options = replace(options, settings=replace(options.settings, device=device), threads=1)
    task = functools.partial(ray.remote(**share)(analyse).remote, options, str(Path.cwd()))
    with _explained():
        first = task(None)
        if not ray.wait([first], timeout=_PATIENCE)[0]:
            tell("waiting until the cluster has a free worker")
        answer, host, _ = ray.get(first)
    provenance = received(answer, host, {}, reads=True)
    return Engine(provenance, functools.partial(_run, task, provenance))


def _run(
    task: Callable[[Request], Any],
    provenance: Mapping[str, Any],
    requests: Requests,
    stopped: Stopped,
) -> Answers:
    """Have pictures analysed; they come as they get ready, in any order."""
    import ray
    from ray import exceptions as its

    todo = iter(until(stopped, requests))
    waiting: dict[Any, tuple[Job, Request]] = {}  # by Ray's references to the answers
    with _explained():
        while True:
            room = 2 * max(1, _has("CPU"))
            while len(waiting) < room and (item := next(todo, None)):
                waiting[task(item[1])] = item
            if not waiting:
                return
            for reference in ray.wait(list(waiting), timeout=_POLL)[0]:
                job, request = waiting.pop(reference)
                try:
                    answer, host, reads = ray.get(reference)
                except (its.NodeDiedError, its.OutOfMemoryError, its.WorkerCrashedError):
                    what = f"{_TRIES} workers died while they analysed it"
                    remedy = "Perhaps memory ran out: try --tile 512, or workers with more of it."
                    error = InputError(what, source=request.path, remedy=remedy)
                    answer, host, reads = with_hash(Failed(error), request), "", True
                yield job, received(answer, host, provenance, reads=reads)


def _has(resource: str) -> int:
    import ray

    untyped: Any = ray
    return int(untyped.cluster_resources().get(resource, 0))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what Ray raises into what a user can act on."""
    try:
        yield
    except ImlctlError:
        raise
    except Exception as error:
        remedy = "The same imlctl must be installed on all machines; Ray's logs say more."
        remedy += " --resume continues with what is left."
        raise UsageError(f"Ray gave up: {gist(error)}", source="--ray", remedy=remedy) from error
