"""Child processes of a scan, all of them replaceable: some decode, some hold a model.

A crash, a hang or a bomb costs one picture. A child answers messages on its standard output until
its standard input ends, which it does when the scan ends, however it ends.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from imlctl.atomic import sha256_of
from imlctl.errors import ImlctlError, InputError, UsageError
from imlctl.image.decode import decode, read
from imlctl.process import cores, free_memory
from imlctl.scan.custody import all_match
from imlctl.scan.messages import Decoded, Failed, Unchanged, bare, failed, receive, send

if TYPE_CHECKING:
    from imlctl.scan.analysis import Options
    from imlctl.scan.messages import Finished, Request

_START = 60.0  # seconds that a decoder may take until it answers at all
_DECODER = "from imlctl.scan.processes import serve_decoder; serve_decoder"
_MODEL = "from imlctl.scan.processes import serve_model; serve_model"
_PIPE = 2**20  # bytes; the usual 64 KiB make a large picture many small steps
_MODEL_MEMORY = 2**30  # bytes of one process with a tile of the default size in hand, about


def suitable_jobs(pictures: int) -> int:
    """Return how many model processes suit a scan on a CPU: one a core, if memory allows it."""
    free = free_memory()
    by_memory = pictures if free is None else free // _MODEL_MEMORY
    return max(1, min(pictures, cores(), by_memory))


def _widen(pipe: Any) -> None:
    """Let a pipe hold more: not on every system, nor beyond a user's share of all pipes."""
    try:
        from fcntl import F_SETPIPE_SZ, fcntl
    except ImportError:
        return
    with suppress(OSError):
        fcntl(pipe, F_SETPIPE_SZ, _PIPE)


