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
from typing import TYPE_CHECKING, Any, TypeVar

from imlctl.process import cores
from imlctl.scan.messages import Decoded, Failed
from imlctl.scan.processes import Decoder, Limits, ModelProcess, suitable_jobs
from imlctl.scan.worker import decode_or_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import ExitStack
    from typing import Self

    from imlctl.inference import Progress
    from imlctl.scan.analysis import Analysis, Options
    from imlctl.scan.messages import Finished, Request, Unchanged
    from imlctl.scan.naming import Job

Tag = TypeVar("Tag")

_MOST_DECODERS = 16
_BATCH = 8  # pictures of one size that a graphics card is given at once
_WINDOW_PIXELS = 2**25  # decoded pictures that wait for others of their size have no more


class Decoders:
    """Several decoding processes, a few pictures ahead of whoever asks for them."""

    def __init__(self, count: int, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._decoders = [Decoder(self.limits) for _ in range(count)]
        self._idle: SimpleQueue[Decoder] = SimpleQueue()
        for decoder in self._decoders:
            self._idle.put(decoder)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decode")
        self._depth = count + 1  # pictures in memory that nobody asked for yet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes; what they still decode is lost."""
        for decoder in self._decoders:
            decoder.abandon()
        self._threads.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.stop()

    def run(
        self, requests: Iterable[tuple[Tag, Request]]
    ) -> Iterator[tuple[Tag, Decoded | Unchanged | Failed]]:
        """Answer requests in their order, reading only a few of them ahead."""
        waiting: deque[tuple[Tag, Future[Decoded | Unchanged | Failed]]] = deque()
        for tag, request in requests:
            waiting.append((tag, self._threads.submit(self._decode, request)))
            if len(waiting) >= self._depth:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)

    def _decode(self, request: Request) -> Decoded | Unchanged | Failed:
        decoder = self._idle.get()
        try:
            return decoder(request)
        finally:
            self._idle.put(decoder)


def _first(waiting: deque[tuple[Tag, Future[Any]]]) -> tuple[Tag, Any]:
    tag, future = waiting.popleft()
    return tag, future.result()


class InProcess:
    """Analyse in this process, one picture after another; without decoders, decode here too."""

    def __init__(self, analysis: Analysis, decoders: Decoders | None) -> None:
        self._analysis = analysis
        self._decode = _decode_here if decoders is None else decoders.run
        self.provenance = analysis.provenance

    def run(
        self, requests: Iterable[tuple[Job, Request]], stopped: Callable[[], bool]
    ) -> Iterator[tuple[Job, Finished | Unchanged | Failed]]:
        """Analyse each picture as it is asked for."""
        for job, reply in self._decode(requests):
            if stopped():
                return
            yield job, self._analysis(reply) if isinstance(reply, Decoded) else reply
            del reply  # or its pixels would stay until the next picture is decoded


def _decode_here(
    requests: Iterable[tuple[Job, Request]],
) -> Iterator[tuple[Job, Decoded | Unchanged | Failed]]:
    for job, request in requests:
        yield job, decode_or_hash(request)


