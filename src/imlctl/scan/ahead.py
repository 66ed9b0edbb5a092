"""Decode ahead of the model, in processes that may crash or hang without harm to the scan."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from imlctl.errors import InputError, UsageError
from imlctl.image.decode import DEFAULT_MAX_PIXELS
from imlctl.scan.failures import Failed
from imlctl.scan.worker import HELLO, receive, send

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from imlctl.scan.worker import Reply, Request

Tag = TypeVar("Tag")

_MOST = 8  # decoders; more were never waited for
_START = 60.0  # seconds that a process may take until it answers at all
_PROGRAM = "from imlctl.scan.worker import serve; serve"
_PIPE = 2**20  # bytes; the usual 64 KiB make a large picture many small steps


@dataclass(frozen=True, slots=True)
class Limits:
    """What one picture may cost.

    Attributes:
        seconds: Longest time to read and decode it.
        max_pixels: Largest picture that is decoded; sets how much memory that may take.
    """

    seconds: float = 120.0
    max_pixels: int = DEFAULT_MAX_PIXELS

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.max_pixels < 1:
            raise UsageError("the limits of a picture must be positive")

    @property
    def memory(self) -> int:
        """Most bytes a decoder may ask for: the file, its samples, and their conversions."""
        return 2**30 + 32 * self.max_pixels


def suitable_workers(pictures: int) -> int:
    """Return how many decoders serve a scan: none for one picture, which would wait for it."""
    if pictures < 2:
        return 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(pictures, usable or 1, _MOST)


class Decoder:
    """One process that decodes; started anew after it died."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._greeted = self._expired = self._closed = False
        self.start()

    def start(self) -> None:
        """Start the process, without waiting for it."""
        # From our own folder, and not from the current one (-P): that one may hold anything.
        places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-c", f"{_PROGRAM}({self.limits.memory})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libtiff and others print whatever they dislike
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, places))},
            start_new_session=True,  # Ctrl-C at the terminal is for the scan alone
            pipesize=_PIPE,
        )
        self._greeted = False

    def __call__(self, request: Request) -> Reply:
        """Have a file read and decoded.

        Raises:
            UsageError: The process cannot be started.
        """
        if self._closed:
            return Failed(InputError("the scan has ended", source=request.path))
        if self._process is None:
            self.start()
        process = self._process
        assert process is not None and process.stdin and process.stdout  # noqa: S101, PT018
        self._expired = False
        try:
            if not self._greeted:
                with self._alarm(_START):
                    self._greeted = process.stdout.read(len(HELLO)) == HELLO
            with self._alarm(self.limits.seconds):
                send(process.stdin, request)
                return receive(process.stdout)  # type: ignore[no-any-return]
        except Exception:  # what a process answers that was taken over can be anything
            greeted = self._greeted
            code = self.stop()
            if not greeted and not self._closed:
                raise UsageError(
                    f"the process that decodes pictures does not start (status {code})",
                    remedy="Try --workers 0, which decodes in this process.",
                ) from None
            return Failed(self._reason(request.path, code))

    @contextmanager
    def _alarm(self, seconds: float) -> Iterator[None]:
        """End the process if the block takes longer, so that reading from it ends too."""
        alarm = threading.Timer(seconds, self._expire)
        alarm.daemon = True
        alarm.start()
        try:
            yield
        finally:
            alarm.cancel()

    def _expire(self) -> None:
        self._expired = True
        if self._process is not None:
            self._process.kill()

    def _reason(self, path: str, code: int) -> InputError:
        if self._expired:
            return InputError(
                f"decoding it took longer than {self.limits.seconds:g} seconds",
                source=path,
                remedy="Raise --timeout if the file is good and its disk is slow.",
            )
        return InputError(
            f"the process that decoded it crashed (status {code})",
            source=path,
            remedy="The file may be made to crash programs; or memory ran out.",
        )

    def stop(self) -> int:
        """End the process, whatever it does, and return its status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
        return process.wait()

    def abandon(self) -> None:
        """End the process from another thread than the one that waits for it, for good."""
        self._closed = True
        if self._process is not None:
            self._process.kill()


class DecodeAhead:
    """Several decoders, a few pictures ahead of whoever asks for them.

    Args:
        workers: Number of processes, all started at once.
        limits: Of each picture.
    """

    def __init__(self, workers: int, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._decoders = [Decoder(self.limits) for _ in range(workers)]
        self._idle: SimpleQueue[Decoder] = SimpleQueue()
        for decoder in self._decoders:
            self._idle.put(decoder)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._depth = workers + 1  # pictures in memory that nobody asked for yet

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
        self, requests: Iterable[tuple[Tag, Request | None]]
    ) -> Iterator[tuple[Tag, Reply | None]]:
        """Answer requests in their order, reading only a few of them ahead; None is passed on.

        Raises:
            ImlctlError: A setting is wrong, or no process can be started.
        """
        waiting: deque[tuple[Tag, Future[Reply] | None]] = deque()
        for tag, request in requests:
            future = None if request is None else self._threads.submit(self._decode, request)
            waiting.append((tag, future))
            del future
            if len(waiting) >= self._depth:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)

    def _decode(self, request: Request) -> Reply:
        decoder = self._idle.get()
        try:
            return decoder(request)
        finally:
            self._idle.put(decoder)


def _first(waiting: deque[tuple[Tag, Future[Reply] | None]]) -> tuple[Tag, Reply | None]:
    tag, future = waiting.popleft()
    return tag, future.result() if future else None