class Child:
    """A process that answers one message after another; started anew after it died."""

    deed: str  # what it does with a picture, in the past
    remedy: str  # what to do about a picture that it died of
    trusted = False  # whether its answers can be anything

    def __init__(self, program: str, opening: Any = None, seconds: float | None = None) -> None:
        """Start Python, with a first message if it wants one; answers may be limited in time."""
        self._program, self._opening, self._seconds = program, opening, seconds
        self._in_use = threading.Lock()
        self._closed = self._expired = False
        self._start()

    def _start(self) -> None:
        # From our own folder, and not from the current one (-P): that one may hold anything.
        places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
        self._greeting: Any = None
        self._greeted = False
        self._process: Any = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-c", self._program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libtiff and others print whatever they dislike
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, places))},
            start_new_session=True,  # Ctrl-C at the terminal is for the scan alone
        )
        if self._closed:  # meanwhile, by a thread that knew only the process before
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            _widen(stream)
        if self._opening is not None:
            with suppress(OSError):  # it is dead already: whoever reads from it will say so
                send(self._process.stdin, self._opening)  # type: ignore[arg-type]

    def greeting(self) -> Any:
        """Return the first message of the process, which starts anew if it died; or raise it."""
        if self._closed:
            raise UsageError("the scan has ended")
        if self._greeted and self._process.poll() is not None:
            self._reap()
            self._start()
        if not self._greeted:
            try:
                self._greeting = self._answer(self._seconds and _START)
            except Exception:  # of its end
                ending = _ending(self._reap())
                what = f"the process in which pictures are {self.deed} does not start ({ending})"
                remedy = "Free some memory, or try --jobs 0, which does all in this process."
                raise UsageError(what, remedy=remedy) from None
            self._greeted = True
        if isinstance(self._greeting, ImlctlError):
            raise self._greeting
        return self._greeting

    def ask(self, message: Any, path: str) -> Any:
        """Return the answer to a message about a picture, or raise it; `Failed` if it died."""
        with self._in_use:
            self.greeting()
            try:
                answer = self._answer(self._seconds, message)
            except Exception:  # what a process answers that was taken over can be anything
                return Failed(self._reason(path, self._reap()))
        if isinstance(answer, ImlctlError):
            raise answer
        return answer

    def _answer(self, seconds: float | None, message: Any = None) -> Any:
        """Send a message, if there is one, and read one; in time, or the process is ended."""
        self._expired = False
        alarm = threading.Timer(seconds or threading.TIMEOUT_MAX, self._expire)
        alarm.daemon = True
        alarm.start()
        try:
            if message is not None:
                send(self._process.stdin, message)
            return receive(self._process.stdout, trusted=self.trusted)
        finally:
            alarm.cancel()

    def _expire(self) -> None:
        self._expired = True
        self._process.kill()

    def _reason(self, path: str, code: int) -> InputError:
        if self._expired:
            what = f"decoding it took longer than {self._seconds:g} s"
            remedy = "Raise --timeout if the file is good and its disk is slow."
            return InputError(what, source=path, remedy=remedy)
        end = f"crashed ({_ending(code)})"
        if self.trusted and _ending(code) == "SIGKILL":  # not by us for a senseless answer
            end = "was killed; probably memory ran out"
        what = f"the process that {self.deed} it {end}"
        return InputError(what, source=path, remedy=self.remedy)

    def _reap(self) -> int:
        """End the process, whatever it does, and return its status."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                stream.close()
        return int(self._process.wait())

    def close(self) -> None:
        """End the process for good; another thread may be waiting for its answer."""
        self._closed = True
        self._process.kill()
        with self._in_use:
            self._reap()


def _ending(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-code).name if code < 0 else f"status {code}"
    return f"signal {-code}"


class Decoder(Child):
    """One process that decodes."""

    deed = "decoded"
    remedy = "The file may have been made to crash programs, or memory ran out."

    def __init__(self, options: Options) -> None:
        memory = 2**30 + 32 * options.settings.max_pixels  # the file, its samples, and conversions
        super().__init__(f"{_DECODER}({memory})", seconds=options.timeout)

    def __call__(self, request: Request) -> Decoded | Unchanged | Failed:
        """Have a file read and decoded; one that fails is hashed at least. Raises as `ask`."""
        reply: Decoded | Unchanged | Failed = self.ask(request, request.path)
        if isinstance(reply, Failed) and reply.size is None and request.data is None:
            known = self.ask(replace(request, done={}, hash_only=True), request.path)
            return replace(reply, sha256=known.sha256, size=known.size)
        return reply


class ModelProcess(Child):
    """One process that holds a model, on a CPU with one thread; greets with its provenance."""

    deed, trusted = "analysed", True
    remedy = "Use fewer processes, such as --jobs 1, or smaller tiles, such as --tile 512."

    def __init__(self, options: Options) -> None:
        super().__init__(f"{_MODEL}()", opening=options)

    def __call__(self, decoded: Decoded) -> Finished | Failed:
        """Have a picture analysed. Raises as `ask`."""
        answer: Finished | Failed = self.ask(decoded, decoded.photo.source)
        if isinstance(answer, Failed):
            return replace(answer, sha256=decoded.photo.sha256)
        return answer


def decode_file(request: Request) -> Decoded | Unchanged | Failed:
    """Read and decode a file, unless all is done; or hash it. Raises what concerns all files."""
    began = time.perf_counter()
    if request.hash_only:
        return with_hash(Failed(InputError("it is not decoded", source=request.path)), request)
    try:
        if request.done and all_match(request.done):
            return Unchanged()
        if request.data is None:
            photo = read(request.path, max_pixels=request.max_pixels)
        else:
            photo = decode(request.data, source=request.path, max_pixels=request.max_pixels)
    except Exception as error:
        return with_hash(failed(error, request.path), request)
    return Decoded(photo, time.perf_counter() - began)


def with_hash(failure: Failed, request: Request) -> Failed:
    """Add the hash and the size of a file that can be read."""
    if request.data is not None:
        digest = hashlib.sha256(request.data).hexdigest()
        return replace(failure, sha256=digest, size=len(request.data))
    try:
        size = Path(request.path).stat().st_size
        return replace(failure, sha256=sha256_of(request.path), size=size)
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return failure


def serve_decoder(memory: int) -> None:
    """Decode what is asked for until there is no more; `memory` is the most bytes it may take."""
    channel = _channel()
    _limit_memory(memory)
    send(channel, None)
    _serve(channel, decode_file)


def serve_model() -> None:
    """Analyse decoded pictures, after options that are answered by the provenance or an error."""
    channel = _channel()
    options = receive(sys.stdin.buffer, trusted=True)
    try:
        from imlctl.process import keep_freed_blocks
        from imlctl.scan.analysis import Analysis

        keep_freed_blocks()
        # The kernel is to end this process rather than the scan where memory runs out.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500", "ascii")
        analysis = Analysis(options)
    except ImlctlError as error:
        send(channel, bare(error))
        return
    send(channel, analysis.provenance)
    _serve(channel, analysis)


def _serve(channel: IO[bytes], answer: Callable[[Any], Any]) -> None:
    while True:
        try:
            message = receive(sys.stdin.buffer, trusted=True)
        except EOFError:
            return
        try:
            send(channel, answer(message))
        except ImlctlError as error:
            send(channel, bare(error))
        del message  # or its pixels would stay until the next picture is there


def _channel() -> IO[bytes]:
    """Return the standard output, and let nothing else write there: libraries print."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return channel


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    for kind, limit in ((resource.RLIMIT_AS, size), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        with suppress(OSError, ValueError):  # macOS does not limit the address space
            resource.setrlimit(kind, (soft, hard))
