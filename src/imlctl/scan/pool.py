"""Engines of a scan: what decodes and analyses on this machine, and in which processes.

On a CPU there are as many models as cores: threads inside a picture gain less than pictures side by
side, and one thread has one rounding. A graphics card is given several pictures at once.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self, TypeVar

from imlctl.process import cores
from imlctl.scan.messages import Decoded, Failed
from imlctl.scan.processes import Child, Decoder, ModelProcess, decode_file, suitable_jobs

if TYPE_CHECKING:
    from imlctl.inference import Progress
    from imlctl.scan.analysis import Analysis, Options
    from imlctl.scan.messages import Finished, Request, Unchanged
    from imlctl.scan.naming import Job

    Reply = Decoded | Unchanged | Failed
    Answer = Finished | Unchanged | Failed
    Requests = Iterable[tuple[Job, Request]]
    Answers = Iterator[tuple[Job, Answer]]
    Stopped = Callable[[], bool]

Tag = TypeVar("Tag")
Item = TypeVar("Item")
Made = TypeVar("Made")

_MOST_DECODERS = 16
_BATCH = 8  # pictures of one size that a graphics card is given at once
_WINDOW_PIXELS = 2**25  # decoded pictures that wait for others of their size have no more


@dataclass(frozen=True, slots=True)
class Engine:
    """Decodes and analyses pictures, wherever that is done."""

    provenance: Mapping[str, Any]  # of all results, see `Localizer.provenance`
    # Answers requests until told to stop; what a model has in hand by then is finished. Raises an
    # `ImlctlError` that concerns all pictures: wrong settings, or no process can be started.
    run: Callable[[Requests, Stopped], Answers]


class Crew:
    """Processes that threads share, each of them one at a time, until the crew is left."""

    def __init__(self, workers: Sequence[Any]) -> None:
        self.workers = workers
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for worker in workers:
            self._idle.put(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes; what they have in hand is lost."""
        for worker in self.workers:
            if isinstance(worker, Child):
                worker.close()

    def __call__(self, item: Any, stopped: Stopped = lambda: False) -> Any:
        """Have one of them work at an item when it is free; None if told to stop until then."""
        worker = self._idle.get()
        try:
            return None if stopped() else worker(item)
        finally:
            self._idle.put(worker)


def in_order(
    work: Callable[[Item], Made], items: Iterable[tuple[Tag, Item]], threads: int, window: int
) -> Iterator[tuple[Tag, Made]]:
    """Yield what threads make of the items, in order; no more than a window is ahead or waits."""
    pool = ThreadPoolExecutor(threads, "scan")
    waiting: deque[tuple[Tag, Future[Made]]] = deque()

    def first() -> tuple[Tag, Made]:
        tag, future = waiting.popleft()
        return tag, future.result()

    try:
        for tag, item in items:
            waiting.append((tag, pool.submit(work, item)))
            del item
            while waiting and (len(waiting) > window or waiting[0][1].done()):
                yield first()
        while waiting:
            yield first()
    finally:  # without waiting for a picture that hangs; who leaves the crew ends that
        pool.shutdown(wait=False, cancel_futures=True)


def decoded_by(
    decoders: Crew, requests: Iterable[tuple[Tag, Request]]
) -> Iterator[tuple[Tag, Reply]]:
    """Have pictures decoded, a few ahead of whoever asks for them."""
    count = len(decoders.workers)
    return in_order(decoders, requests, count, count)


def until(stopped: Stopped, requests: Requests) -> Requests:
    """Pass requests on; once told to stop, ask for no more of them."""
    todo = iter(requests)
    while not stopped() and (item := next(todo, None)):
        yield item


def one_by_one(decode: Callable[[Request], Reply], analysis: Analysis) -> Engine:
    """Analyse in this process, each picture as it is asked for."""

    def run(requests: Requests, stopped: Stopped) -> Answers:
        for job, request in until(stopped, requests):
            reply = decode(request)
            yield job, analysis(reply) if isinstance(reply, Decoded) else reply
            del reply  # or its pixels would stay until the next picture is decoded

    return Engine(analysis.provenance, run)


def on_cores(decoders: Crew, models: Crew, provenance: Mapping[str, Any]) -> Engine:
    """Analyse several pictures at once, each in a process; results come in order."""
    count = len(models.workers)

    def run(requests: Requests, stopped: Stopped) -> Answers:
        def work(request: Request) -> Any:
            reply = decoders(request, stopped)
            return models(reply, stopped) if isinstance(reply, Decoded) else reply

        # Each model has one picture in hand and one that is decoded next.
        for job, answer in in_order(work, until(stopped, requests), 2 * count, 8 * count):
            if answer is not None:
                yield job, answer

    return Engine(provenance, run)


