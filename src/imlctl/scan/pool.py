"""Engines of a scan: what decodes and analyses on this machine, and in which processes.

On a CPU there are as many models as cores, with one thread each: the network is small, so that
threads inside a picture gain less than pictures side by side; and one thread has one rounding,
whatever the number of processes. A graphics card is given several pictures at once.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from imlctl.process import cores
from imlctl.scan.messages import Decoded, Failed
from imlctl.scan.processes import (
    Child,
    Decoder,
    Limits,
    ModelProcess,
    decode_file,
    suitable_jobs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import ExitStack
    from typing import Self

    from imlctl.inference import Progress
    from imlctl.scan.analysis import Analysis, Options
    from imlctl.scan.messages import Finished, Request, Unchanged
    from imlctl.scan.naming import Job

    Requests = Iterable[tuple[Job, Request]]
    Answers = Iterator[tuple[Job, Finished | Unchanged | Failed]]

Tag = TypeVar("Tag")
Item = TypeVar("Item")
Answer = TypeVar("Answer")

_MOST_DECODERS = 16
_BATCH = 8  # pictures of one size that a graphics card is given at once
_WINDOW_PIXELS = 2**25  # decoded pictures that wait for others of their size have no more


class Crew(Generic[Item, Answer]):
    """Workers that are called from threads, an item at a time; whoever is free takes the next."""

    def __init__(self, workers: Sequence[Callable[[Item], Answer]]) -> None:
        self.workers = workers
        self._idle: SimpleQueue[Callable[[Item], Answer]] = SimpleQueue()
        for worker in workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(len(workers), thread_name_prefix="crew")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes; what they have in hand is lost."""
        processes: list[Any] = [each for each in self.workers if isinstance(each, Child)]
        for process in processes:
            process.abandon()
        self._threads.shutdown(cancel_futures=True)
        for process in processes:
            process.stop()

    def submit(self, item: Item) -> Future[Answer]:
        """Hand in an item to be worked at as soon as somebody is free."""
        return self._threads.submit(self.work, item)

    def work(self, item: Item) -> Answer:
        """Have an item worked at, and wait for it."""
        worker = self._idle.get()
        try:
            return worker(item)
        finally:
            self._idle.put(worker)


class Decoders(Crew["Request", "Decoded | Unchanged | Failed"]):
    """Several decoding processes, a few pictures ahead of whoever asks for them."""

    def __init__(self, count: int, limits: Limits | None = None) -> None:
        super().__init__([Decoder(limits or Limits()) for _ in range(count)])

    def run(
        self, requests: Iterable[tuple[Tag, Request]]
    ) -> Iterator[tuple[Tag, Decoded | Unchanged | Failed]]:
        """Answer requests in their order, reading only a few of them ahead."""
        waiting: deque[tuple[Tag, Future[Decoded | Unchanged | Failed]]] = deque()
        for tag, request in requests:
            waiting.append((tag, self.submit(request)))
            if len(waiting) > len(self.workers):
                yield _first(waiting)
        while waiting:
            yield _first(waiting)


def _first(waiting: deque[tuple[Tag, Future[Any]]]) -> tuple[Tag, Any]:
    tag, future = waiting.popleft()
    return tag, future.result()


class InProcess:
    """Analyse in this process, one picture after another; without decoders, decode here too."""

    def __init__(self, analysis: Analysis, decoders: Decoders | None) -> None:
        self._analysis = analysis
        self._decode = decoders.run if decoders else _decode_here
        self.provenance = analysis.provenance

    def run(self, requests: Requests, stopped: Callable[[], bool]) -> Answers:
        """Analyse each picture as it is asked for."""
        for job, reply in self._decode(requests):
            if stopped():
                return
            yield job, self._analysis(reply) if isinstance(reply, Decoded) else reply
            del reply  # or its pixels would stay until the next picture is decoded


def _decode_here(requests: Requests) -> Iterator[tuple[Job, Decoded | Unchanged | Failed]]:
    return ((job, decode_file(request)) for job, request in requests)


class Pool(Crew["Decoded", "Finished | Failed"]):
    """Decoders, and models behind them; results come in the order of the requests."""

    def __init__(
        self,
        decoders: Decoders,
        models: Sequence[Callable[[Decoded], Finished | Failed]],
        provenance: Mapping[str, Any],
    ) -> None:
        super().__init__(models)
        self.provenance = provenance
        self._decoders = decoders
        self._room = threading.Semaphore(2 * len(models))  # decoded pictures in hand or next
        self._window = 8 * len(models)  # results that may wait for a slow picture before them

    def run(self, requests: Requests, stopped: Callable[[], bool]) -> Answers:
        """Analyse pictures; once told to stop, only those in hand are finished."""
        waiting: deque[tuple[Job, Future[Any]]] = deque()
        for job, reply in self._decoders.run(requests):
            if stopped():
                break
            if isinstance(reply, Decoded):
                self._room.acquire()
                future: Future[Any] = self.submit(reply)
                future.add_done_callback(lambda _: self._room.release())
            else:
                future = Future()
                future.set_result(reply)
            waiting.append((job, future))
            del reply  # or its pixels would stay until the next picture is decoded
            while waiting and (waiting[0][1].done() or len(waiting) >= self._window):
                yield _first(waiting)
        if stopped():
            waiting = deque(each for each in waiting if not each[1].cancel())
        while waiting:
            yield _first(waiting)


