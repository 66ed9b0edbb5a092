"""Analyse all pictures of a scan; a bad one never stops the others."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from imlctl import atomic
from imlctl.scan.analysis import key_of, record_of_failure
from imlctl.scan.messages import Failed, Finished, Request, Unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from imlctl.errors import InputError
    from imlctl.scan.analysis import Options
    from imlctl.scan.ledger import Key, Ledger
    from imlctl.scan.naming import Job


class Engine(Protocol):
    """Decodes and analyses pictures, wherever that is done."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Provenance of all results, see `Localizer.provenance`."""

    def run(
        self, requests: Iterable[tuple[Job, Request]], stopped: Callable[[], bool]
    ) -> Iterator[tuple[Job, Finished | Unchanged | Failed]]:
        """Answer requests until told to stop; what was begun is finished.

        Raises:
            ImlctlError: It concerns all pictures: wrong settings, or no process can be started.
        """


@dataclass(frozen=True, slots=True)
class Outcome:
    """End of one picture.

    Attributes:
        job: The picture and its outputs.
        record: What is kept of it, whether it went well or not.
        error: What went wrong, if anything; then nothing was written.
        trace: The traceback of an error that is a bug of imlctl's, otherwise "".
        resumed: An earlier scan had done it.
    """

    job: Job
    record: Mapping[str, Any]
    error: InputError | None = None
    trace: str = ""
    resumed: bool = False


def scan(
    jobs: Iterable[Job],
    engine: Engine,
    options: Options,
    *,
    ledger: Ledger | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Outcome]:
    """Analyse each picture, write its outputs, and yield how it went, in the order of the engine.

    Everything is written from the calling thread, whatever decodes and analyses beside it.

    Args:
        jobs: From `naming.plan`.
        engine: What decodes and analyses.
        options: What is done with each picture.
        ledger: Where to note what is done.
        resume: Skip what the ledger proves to be done with the same weights and settings.
        overwrite: Whether outputs that exist are replaced.
        stdin: Where the bytes of a picture without a path come from.
        stdout: Where an output without a path goes.
        stopped: Asked before each picture is taken; if true, only those begun are finished.

    Raises:
        ImlctlError: Of any kind but `InputError`: an output cannot be written, or weights or
            settings are wrong, and the remaining pictures would fail as well.
    """
    key, known = key_of(engine.provenance, options), ledger if resume else None
    writer = _Writer(engine, key, ledger, overwrite or resume, stdout)
    requests = ((job, _request(job, options, known, key, stdin)) for job in jobs)
    for job, answer in engine.run(requests, stopped):
        yield writer(job, answer)
        del answer  # or its outputs would stay until the next ones are there


def _request(
    job: Job, options: Options, known: Ledger | None, key: Key, stdin: BinaryIO | None
) -> Request:
    limit = options.settings.max_pixels
    if job.picture.path is not None:
        done = {} if known is None else known.done(job, key)
        return Request(str(job.picture), limit, done)
    if stdin is None:
        raise ValueError("a job reads the standard input, which was not given")
    return Request(str(job.picture), limit, data=stdin.read())


@dataclass(slots=True)
class _Writer:
    """Writes the outputs of one picture after the other, and notes them in the ledger."""

    engine: Engine
    key: Key
    ledger: Ledger | None
    overwrite: bool
    stdout: BinaryIO | None

    def __call__(self, job: Job, answer: Finished | Unchanged | Failed) -> Outcome:
        if isinstance(answer, Unchanged):
            if self.ledger is None:
                raise ValueError("a picture is done before, which only a ledger can tell")
            return Outcome(job, self.ledger.record(job), resumed=True)
        if isinstance(answer, Failed):
            self._remove_stale(job)
            record = record_of_failure(job, answer, self.engine.provenance)
            outcome = Outcome(job, record, answer.error, answer.trace)
            done = Finished({}, record)
        else:
            done, outcome = answer, Outcome(job, answer.record)
        outputs = [(job.outputs[kind], data) for kind, data in done.outputs.items()]
        hashes = {path: digest for path, digest in self._write(outputs) if path}
        if self.ledger:
            self.ledger.add(job, self.key, done.record, hashes, done.preview)
        return outcome

    def _write(self, outputs: list[tuple[Path | None, bytes]]) -> Iterator[tuple[Path | None, str]]:
        written: list[Path] = []
        try:
            for path, data in outputs:
                if path is None:
                    self._print(data)
                else:
                    fresh = not path.exists()
                    tag = self.ledger.tag if self.ledger else ""
                    atomic.write(path, data, overwrite=self.overwrite, tag=tag)
                    written += [path] if fresh else []
                yield path, hashlib.sha256(data).hexdigest()
        except BaseException:
            for path in written:  # a set of outputs is whole, or none of it is there
                with suppress(OSError):
                    path.unlink()
            raise

    def _print(self, data: bytes) -> None:
        if self.stdout is None:
            raise ValueError("a job writes to the standard output, which was not given")
        try:
            self.stdout.write(data)
            self.stdout.flush()
        except OSError as error:
            raise atomic.output_error(error, "standard output") from error

    def _remove_stale(self, job: Job) -> None:
        """Remove what was written of an earlier content: a picture that fails has no mask."""
        for path in job.outputs.values() if self.overwrite else ():
            if path is not None:
                with suppress(FileNotFoundError):
                    path.unlink()
