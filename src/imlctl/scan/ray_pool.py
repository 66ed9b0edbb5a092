"""Scan on a Ray cluster: workers elsewhere do all but the writing, which stays in one place.

So there is one ledger, one process that writes, and nothing to undo if a worker dies. Ray finds
`Worker` by its name: the same imlctl must be installed on every machine.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from imlctl.errors import ConfigError, ImlctlError, InputError, UsageError
from imlctl.scan.analysis import Analysis, key_of
from imlctl.scan.messages import Decoded, Failed, Finished, Unchanged, bare
from imlctl.scan.processes import Decoder
from imlctl.scan.ray_cluster import capacity, gist, joined, share_for
from imlctl.scan.worker import decode_or_hash, identified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import ExitStack

    from imlctl.scan.analysis import Options
    from imlctl.scan.ledger import Key
    from imlctl.scan.messages import Request
    from imlctl.scan.naming import Job
    from imlctl.scan.processes import Limits
    from imlctl.scan.ray_cluster import Share

_MOST_DEATHS = 3  # of workers with the same picture in hand; then it is the picture's fault
_POLL = 0.2  # seconds between two looks at whether to stop
_SHARED = "Inputs, outputs and weights must have the same path on all machines of the cluster."


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


@dataclass(frozen=True, slots=True)
class OutOfReach:
    """A worker on this host cannot read a file; perhaps it sees at least its folder."""

    failed: Failed
    host: str
    folder: bool


Answer = Finished | Failed | Unchanged | OutOfReach | ImlctlError


class Worker:
    """An actor that holds the model; called from several threads, of which one decodes ahead."""

    def __init__(self, assignment: Assignment) -> None:
        self._refusal: ImlctlError | None = None
        self._model = threading.Lock()
        self._decoders: SimpleQueue[Callable[[Request], Any]] = SimpleQueue()
        # Names mean the same as where the scan was begun; absolute ones do so anyway.
        with suppress(OSError):
            os.chdir(assignment.folder)
        try:
            self._set_up(assignment)
        except ImlctlError as error:
            # An actor that cannot be made is made again and again; this one lives and says why.
            self._refusal = _of_this_machine(error)

    def _set_up(self, assignment: Assignment) -> None:
        from imlctl.process import keep_freed_blocks

        keep_freed_blocks()
        self._analysis = Analysis(assignment.options)
        key = key_of(self._analysis.provenance, assignment.options)
        if key != assignment.key:
            raise ConfigError(
                f"this worker would give other results: {_difference(key, assignment.key)}",
                remedy="Install the same imlctl and weights on machines of the same kind.",
            )
        for _ in range(assignment.decoders):
            self._decoders.put(Decoder(assignment.limits))
        if not assignment.decoders:
            self._decoders.put(decode_or_hash)

    def analyse(self, request: bytes) -> bytes:
        """Do all but the writing for one picture.

        Takes a pickled `Request` and returns a pickled `Answer`: Arrow cannot hold all file names.
        """
        if self._refusal is not None:
            return pickle.dumps(self._refusal)
        try:
            return pickle.dumps(self._answer(pickle.loads(request)))  # noqa: S301 - our own
        except ImlctlError as error:
            return pickle.dumps(_of_this_machine(error))

    def _answer(self, request: Request) -> Answer:
        decoder = self._decoders.get()
        try:
            reply = decoder(request)
        finally:
            self._decoders.put(decoder)
        if isinstance(reply, Decoded):
            with self._model:
                return self._analysis(reply)
        if isinstance(reply, Failed) and not os.access(request.path, os.R_OK):
            return OutOfReach(reply, socket.gethostname(), Path(request.path).parent.is_dir())
        return reply  # type: ignore[no-any-return]


def _of_this_machine(error: ImlctlError) -> ImlctlError:
    """Say on which machine it went wrong."""
    where = f"on {socket.gethostname()}"
    error.source = f"{error.source} ({where})" if error.source else where
    return bare(error)


def _difference(ours: Key, theirs: Key) -> str:
    if ours.weights != theirs.weights:
        return f"its weights have sha256 {ours.weights}, not {theirs.weights}"
    mine, wanted = json.loads(ours.settings), json.loads(theirs.settings)
    return ", ".join(
        f"{name} is {mine.get(name)!r}, not {wanted[name]!r}"
        for name in wanted
        if mine.get(name) != wanted[name]
    )


@dataclass(slots=True, eq=False)
class _Item:
    """One picture on its way."""

    job: Job
    request: Request
    deaths: int = 0


@dataclass(slots=True, eq=False)
class _Member:
    """A worker, and what it has in hand."""

    actor: Any
    items: dict[Any, _Item] = field(default_factory=dict)  # by Ray's reference to the answer


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
        threads = None if share.gpus else 1
        own = replace(options.settings, device=share.device)
        self._assignment = Assignment(
            options=replace(options, settings=own, threads=threads),
            key=key_of(provenance, options),
            limits=limits,
            decoders=decoders,
            folder=str(Path.cwd()),
        )

    def run(
        self, requests: Iterable[tuple[Job, Request]], stopped: Callable[[], bool]
    ) -> Iterator[tuple[Job, Finished | Unchanged | Failed]]:
        """Have pictures analysed; they come as they get ready, in any order.

        Raises:
            ImlctlError: A worker has other weights or settings, cannot read what this machine
                can, or Ray itself gave up.
        """
        todo = deque(_Item(job, request) for job, request in requests)
        members: list[_Member] = []
        try:
            while todo or any(member.items for member in members):
                if stopped():
                    todo.clear()
                self._hand_out(todo, members)
                for item, answer in self._answers(todo, members):
                    yield item.job, _received(answer)
        except ImlctlError:
            raise
        except Exception as error:
            raise UsageError(
                f"Ray gave up: {gist(error)}",
                source="--ray",
                remedy="The same imlctl must be installed on all machines; Ray's logs say more."
                " --resume continues with what is left.",
            ) from error

    def _hand_out(self, todo: deque[_Item], members: list[_Member]) -> None:
        """Give work to every worker that has room, and start workers where the cluster has."""
        while len(members) < min(len(todo) + len(members), max(1, capacity(self._share))):
            members.append(_Member(self._started()))
        for member in members:
            # One is decoded while another is analysed, unless it must be known which is fatal.
            while todo and len(member.items) < 2:
                alone = todo[0].deaths or any(item.deaths for item in member.items.values())
                if alone and member.items:
                    break
                item = todo.popleft()
                reference = member.actor.analyse.remote(pickle.dumps(item.request))
                member.items[reference] = item

    def _started(self) -> Any:
        import ray

        share = self._share
        kind = {"accelerator_type": share.kind} if share.kind else {}
        actor = ray.remote(Worker).options(
            num_cpus=1, num_gpus=share.gpus, max_concurrency=2, **kind
        )
        return actor.remote(self._assignment)

    def _answers(
        self, todo: deque[_Item], members: list[_Member]
    ) -> Iterator[tuple[_Item, Answer]]:
        """Yield what is ready by now; replace workers that died."""
        import ray

        pending = [reference for member in members for reference in member.items]
        if not pending:
            return
        ready, _ = ray.wait(pending, num_returns=1, timeout=_POLL)
        for member in list(members):
            for reference in [each for each in ready if each in member.items]:
                try:
                    answer = ray.get(reference)
                except ray.exceptions.RayActorError:
                    members.remove(member)
                    yield from _mourned(member, todo)
                    break
                yield member.items.pop(reference), pickle.loads(answer)  # noqa: S301 - our worker's


def _mourned(member: _Member, todo: deque[_Item]) -> Iterator[tuple[_Item, Answer]]:
    """Let others try again what a dead worker had in hand, but not for ever."""
    for item in member.items.values():
        item.deaths += 1
        if item.deaths < _MOST_DEATHS:
            todo.append(item)
            continue
        error = InputError(
            f"{_MOST_DEATHS} workers died while they analysed it",
            source=item.request.path,
            remedy="Perhaps memory ran out: try --tile 512, or workers with more of it.",
        )
        yield item, identified(Failed(error))


def _received(answer: Answer) -> Finished | Unchanged | Failed:
    """Return what became of a picture; raise an error that concerns all pictures."""
    if isinstance(answer, ImlctlError):
        raise answer
    if not isinstance(answer, OutOfReach):
        return answer
    error = answer.failed.error
    if not os.access(error.source, os.R_OK):
        return answer.failed
    if not answer.folder:
        raise UsageError(
            f"the machine {answer.host} of the cluster has no such folder",
            source=str(Path(error.source).parent),
            remedy=_SHARED,
        )
    what = f"the machine {answer.host} of the cluster cannot read it, though this one can"
    return Failed(InputError(what, source=error.source, remedy=_SHARED))


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
    count = 1 if decoders is None else decoders
    return RayPool(here, provenance, share, limits, decoders=count)
