"""Scan on a Ray cluster: workers elsewhere do all but the writing, which stays in one place.

The stages are those of `run.scan`, which calls `OnRay.run` where it would otherwise have pictures
decoded. So there is one ledger, one process that writes, and nothing to undo if a worker dies.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imlctl.errors import ImlctlError, InputError, UsageError
from imlctl.scan.failures import Failed
from imlctl.scan.ray_cluster import gist, total_of
from imlctl.scan.ray_worker import Analyst, Foreman, Order, OutOfReach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imlctl.scan.ahead import Limits
    from imlctl.scan.naming import Job
    from imlctl.scan.ray_cluster import Share
    from imlctl.scan.ray_worker import Answer
    from imlctl.scan.run import Finished
    from imlctl.scan.work import PhotoWork
    from imlctl.scan.worker import Reply, Request

_LARGEST_LOT = 32  # pictures that a worker is given at once, and that are lost with it
_ROUNDS = 8  # lots for each worker, if that leaves any pictures in them
_POLL = 0.2  # seconds
_SHARED = "Inputs, outputs and weights must have the same path on all machines of the cluster."


class OnRay:
    """All of a scan but the writing, on the cluster that was joined.

    Args:
        work: What is done with each picture, with a localizer whose provenance names the device of
            the workers.
        share: Of each worker.
        limits: What decoding a picture may cost.
        decoders: Processes that decode for one worker; 0 to decode in the worker itself.
        stopped: Asked all the time; once true, pictures in hand are finished, and no other begun.
    """

    def __init__(
        self,
        work: PhotoWork,
        share: Share,
        limits: Limits,
        *,
        decoders: int = 1,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._work = work
        self._share = share
        self._limits = limits
        self._decoders = decoders
        self._stopped = stopped

    def run(
        self, requests: Iterable[tuple[Job, Request | None]]
    ) -> Iterator[tuple[Job, Reply | Finished | None]]:
        """Have pictures analysed and rendered; they come as they get ready, in any order.

        Raises:
            ImlctlError: A worker has other weights or settings, cannot read what this machine
                can, or Ray itself gave up.
            ValueError: The standard input is among the requests.
        """
        todo = list(requests)
        if any(request is None for _, request in todo):
            raise ValueError("the standard input cannot be read elsewhere")
        if not todo:
            return
        # `naming.plan` gives every picture of a scan the same kinds of outputs.
        order = Order(
            settings=replace(self._work.localizer.settings, device=self._share.device),
            key=self._work.key,
            soft=self._work.soft,
            previews=self._work.previews,
            kinds=tuple(todo[0][0].outputs),
            limits=self._limits,
            decoders=self._decoders,
            threads=self._share.threads,
            folder=str(Path.cwd()),
        )
        try:
            for number, answer in self._answers(order, [request for _, request in todo]):
                yield todo[number][0], _received(answer)
        except ImlctlError:
            raise
        except Exception as error:
            if self._stopped():  # the last worker to be told ends it so
                return
            raise UsageError(
                f"Ray gave up: {gist(error)}",
                source="--ray",
                remedy="The same imlctl must be installed on all machines; Ray's logs say more."
                " --resume goes on with what is left.",
            ) from error

    def _answers(
        self, order: Order, requests: list[Request | None]
    ) -> Iterator[tuple[int, Answer]]:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        foreman = ray.remote(Foreman).options(num_cpus=0, scheduling_strategy=here).remote()
        dataset = self._dataset(order, requests, foreman)
        with _relayed(self._stopped, foreman):
            batches = dataset.iter_batches(
                batch_size=None, batch_format="numpy", prefetch_batches=0
            )
            for rows in batches:
                if "answer" in rows:  # a lot that was left gives no rows, and so no columns
                    answers = map(pickle.loads, rows["answer"])  # from workers of our own
                    yield from zip(map(int, rows["number"]), answers, strict=True)

    def _dataset(self, order: Order, requests: list[Request | None], foreman: Any) -> Any:
        import ray

        share = self._share
        total = total_of()
        workers = max(1, int(total["GPU"] if share.gpus else total["CPU"] / share.cpus))
        size = min(max(len(requests) // (_ROUNDS * workers), 1), _LARGEST_LOT)
        lots = math.ceil(len(requests) / size)
        items = [{"number": n, "request": pickle.dumps(r)} for n, r in enumerate(requests)]
        dataset = ray.data.from_items(items, override_num_blocks=lots)
        context = dataset.context
        context.enable_progress_bars = False
        context.target_max_block_size = 1  # every picture comes as soon as it is done
        return dataset.map_batches(
            Analyst,
            fn_constructor_args=(order, foreman),
            batch_size=None,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(
                min_size=1, initial_size=min(workers, lots), max_size=lots
            ),
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            accelerator_type=share.kind,
        )


@contextlib.contextmanager
def _relayed(stopped: Callable[[], bool], foreman: Any) -> Iterator[None]:
    """Tell the foreman once the scan is to stop, whatever this thread waits for."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL):
            if stopped():
                foreman.stop.remote()
                return

    watcher = threading.Thread(target=watch, name="stop", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _received(answer: Answer) -> Finished | Reply:
    """Turn what a worker says into what became of the picture.

    Raises:
        ImlctlError: It concerns all pictures.
    """
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
