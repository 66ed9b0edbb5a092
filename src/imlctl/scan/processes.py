"""Child processes of a scan, all of them replaceable: some decode, some hold a model."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imlctl.errors import ImlctlError, InputError, UsageError
from imlctl.image.decode import DEFAULT_MAX_PIXELS
from imlctl.process import cores
from imlctl.scan.messages import Decoded, Failed, receive, send
from imlctl.scan.worker import HELLO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imlctl.scan.analysis import Options
    from imlctl.scan.messages import Finished, Request, Unchanged

_START = 60.0  # seconds that a decoder may take until it answers at all
_DECODER = "from imlctl.scan.worker import serve_decoder; serve_decoder"
_MODEL = "from imlctl.scan.worker import serve_model; serve_model"
_PIPE = 2**20  # bytes; the usual 64 KiB make a large picture many small steps
_MODEL_MEMORY = 2**30  # bytes of one process with a tile of the default size in hand, about


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on decoding one picture: seconds to read and decode it, and its number of pixels."""

    seconds: float = 120.0
    max_pixels: int = DEFAULT_MAX_PIXELS

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= threading.TIMEOUT_MAX:
            raise UsageError(
                f"{self.seconds:g} seconds cannot be waited for",
                source="--timeout",
                remedy="Give a positive and finite number of seconds.",
            )
        if self.max_pixels < 1:
            raise UsageError(
                f"no picture has {self.max_pixels} pixels",
                source="--max-pixels",
                remedy="Give a positive number.",
            )

    @property
    def memory(self) -> int:
        """Most bytes a decoder may ask for: the file, its samples, and their conversions."""
        return 2**30 + 32 * self.max_pixels


def free_memory() -> int | None:
    """Return how many bytes of memory are free, or None where the system does not say."""
    sizes = []
    with suppress(OSError):
        listing = Path("/proc/meminfo").read_text("ascii")
        if free := re.search(r"MemAvailable:\s*(\d+) kB", listing):
            sizes.append(int(free[1]) * 1024)
    with suppress(OSError, ValueError):  # no limit is "max"
        folder = Path("/sys/fs/cgroup")
        limit = int((folder / "memory.max").read_text("ascii"))
        sizes.append(limit - int((folder / "memory.current").read_text("ascii")))
    return max(0, min(sizes)) if sizes else None


def suitable_jobs(pictures: int) -> int:
    """Return how many model processes suit a scan on a CPU: one a core, if memory allows it."""
    free = free_memory()
    by_memory = pictures if free is None else free // _MODEL_MEMORY
    return max(1, min(pictures, cores(), by_memory))


class _Child:
    """A process that answers one message after another; started anew after it died."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._greeted = self._closed = False

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process, without waiting for it."""
        # From our own folder, and not from the current one (-P): that one may hold anything.
        places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-c", self._program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libtiff and others print whatever they dislike
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, places))},
            start_new_session=True,  # Ctrl-C at the terminal is for the scan alone
            pipesize=_PIPE,
        )
        self._greeted = False
        return self._process

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


class Decoder(_Child):
    """One process that decodes."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(f"{_DECODER}({limits.memory})")
        self.limits = limits
        self._expired = False
        self.start()

    def __call__(self, request: Request) -> Decoded | Unchanged | Failed:
        """Have a file read and decoded; one that fails is hashed at least.

        Raises:
            UsageError: The process cannot be started.
        """
        reply = self._ask(request)
        if isinstance(reply, Failed) and request.data is None and not self._closed:
            known = self._ask(replace(request, done={}, decoded=False))
            if isinstance(known, Failed):
                return replace(reply, sha256=known.sha256, size=known.size)
        return reply

    def _ask(self, request: Request) -> Decoded | Unchanged | Failed:
        if self._closed:
            return _ended(request.path)
        process = self._process or self.start()
        assert process.stdin and process.stdout  # noqa: S101, PT018
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
                    f"the process that decodes pictures does not start ({_ending(code)})",
                    remedy="Try --jobs 0, which does everything in this process.",
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
                f"decoding it took longer than {self.limits.seconds:g} s",
                source=path,
                remedy="Raise --timeout if the file is good and its disk is slow.",
            )
        return InputError(
            f"the process that decoded it crashed ({_ending(code)})",
            source=path,
            remedy="The file may have been made to crash programs, or memory ran out.",
        )


class ModelProcess(_Child):
    """One process that holds a model, on a CPU with one thread."""

    def __init__(self, options: Options) -> None:
        super().__init__(f"{_MODEL}()")
        self._options = options
        self._provenance: dict[str, Any] = {}
        self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process, without waiting for it."""
        process = super().start()
        assert process.stdin  # noqa: S101
        with suppress(OSError):  # it is dead already: whoever reads from it will say so
            send(process.stdin, self._options)
        return process

    def provenance(self) -> dict[str, Any]:
        """Wait until the model is in memory, and return the provenance of its results.

        Raises:
            ImlctlError: The model, its weights or the device cannot be had, or no process starts.
        """
        process = self._process or self.start()
        assert process.stdout  # noqa: S101
        if not self._greeted:
            try:
                hello = receive(process.stdout, trusted=True)
            except (OSError, EOFError, pickle.UnpicklingError):
                code = self.stop()
                raise UsageError(
                    f"the process that runs the model does not start ({_ending(code)})",
                    remedy="Free some memory, or try --jobs 0, which does all in this process.",
                ) from None
            if isinstance(hello, ImlctlError):
                raise hello
            self._provenance, self._greeted = hello, True
        return self._provenance

    def __call__(self, decoded: Decoded) -> Finished | Failed:
        """Have a picture analysed.

        Raises:
            ImlctlError: Of any kind but `InputError`: other pictures would fail as well.
        """
        path = decoded.photo.source
        if self._process is not None and self._process.poll() is not None:
            self.stop()  # it died with nothing in hand
        if self._closed:
            return _ended(path)
        try:
            self.provenance()
            process = self._process
            assert process and process.stdin and process.stdout  # noqa: S101, PT018
            send(process.stdin, decoded)
            answer = receive(process.stdout, trusted=True)
        except ImlctlError:
            if self._closed:
                return _ended(path)
            raise
        except (OSError, EOFError, pickle.UnpicklingError):
            error = _model_died(path, self.stop())
            return Failed(error, sha256=decoded.photo.sha256)
        if isinstance(answer, ImlctlError):
            raise answer
        return answer  # type: ignore[no-any-return]


def _ended(path: str) -> Failed:
    return Failed(InputError("the scan has ended", source=path))


def _model_died(path: str, code: int) -> InputError:
    if _ending(code) == "SIGKILL":
        what = "the process that analysed it was killed; probably memory ran out"
    else:
        what = f"the process that analysed it crashed ({_ending(code)})"
    remedy = "Use fewer processes, such as --jobs 1, or smaller tiles, such as --tile 512."
    return InputError(what, source=path, remedy=remedy)


def _ending(code: int) -> str:
    """Name the end of a process: its exit status, or the signal that ended it."""
    with suppress(ValueError):
        return signal.Signals(-code).name if code < 0 else f"status {code}"
    return f"signal {-code}"
