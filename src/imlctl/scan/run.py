"""Analyse pictures one after another; a bad one never stops the others."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Generic, TypeVar

from imlctl.errors import ImlctlError, InputError
from imlctl.scan import atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from imlctl.scan.naming import Job, Kind

Result = TypeVar("Result")
Summary = TypeVar("Summary")

_NO_MEMORY = ("out of memory", "allocate memory", "insufficient memory")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Summary]):
    """How one picture went.

    Attributes:
        job: The picture and its outputs.
        seconds: Wall time, writing included.
        summary: What was found, if it went well.
        error: What went wrong, if not; then nothing was written.
        trace: The traceback of an error that is a bug of ours, otherwise "".
    """

    job: Job
    seconds: float
    summary: Summary | None = None
    error: InputError | None = None
    trace: str = ""

    def __post_init__(self) -> None:
        if (self.summary is None) == (self.error is None):
            raise ValueError("an outcome has either a summary or an error")


def scan(
    jobs: Iterable[Job],
    localize: Callable[[Path | bytes], Result],
    render: Callable[[Result, Kind], bytes],
    summarize: Callable[[Result], Summary],
    *,
    overwrite: bool = False,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
) -> Iterator[Outcome[Summary]]:
    """Analyse each picture, write its outputs, and say how it went.

    No result is kept once its outputs are written: what is wanted of it goes into the summary.

    Args:
        jobs: From `naming.plan`.
        localize: Analyses a file, or the bytes of the standard input.
        render: Encodes one output of a result.
        summarize: Takes from a result what the caller reports; never None.
        overwrite: Whether outputs that exist are replaced.
        stdin: Where the bytes of a picture without a path come from.
        stdout: Where an output without a path goes.

    Yields:
        One outcome per picture, in the order of the jobs.

    Raises:
        ImlctlError: Of any kind but `InputError`: an output cannot be written, or weights or
            settings are wrong, and the remaining pictures would fail as well.
    """
    for job in jobs:
        began = time.perf_counter()
        error: InputError | None = None
        summary, trace = None, ""
        try:
            encoded, summary = _analyse(job, localize, render, summarize, stdin)
        except InputError as caught:
            error = _settled(caught, str(job.picture))
        except ImlctlError:
            raise
        except Exception as caught:
            error, trace = _explained(caught, str(job.picture))
        else:
            _write(encoded, overwrite=overwrite, stdout=stdout)
            del encoded
        yield Outcome(job, time.perf_counter() - began, summary, error, trace)


def _analyse(
    job: Job,
    localize: Callable[[Path | bytes], Result],
    render: Callable[[Result, Kind], bytes],
    summarize: Callable[[Result], Summary],
    stdin: BinaryIO | None,
) -> tuple[list[tuple[Path | None, bytes]], Summary]:
    """Do everything for a picture but write, so that a failure leaves none of its outputs."""
    result = localize(_source(job, stdin))
    encoded = [(path, render(result, kind)) for kind, path in job.outputs.items()]
    return encoded, summarize(result)


def _source(job: Job, stdin: BinaryIO | None) -> Path | bytes:
    if job.picture.path is not None:
        return job.picture.path
    if stdin is None:
        raise ValueError("a job reads the standard input, which was not given")
    return stdin.read()


def _write(
    encoded: Iterable[tuple[Path | None, bytes]], *, overwrite: bool, stdout: BinaryIO | None
) -> None:
    for path, data in encoded:
        if path is not None:
            atomic.write(path, data, overwrite=overwrite)
        elif stdout is None:
            raise ValueError("a job writes to the standard output, which was not given")
        else:
            try:
                stdout.write(data)
                stdout.flush()
            except OSError as error:
                raise atomic.output_error(error, "standard output") from error


def _explained(error: Exception, source: str) -> tuple[InputError, str]:
    """Say in plain words what an exception means, and give its traceback if it is a bug of ours."""
    text = " ".join(str(error).split())
    # torch raises a class of its own, or only says so; it is not imported here to find out.
    no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if no_memory or any(sign in text.lower() for sign in _NO_MEMORY):
        what = "there is not enough memory to analyse it"
        remedy = "Analyse it in smaller tiles, such as --tile 512."
        return InputError(what, source=source, remedy=remedy), ""
    if isinstance(error, OSError):
        what = f"it cannot be read ({error.strerror or text})"
        return InputError(what, source=source, remedy="Check the file and its disk."), ""
    what = f"internal error, {type(error).__name__}: {text}"
    remedy = "This is a bug in imlctl; please report it together with what -v prints."
    return InputError(what, source=source, remedy=remedy), "".join(
        traceback.format_exception(error)
    )


def _settled(error: InputError, source: str) -> InputError:
    """Name the picture if nobody has, and let go of the traceback, whose frames hold its pixels."""
    error.source = error.source or source
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
