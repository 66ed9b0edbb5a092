"""Analyse all pictures of a scan; a bad one never stops the others."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, Protocol, TypeVar

from imlctl import atomic
from imlctl.scan.analyse import analyse
from imlctl.scan.behind import AtOnce, Behind
from imlctl.scan.failures import Failed, failed
from imlctl.scan.worker import Request, Same, answer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from imlctl.errors import InputError
    from imlctl.report.preview import Preview
    from imlctl.scan.ledger import Key, Ledger
    from imlctl.scan.naming import Job, Kind
    from imlctl.scan.worker import Decoded, Reply

Result = TypeVar("Result")


class Work(Protocol[Result]):
    """What is done with each picture."""

    max_pixels: int
    key: Key

    def localize(self, source: Decoded | bytes) -> Result:
        """Analyse a decoded picture, or the bytes of the standard input."""

    def render(self, result: Result, kind: Kind) -> bytes:
        """Encode one output of a result."""

    def record(self, result: Result) -> dict[str, Any]:
        """Return what is kept of a result, as `Record.to_dict` gives it."""

    def preview(self, result: Result) -> Preview | None:
        """Return what a report shows of a result, if one is wanted."""

    def failure(self, job: Job, error: InputError) -> dict[str, Any]:
        """Return what is kept of a picture that has no result."""


class Ahead(Protocol):
    """What has pictures ready before the model asks for them."""

    def run(
        self, requests: Iterable[tuple[Job, Request | None]]
    ) -> Iterator[tuple[Job, Reply | Finished | None]]:
        """Answer requests as they get ready; None is passed on."""


@dataclass(frozen=True, slots=True)
class Finished:
    """All of a picture that is left to write and to note.

    Attributes:
        outputs: Each file that is wanted, whole.
        record: As `Work.record` gives it.
        preview: What a report shows of it, if that is wanted.
    """

    outputs: Mapping[Kind, bytes]
    record: Mapping[str, Any]
    preview: Preview | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one picture went.

    Attributes:
        job: The picture and its outputs.
        record: What is kept of it, whether it went well or not.
        error: What went wrong, if anything; then nothing was written.
        trace: The traceback of an error that is a bug of ours, otherwise "".
        resumed: An earlier scan had done it.
    """

    job: Job
    record: Mapping[str, Any]
    error: InputError | None = None
    trace: str = ""
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class _Analysed(Generic[Result]):
    """What the model leaves to the writer."""

    job: Job
    result: Result | Finished | Failed | Same


def scan(
    jobs: Iterable[Job],
    work: Work[Result],
    *,
    ahead: Ahead | None = None,
    ledger: Ledger | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Outcome]:
    """Analyse each picture, write its outputs, and say how it went.

    The model runs in the calling thread; see `analyse`. With `ahead`, pictures are decoded before
    it in other processes, and rendered and written behind it in a thread; the outputs are the same.

    Args:
        jobs: From `naming.plan`.
        work: What is done with each picture.
        ahead: Decoders, or what does all but the writing elsewhere; without them everything
            happens here, one step after another.
        ledger: Where to note what is done.
        resume: Skip what the ledger proves to be done with the same weights and settings.
        overwrite: Whether outputs that exist are replaced.
        stdin: Where the bytes of a picture without a path come from.
        stdout: Where an output without a path goes.
        stopped: Asked before each picture is taken; if true, those begun are finished, and
            that is all.

    Yields:
        One outcome per picture, in the order of the jobs, or in that of `ahead` if that is another.

    Raises:
        ImlctlError: Of any kind but `InputError`: an output cannot be written, or weights or
            settings are wrong, and the remaining pictures would fail as well.
    """
    finish = _Finisher(work, ledger, overwrite or resume, stdout)
    requests = ((job, _request(job, work, ledger if resume else None)) for job in jobs)
    answers = ahead.run(requests) if ahead else _answers(requests)
    with AtOnce(finish) if ahead is None else Behind(finish) as writer:
        for job, result in analyse(work, _pictures(answers, stdin, stopped)):
            yield from writer.put(_Analysed(job, result))
            del result  # or its pixels would stay until the next one is there
        yield from writer.rest()