def on_card(decoders: Crew, analysis: Analysis) -> Engine:
    """Analyse here, on a graphics card, pictures of one size together, while others are encoded."""

    def finish(item: tuple[Job, Reply, Any]) -> tuple[Job, Answer]:
        job, reply, result = item
        if not isinstance(reply, Decoded) or isinstance(result, Failed):
            return job, result
        return job, analysis.finish(result, reply)

    def run(requests: Requests, stopped: Stopped) -> Answers:
        encoders = ThreadPoolExecutor(max(1, min(cores() - 1, 4)), "encode")
        with encoders, ThreadPoolExecutor(1, "model") as card:
            on_it: deque[Future[list[Any]]] = deque()
            for window in _windows(decoded_by(decoders, until(stopped, requests)), stopped):
                on_it.append(card.submit(_localize, analysis, window))
                if len(on_it) > 1:
                    yield from encoders.map(finish, on_it.popleft().result())
            while on_it:
                yield from encoders.map(finish, on_it.popleft().result())

    return Engine(analysis.provenance, run)


def _windows(
    replies: Iterator[tuple[Job, Reply]], stopped: Stopped
) -> Iterator[list[tuple[Job, Reply]]]:
    """Yield so many decoded pictures that there are some of one size among them."""
    window: list[tuple[Job, Reply]] = []
    pixels = 0
    for job, reply in replies:
        if stopped():
            return
        window.append((job, reply))
        pixels += reply.photo.pixels.size // 3 if isinstance(reply, Decoded) else 0
        if len(window) >= 4 * _BATCH or pixels >= _WINDOW_PIXELS:
            yield window
            window, pixels = [], 0
    if window:
        yield window


def _localize(analysis: Analysis, window: list[tuple[Job, Reply]]) -> list[tuple[Job, Reply, Any]]:
    """Run the model; return each job with what was decoded and its result."""
    same: dict[tuple[int, ...], list[int]] = defaultdict(list)
    results: list[Any] = [reply for _, reply in window]
    for place, reply in enumerate(results):
        if isinstance(reply, Decoded):
            same[reply.photo.pixels.shape].append(place)
    for shape, places in same.items():
        most = _BATCH if max(shape) <= analysis.options.settings.tile else 1
        for start in range(0, len(places), most):
            batch = places[start : start + most]
            found = analysis.localize_together([results[place] for place in batch])
            for place, result in zip(batch, found, strict=True):
                results[place] = result
    return [(job, reply, result) for (job, reply), result in zip(window, results, strict=True)]


def start_engine(
    options: Options,
    pictures: int,
    stack: ExitStack,
    *,
    jobs: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Engine:
    """Start what decodes and analyses so many pictures on this machine, until the stack is closed.

    On a CPU, several pictures are analysed by processes, so `options.threads` should be 1; a single
    one is analysed here, as are all on a graphics card. `jobs` are the processes that analyse on a
    CPU, or decode for a card: 0 for none at all, None for as many as suit the machine. `progress`
    is told of the tiles of a single picture. Errors are those of `Analysis`.
    """
    from imlctl.scan.analysis import Analysis

    if jobs == 0 or not pictures:
        return one_by_one(decode_file, Analysis(options, progress))
    if pictures > 1 and _on_cpu(options.settings.device):
        options = replace(options, settings=replace(options.settings, device="cpu"))
        count = min(jobs or suitable_jobs(pictures), pictures)
        models = stack.enter_context(Crew([ModelProcess(options) for _ in range(count)]))
        decoders = stack.enter_context(Crew([Decoder(options) for _ in range(-(-count // 2))]))
        return on_cores(decoders, models, models.workers[0].greeting())
    # Started before the model is loaded, so that both happen at the same time.
    ahead = 1 if pictures == 1 else jobs or min(pictures, cores(), _MOST_DECODERS)
    decoders = stack.enter_context(Crew([Decoder(options) for _ in range(ahead)]))
    analysis = Analysis(options, progress)
    if pictures == 1:
        return one_by_one(decoders.workers[0], analysis)
    return on_card(decoders, analysis)


def _on_cpu(device: str) -> bool:
    """Return whether a name of a device comes to a CPU; imports torch only to be sure that not."""
    cards = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri")
    may_have_one = sys.platform in ("darwin", "win32") or any(map(os.path.lexists, cards))
    if device == "cpu" or (device == "auto" and not may_have_one):
        return True
    from imlctl.device import resolve

    return resolve(device).type == "cpu"