class Pool:
    """Decoders, and models behind them; results come in the order of the requests."""

    def __init__(
        self,
        decoders: Decoders,
        models: Sequence[Callable[[Decoded], Finished | Failed]],
        provenance: Mapping[str, Any],
    ) -> None:
        self.provenance = provenance
        self._decoders = decoders
        self._models = models
        self._idle: SimpleQueue[Callable[[Decoded], Finished | Failed]] = SimpleQueue()
        for model in models:
            self._idle.put(model)
        self._threads = ThreadPoolExecutor(len(models), thread_name_prefix="model")
        self._room = threading.Semaphore(2 * len(models))  # decoded pictures in hand or next
        self._window = 8 * len(models)  # results that may wait for a slow picture before them

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all models; pictures in hand are lost."""
        for model in self._models:
            if isinstance(model, ModelProcess):
                model.abandon()
        self._threads.shutdown(cancel_futures=True)

    def run(
        self, requests: Iterable[tuple[Job, Request]], stopped: Callable[[], bool]
    ) -> Iterator[tuple[Job, Finished | Unchanged | Failed]]:
        """Analyse pictures; once told to stop, only those in hand are finished."""
        waiting: deque[tuple[Job, Future[Finished | Unchanged | Failed]]] = deque()
        for job, reply in self._decoders.run(requests):
            if stopped():
                break
            waiting.append((job, self._submit(reply)))
            del reply  # or its pixels would stay until the next picture is decoded
            while waiting and (waiting[0][1].done() or len(waiting) >= self._window):
                yield _first(waiting)
        if stopped():
            waiting = deque(each for each in waiting if not each[1].cancel())
        while waiting:
            yield _first(waiting)

    def _submit(self, reply: Decoded | Unchanged | Failed) -> Future[Finished | Unchanged | Failed]:
        if isinstance(reply, Decoded):
            self._room.acquire()
            return self._threads.submit(self._analyse, reply)
        future: Future[Finished | Unchanged | Failed] = Future()
        future.set_result(reply)
        return future

    def _analyse(self, decoded: Decoded) -> Finished | Unchanged | Failed:
        model = self._idle.get()
        try:
            return model(decoded)
        finally:
            self._idle.put(model)
            self._room.release()


class Batches:
    """A model on a graphics card, in this process, that takes pictures of one size together.

    The card works on the next pictures while the outputs of the last are encoded beside it.
    """

    def __init__(self, decoders: Decoders, analysis: Analysis) -> None:
        self.provenance = analysis.provenance
        self._decoders = decoders
        self._analysis = analysis

    def run(
        self, requests: Iterable[tuple[Job, Request]], stopped: Callable[[], bool]
    ) -> Iterator[tuple[Job, Finished | Unchanged | Failed]]:
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
        self, requests: Iterable[tuple[Job, Request]], stopped: Callable[[], bool]
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
        by_size: dict[tuple[int, ...], list[int]] = {}
        results: list[Any] = [reply for _, reply in window]
        for place, (_, reply) in enumerate(window):
            if isinstance(reply, Decoded):
                height, width = reply.photo.pixels.shape[:2]
                alone = max(height, width) > tile
                by_size.setdefault((height, width, place if alone else -1), []).append(place)
        for places in by_size.values():
            for start in range(0, len(places), _BATCH):
                some = places[start : start + _BATCH]
                found = self._analysis.localize_together([window[place][1] for place in some])
                for place, result in zip(some, found, strict=True):
                    results[place] = result
        return [(job, reply, result) for (job, reply), result in zip(window, results, strict=True)]

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
    """Start what decodes and analyses on this machine.

    On a CPU, several pictures are analysed by processes of one thread each, so `options.threads`
    should be 1; a single one is analysed here. On a graphics card, this process holds the model.

    Args:
        options: What is done with each picture.
        pictures: How many there are.
        limits: Limits on decoding one picture.
        stack: Ends all processes when it is closed.
        jobs: Processes that analyse on a CPU, or decode for a graphics card; 0 for none at all,
            None for as many as suit the machine.
        progress: Told of the tiles of a picture that is analysed alone.

    Raises:
        ImlctlError: The model, its weights or the device cannot be had.
    """
    from imlctl.scan.analysis import Analysis

    if jobs == 0 or not pictures:
        return InProcess(Analysis(options, progress), None)
    if pictures > 1 and _on_cpu(options.settings.device):
        options = replace(options, settings=replace(options.settings, device="cpu"))
        models = [
            ModelProcess(options) for _ in range(min(jobs or suitable_jobs(pictures), pictures))
        ]
        for model in models:
            stack.callback(model.stop)
        decoders = stack.enter_context(Decoders(-(-len(models) // 2), limits))
        return stack.enter_context(Pool(decoders, models, models[0].provenance()))
    # Started before the model is loaded, so that both happen at the same time.
    ahead = 1 if pictures == 1 else jobs or min(pictures, cores(), _MOST_DECODERS)
    decoders = stack.enter_context(Decoders(ahead, limits))
    analysis = Analysis(options, progress)
    if pictures == 1:
        return InProcess(analysis, decoders)
    return Batches(decoders, analysis)


def _on_cpu(device: str) -> bool:
    """Return whether a name of a device comes to a CPU; imports torch only to be sure that not."""
    cards = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri")
    may_have_one = sys.platform in ("darwin", "win32") or any(os.path.lexists(c) for c in cards)
    if device == "cpu" or (device == "auto" and not may_have_one):
        return True
    from imlctl.device import resolve

    return resolve(device).type == "cpu"