def _answers(
    requests: Iterable[tuple[Job, Request | None]],
) -> Iterator[tuple[Job, Reply | None]]:
    for job, request in requests:
        yield job, None if request is None else answer(request)


def _request(job: Job, work: Work[Any], ledger: Ledger | None) -> Request | None:
    if job.picture.path is None:
        return None
    done = {} if ledger is None else ledger.done(job, work.key)
    return Request(str(job.picture.path), work.max_pixels, done)


def _pictures(
    answers: Iterable[tuple[Job, Reply | Finished | None]],
    stdin: BinaryIO | None,
    stopped: Callable[[], bool],
) -> Iterator[tuple[Job, str, Reply | Finished | Callable[[], bytes]]]:
    """Name each picture and what became of it so far, or what reads it, until told to stop."""
    for job, reply in answers:
        if stopped():
            return
        if reply is not None:
            yield job, str(job.picture), reply
        elif stdin is not None:
            yield job, str(job.picture), stdin.read
        else:
            raise ValueError("a job reads the standard input, which was not given")
        del reply  # or its pixels would stay until the next picture is decoded


def finish(
    work: Work[Result], result: Result, kinds: Collection[Kind], name: str, *, preview: bool
) -> Finished | Failed:
    """Encode all that is wanted of a result, or nothing if any of it fails.

    Args:
        work: What is done with each picture.
        result: Of the model.
        kinds: The files that are wanted.
        name: Of the picture, for errors that do not know it.
        preview: Whether the preview is wanted as well.

    Raises:
        ImlctlError: Of any kind but `InputError`: other pictures would fail as well.
    """
    try:
        return Finished(
            {kind: work.render(result, kind) for kind in kinds},
            work.record(result),
            work.preview(result) if preview else None,
        )
    except Exception as error:
        return failed(error, name)


@dataclass(frozen=True, slots=True)
class _Finisher(Generic[Result]):
    """Renders, writes and notes one picture."""

    work: Work[Result]
    ledger: Ledger | None
    overwrite: bool
    stdout: BinaryIO | None

    def __call__(self, analysed: _Analysed[Result]) -> Outcome:
        job, result = analysed.job, analysed.result
        if isinstance(result, Same) and self.ledger:
            return Outcome(job, self.ledger.record(job), resumed=True)
        # Everything but writing comes first, so that a failure leaves none of the outputs.
        if not isinstance(result, (Finished, Failed, Same)):
            kept = self.ledger is not None
            result = finish(self.work, result, job.outputs, str(job.picture), preview=kept)
        if isinstance(result, Finished):
            done, outcome = result, Outcome(job, result.record)
        elif isinstance(result, Failed):
            done = Finished({}, self.work.failure(job, result.error))
            outcome = Outcome(job, done.record, result.error, result.trace)
            self._remove_stale(job)
        else:
            raise ValueError("a picture is done before, which only a ledger can tell")
        hashes = {p: digest for p, digest in map(self._write, _placed(job, done.outputs)) if p}
        if self.ledger:
            self.ledger.add(job, self.work.key, done.record, hashes, done.preview)
        return outcome

    def _write(self, output: tuple[Path | None, bytes]) -> tuple[Path | None, str]:
        path, data = output
        if path is not None:
            tag = self.ledger.tag if self.ledger else ""
            atomic.write(path, data, overwrite=self.overwrite, tag=tag)
        elif self.stdout is None:
            raise ValueError("a job writes to the standard output, which was not given")
        else:
            try:
                self.stdout.write(data)
                self.stdout.flush()
            except OSError as error:
                raise atomic.output_error(error, "standard output") from error
        return path, hashlib.sha256(data).hexdigest()

    def _remove_stale(self, job: Job) -> None:
        """Remove what was written of an earlier content: a picture that fails has no mask."""
        for path in job.outputs.values() if self.overwrite else ():
            if path is not None:
                with suppress(FileNotFoundError):
                    path.unlink()


def _placed(job: Job, encoded: Mapping[Kind, bytes]) -> list[tuple[Path | None, bytes]]:
    return [(job.outputs[kind], data) for kind, data in encoded.items()]
