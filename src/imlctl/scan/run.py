"""Analyse all pictures of a scan; a bad one never stops the others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from imlctl import atomic
from imlctl.scan.analysis import key_of, record_of_failure
from imlctl.scan.messages import Failed, Finished, Request, Unchanged

if TYPE_CHECKING:
    from imlctl.errors import InputError
    from imlctl.scan.analysis import Options
    from imlctl.scan.ledger import Ledger
    from imlctl.scan.naming import Job
    from imlctl.scan.pool import Engine


@dataclass(frozen=True, slots=True)
class Outcome:
    """End of one picture."""

    job: Job  # the picture and its outputs
    record: Mapping[str, Any]  # what is kept of it, whether it went well or not
    error: InputError | None = None  # what went wrong, if anything; then nothing was written
    trace: str = ""  # the traceback of an error that is a bug of imlctl's, otherwise ""
    resumed: bool = False  # an earlier scan had done it


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

    Everything is written from the calling thread, and noted in the ledger; with `resume`, what it
    proves to be done with the same weights and settings is skipped. The streams are for a picture
    and an output without a path. Once `stopped` says so, only those that were begun are finished.
    An ImlctlError that is raised concerns all pictures: the remaining ones would fail as well.
    """
    key = key_of(engine.provenance, options)

    def request(job: Job) -> Request:
        limit = options.settings.max_pixels
        if job.picture.path is None:
            return Request(str(job.picture), limit, data=stdin.read() if stdin else b"")
        done = ledger.done(job, key) if ledger and resume else {}
        return Request(str(job.picture), limit, done)

    for job, answer in engine.run(((job, request(job)) for job in jobs), stopped):
        if isinstance(answer, Unchanged):
            assert ledger  # noqa: S101 - which alone can tell
            yield Outcome(job, ledger.record(job), resumed=True)
            continue
        if isinstance(answer, Failed):
            if overwrite or resume:
                for path in job.files:
                    path.unlink(missing_ok=True)  # of an earlier content
            record = record_of_failure(job, answer, engine.provenance)
            outcome = Outcome(job, record, answer.error, answer.trace)
            done = Finished({}, record)
        else:
            done, outcome = answer, Outcome(job, answer.record)
        outputs = [(job.outputs[kind], data) for kind, data in done.outputs.items()]
        hashes = dict(_written(outputs, ledger.tag if ledger else "", overwrite or resume, stdout))
        if ledger:
            ledger.add(job, key, done.record, hashes, done.preview)
        yield outcome
        del answer, done, outputs  # or they would stay until the next ones are there


def _written(
    outputs: list[tuple[Path | None, bytes]], tag: str, overwrite: bool, stdout: BinaryIO | None
) -> Iterator[tuple[Path, str]]:
    """Write the outputs of a picture, all or none, and yield the hashes of those with a path."""
    new: list[Path] = []
    try:
        for path, data in outputs:
            if path is not None:
                fresh = not path.exists()
                atomic.write(path, data, overwrite=overwrite, tag=tag)
                new += [path] if fresh else []
                yield path, hashlib.sha256(data).hexdigest()
            elif stdout:
                try:
                    stdout.write(data)
                    stdout.flush()
                except OSError as error:
                    raise atomic.output_error(error, "standard output") from error
    except BaseException:
        for path in new:
            with suppress(OSError):
                path.unlink()
        raise