class Batches:
    """A model on a graphics card, in this process, that takes pictures of one size together.

    The card works on the next pictures while the outputs of the last are encoded beside it.
    """

    def __init__(self, decoders: Decoders, analysis: Analysis) -> None:
        self.provenance = analysis.provenance
        self._decoders = decoders
        self._analysis = analysis

    def run(self, requests: Requests, stopped: Callable[[], bool]) -> Answers:
        """Analyse pictures in their order; once told to stop, those on the card are finished."""
        encoders = ThreadPoolExecutor(max(1, min(cores() - 1, 4)), thread_name_prefix="encode")
        with encoders, ThreadPoolExecutor(1, thread_name_prefix="model") as card:
            on_card: deque[Future[list[Any]]] = deque()
            for window in self._windows(requests, stopped):
                on_card.append(card.submit(self._localize, window))
                if len(on_card) > 1:
                    yield from encoders.map(self._finish, on_card.popleft().result())
            while on_card:
                yield from encoders.map(self._finish, on_card.popleft().result())

    def _windows(
        self, requests: Requests, stopped: Callable[[], bool]
    ) -> Iterator[list[tuple[Job, Any]]]:
        """Yield so many decoded pictures that there are some of one size among them."""
        window: list[tuple[Job, Any]] = []
        pixels = 0
        for job, reply in self._decoders.run(requests):
            if stopped():
                return
            window.append((job, reply))
            pixels += reply.photo.pixels.size // 3 if isinstance(reply, Decoded) else 0
            if len(window) >= 4 * _BATCH or pixels >= _WINDOW_PIXELS:
                yield window
                window, pixels = [], 0
        if window:
            yield window

    def _localize(self, window: list[tuple[Job, Any]]) -> list[tuple[Job, Any, Any]]:
        """Run the model; return each job with what was decoded and its result."""
        tile = self._analysis.options.settings.tile
        batches: dict[tuple[int, ...], list[int]] = {}
        found = [(job, reply, reply) for job, reply in window]
        for place, (_, reply) in enumerate(window):
            if isinstance(reply, Decoded):
                size = reply.photo.pixels.shape[:2]
                number = place if max(size) > tile else -1  # a large one goes alone
                batch = batches.setdefault((*size, number), [])
                batch.append(place)
                if len(batch) == _BATCH:
                    batches[(*size, number, place)] = batches.pop((*size, number))
        for places in batches.values():
            results = self._analysis.localize_together([window[place][1] for place in places])
            for place, result in zip(places, results, strict=True):
                found[place] = (*window[place], result)
        return found

    def _finish(self, item: tuple[Job, Any, Any]) -> tuple[Job, Finished | Unchanged | Failed]:
        job, reply, result = item
        if not isinstance(reply, Decoded) or isinstance(result, Failed):
            return job, result
        return job, self._analysis.finish(result, reply)


def start_engine(
    options: Options,
    pictures: int,
    limits: Limits,
    stack: ExitStack,
    *,
    jobs: int | None = None,
    progress: Progress = lambda done, total: None,
) -> InProcess | Pool | Batches:
    """Start what decodes and analyses so many pictures on this machine, until the stack is closed.

    On a CPU, several pictures are analysed by processes of one thread each, so `options.threads`
    should be 1; a single one is analysed here. On a graphics card, this process holds the model.

    `jobs` are the processes that analyse on a CPU, or decode for a graphics card: 0 for none at
    all, None for as many as suit the machine. `progress` is told of the tiles of a single picture.

    Raises:
        ImlctlError: The model, its weights or the device cannot be had.
    """
    from imlctl.scan.analysis import Analysis

    if jobs == 0 or not pictures:
        return InProcess(Analysis(options, progress), None)
    if pictures > 1 and _on_cpu(options.settings.device):
        options = replace(options, settings=replace(options.settings, device="cpu"))
        count = min(jobs or suitable_jobs(pictures), pictures)
        models = [ModelProcess(options) for _ in range(count)]
        for model in models:
            stack.callback(model.stop)
        decoders = stack.enter_context(Decoders(-(-count // 2), limits))
        return stack.enter_context(Pool(decoders, models, models[0].greeting()))
    # Started before the model is loaded, so that both happen at the same time.
    ahead = 1 if pictures == 1 else jobs or min(pictures, cores(), _MOST_DECODERS)
    decoders = stack.enter_context(Decoders(ahead, limits))
    analysis = Analysis(options, progress)
    return InProcess(analysis, decoders) if pictures == 1 else Batches(decoders, analysis)


def _on_cpu(device: str) -> bool:
    """Return whether a name of a device comes to a CPU; imports torch only to be sure that not."""
    cards = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri")
    may_have_one = sys.platform in ("darwin", "win32") or any(os.path.lexists(c) for c in cards)
    if device == "cpu" or (device == "auto" and not may_have_one):
        return True
    from imlctl.device import resolve

    return resolve(device).type == "cpu"
