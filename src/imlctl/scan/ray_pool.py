"""Scan on a Ray cluster: workers elsewhere do all but the writing, which stays in one place.

So there is one ledger, one process that writes, and nothing to undo if a worker dies. Ray finds
`Worker` by its name: the same imlctl must be installed on every machine.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import secrets
import socket
import tempfile
import threading
import warnings
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imlctl.errors import ConfigError, ImlctlError, InputError, UsageError
from imlctl.process import keep_freed_blocks, silent_stderr
from imlctl.scan.analysis import Analysis, key_of
from imlctl.scan.messages import Decoded, Failed, Finished, Request, Unchanged, bare
from imlctl.scan.pool import Crew
from imlctl.scan.processes import Decoder, decode_file, with_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import ExitStack

    from imlctl.scan.analysis import Options
    from imlctl.scan.ledger import Key
    from imlctl.scan.naming import Job
    from imlctl.scan.pool import Answers, Requests
    from imlctl.scan.processes import Limits

_MOST_DEATHS = 3  # of workers with the same picture in hand; then it is the picture's fault
_POLL = 0.2  # seconds between two looks at whether to stop
_LONG = 16  # characters of a name of a folder
_SHARED = "Inputs, outputs and weights must have the same path on all machines of the cluster."


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine for as long.

    Nothing is printed, and no usage is reported to anybody. A cluster of our own takes orders only
    from who knows a random token, and leaves no files behind.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    own = address in ("", "local")
    _prepare_environment(own)
    try:
        import ray
    except ImportError as error:
        remedy = 'Install it with: pip install "imlctl[ray]"'
        raise UsageError(f"Ray is not installed ({error})", source="--ray", remedy=remedy) from None
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
    # The name must be short: that of a socket has 107 bytes at most.
    short = "/tmp" if len(tempfile.gettempdir()) > _LONG and Path("/tmp").is_dir() else None  # noqa: S108
    with tempfile.TemporaryDirectory(
        "", "imlctl-ray-", short, ignore_cleanup_errors=True
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
            raise UsageError(
                f"cannot join or start Ray: {gist(error)}",
                source=f"RAY_ADDRESS {address}" if address else "--ray",
                remedy="Check with `ray status` that the cluster runs and includes this machine.",
            ) from error
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


@dataclass(frozen=True, slots=True)
class Share:
    """Share of the cluster for one worker, which has one core."""

    device: str  # for its settings
    name: str  # of the device, as records say it
    gpus: int = 0  # cards that are kept for it
    # Of the card, as Ray calls it, so that all workers have the same; None for any
    kind: str | None = None


def share_for(device: str, tell: Callable[[str], None]) -> Share:
    """Decide what each worker computes on; waits until the cluster has such a worker.

    Without a card, a worker has one thread, as in a scan on this machine alone, so that both
    compute the same to the last bit. What there is to wait for, `tell` is called with.

    Raises:
        UsageError: Ray cannot hand out such a device, or the machine that has it cannot use it.
    """
    if device not in ("auto", "cpu", "cuda", "xpu"):
        what = "Ray chooses among cards by itself, and knows those of NVIDIA, AMD and Intel"
        remedy = "Use auto, cpu, cuda or xpu with --ray."
        raise UsageError(what, source=f"--device {device}", remedy=remedy)
    nodes = nodes_of().values()
    if device == "cpu" or (device == "auto" and not any(node["GPU"] for node in nodes)):
        if not any(int(node["CPU"]) for node in nodes):
            tell("waiting until the cluster has a machine with a free core")
        return Share("cpu", "cpu")
    if not any(node["GPU"] and node["CPU"] for node in nodes):
        tell("waiting until the cluster has a machine with a GPU")
    import ray

    look = ray.remote(num_cpus=1, num_gpus=1, max_calls=1)(_look)
    name, node = ray.get(look.remote(device))
    if isinstance(name, ImlctlError):
        raise name
    prefix = "accelerator_type:"
    kinds = [key for key in nodes_of().get(node, ()) if key.startswith(prefix)]
    return Share(device, name, gpus=1, kind=kinds[0].removeprefix(prefix) if kinds else None)


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


@dataclass(frozen=True, slots=True)
class Assignment:
    """Instructions to every worker before it begins.

    The options hold its own device and threads; the key of the results is the same everywhere. With
    no decoders it decodes itself. Names are relative to the folder of whoever began the scan.
    """

    options: Options
    key: Key
    limits: Limits
    decoders: int
    folder: str


class Worker:
    """An actor that holds the model; called from several threads, of which one decodes ahead."""

    def __init__(self, assignment: Assignment) -> None:
        self._refusal: ImlctlError | None = None
        self._model = threading.Lock()
        # Names mean the same as where the scan was begun; absolute ones do so anyway.
        with suppress(OSError):
            os.chdir(assignment.folder)
        keep_freed_blocks()
        try:
            self._analysis = Analysis(assignment.options)
            key = key_of(self._analysis.provenance, assignment.options)
            if key != assignment.key:
                what = f"this worker would give other results: {_difference(key, assignment.key)}"
                remedy = "Install the same imlctl and weights on machines of the same kind."
                raise ConfigError(what, remedy=remedy)
        except ImlctlError as error:
            # An actor that cannot be made is made again and again; this one lives and says why.
            self._refusal = bare(error)
        count = 0 if self._refusal else assignment.decoders
        processes = [Decoder(assignment.limits) for _ in range(count)]
        self.decoders: Crew[Request, Any] = Crew(processes or [decode_file])

    def analyse(self, request: bytes) -> bytes:
        """Do all but the writing for one picture.

        Takes a pickled `Request` and returns a pickled tuple: the answer or an error about all
        pictures, this host, and whether it has the picture's folder. Arrow cannot hold all names.
        """
        asked: Request = pickle.loads(request)  # noqa: S301 - our own
        try:
            answer = self._refusal or self.decoders.work(asked)
            if isinstance(answer, Decoded):
                with self._model:
                    answer = self._analysis(answer)
        except ImlctlError as error:
            answer = bare(error)
        return pickle.dumps((answer, socket.gethostname(), Path(asked.path).parent.is_dir()))


def _difference(ours: Key, theirs: Key) -> str:
    mine = {"sha256 of weights": ours.weights, **json.loads(ours.settings)}
    wanted = {"sha256 of weights": theirs.weights, **json.loads(theirs.settings)}
    different = [name for name in wanted if mine.get(name) != wanted[name]]
    return ", ".join(f"{name} is {mine.get(name)!r}, not {wanted[name]!r}" for name in different)


class RayPool:
    """All of a scan but the writing, on the cluster that was joined.

    The provenance holds the device of the workers; each has its share of the cluster, and so many
    processes that decode, with 0 decoding itself.
    """

    def __init__(
        self,
        options: Options,
        provenance: Mapping[str, Any],
        share: Share,
        limits: Limits,
        *,
        decoders: int = 1,
    ) -> None:
        self.provenance = provenance
        self._share = share
        own = replace(options.settings, device=share.device)
        own_options = replace(options, settings=own, threads=None if share.gpus else 1)
        key = key_of(provenance, options)
        self._assignment = Assignment(own_options, key, limits, decoders, str(Path.cwd()))
        self._todo: deque[tuple[Job, Request]] = deque()
        # Each worker, and what it has in hand by Ray's references to the answers.
        self._workers: list[tuple[Any, dict[Any, tuple[Job, Request]]]] = []
        self._deaths: Counter[str] = Counter()  # of workers, by the path of the picture in hand

    def run(self, requests: Requests, stopped: Callable[[], bool]) -> Answers:
        """Have pictures analysed; they come as they get ready, in any order.

        Raises:
            ImlctlError: A worker has other weights or settings, cannot read what this machine
                can, or Ray itself gave up.
        """
        self._todo.extend(requests)
        try:
            while self._todo or any(items for _, items in self._workers):
                if stopped():
                    self._todo.clear()
                self._hand_out()
                yield from self._answers()
        except ImlctlError:
            raise
        except Exception as error:
            raise UsageError(
                f"Ray gave up: {gist(error)}",
                source="--ray",
                remedy="The same imlctl must be installed on all machines; Ray's logs say more."
                " --resume continues with what is left.",
            ) from error
        finally:
            self._workers.clear()  # which ends them

    def _hand_out(self) -> None:
        """Give work to every worker that has room, and start workers where the cluster has."""
        import ray

        share, workers, todo = self._share, self._workers, self._todo
        kind = {"accelerator_type": share.kind} if share.kind else {}
        while len(workers) < min(len(todo) + len(workers), max(1, capacity(share))):
            actor = ray.remote(Worker).options(
                num_cpus=1, num_gpus=share.gpus, max_concurrency=2, **kind
            )
            workers.append((actor.remote(self._assignment), {}))
        for actor, items in workers:
            # One is decoded while another is analysed, unless it must be known which is fatal.
            while todo and len(items) < 2:
                if items and any(self._deaths[each.path] for _, each in [todo[0], *items.values()]):
                    break
                job, request = todo.popleft()
                items[actor.analyse.remote(pickle.dumps(request))] = (job, request)

    def _answers(self) -> Answers:
        """Yield what is ready by now; replace workers that died."""
        import ray

        pending = [reference for _, items in self._workers for reference in items]
        if not pending:
            return
        ready, _ = ray.wait(pending, num_returns=1, timeout=_POLL)
        for worker in list(self._workers):
            _, items = worker
            for reference in [each for each in ready if each in items]:
                try:
                    answer = ray.get(reference)
                except ray.exceptions.RayActorError:
                    self._workers.remove(worker)
                    yield from self._bereaved(items.values())
                    break
                job, _ = items.pop(reference)
                yield job, received(*pickle.loads(answer))  # noqa: S301 - our worker's

    def _bereaved(self, items: Iterable[tuple[Job, Request]]) -> Answers:
        """Let others try again what a dead worker had in hand, but not for ever."""
        for job, request in items:
            self._deaths[request.path] += 1
            if self._deaths[request.path] < _MOST_DEATHS:
                self._todo.append((job, request))
                continue
            failure = Failed(
                InputError(
                    f"{_MOST_DEATHS} workers died while they analysed it",
                    source=request.path,
                    remedy="Perhaps memory ran out: try --tile 512, or workers with more of it.",
                )
            )
            yield job, with_hash(failure, request)


def received(answer: Any, host: str, has_folder: bool) -> Finished | Unchanged | Failed:
    """Return what a worker made of a picture; raise an error that concerns all pictures."""
    if isinstance(answer, ImlctlError):
        answer.source = f"{answer.source} (on {host})" if answer.source else f"on {host}"
        raise answer
    if isinstance(answer, Failed) and answer.sha256 is None:  # it could not be read
        path, machine = answer.error.source, f"the machine {host} of the cluster"
        if os.access(path, os.R_OK) and not has_folder:
            what, folder = f"{machine} has no such folder", str(Path(path).parent)
            raise UsageError(what, source=folder, remedy=_SHARED)
        if os.access(path, os.R_OK):
            what = f"{machine} cannot read it, though this one can"
            return Failed(InputError(what, source=path, remedy=_SHARED))
    return answer  # type: ignore[no-any-return]


def start_ray(
    options: Options,
    limits: Limits,
    stack: ExitStack,
    *,
    decoders: int | None,
    tell: Callable[[str], None],
) -> RayPool:
    """Join the cluster, which is left when the stack is closed.

    Each worker has so many processes that decode, 1 if None. `tell` is called with a sentence if
    there is something to wait for.

    Raises:
        ImlctlError: The weights are wrong, or there is no cluster with such a device.
    """
    # The model is not needed here, but its provenance is; and wrong weights show at once.
    here = replace(options, settings=replace(options.settings, device="cpu"), threads=1)
    provenance = Analysis(here).provenance
    stack.enter_context(joined())
    share = share_for(options.settings.device, tell)
    provenance["device"] = share.name
    if share.gpus:
        del provenance["settings"]["threads"]
    return RayPool(here, provenance, share, limits, decoders=1 if decoders is None else decoders)
