"""From names on the command line to files written, one picture at a time.

The package can be called: `imlctl.scan("photos/")` yields a record for each picture, and writes
nothing. `imlctl localize -o` keeps outputs and a ledger.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import Any


def _records(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    recursive: bool = True,
    jobs: int | None = None,
    timeout: float = 120.0,
    **settings: Any,
) -> Iterator[dict[str, Any]]:
    """Analyse files and folders, and yield the record of each picture as it is finished.

    Pictures that cannot be read have a record, too, with the verdict "failed" and the reason; one
    that is still decoded after `timeout` seconds has failed. `jobs` are processes, one thread each
    on a CPU: None for as many as suit the machine, 0 for none but this one. `settings` are as for
    `imlctl.load`. An `imlctl.errors.ImlctlError` is raised where a setting is not known, an input
    does not exist, or the model, its weights or the device cannot be had.
    """
    from imlctl.scan.analysis import Options
    from imlctl.scan.find import discover
    from imlctl.scan.naming import plan_outputs
    from imlctl.scan.pool import start_engine
    from imlctl.scan.run import scan
    from imlctl.settings import Settings

    several = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    named = [os.fspath(each) for each in several]
    made = Settings.of(**settings)  # wrong ones are refused here, and not with the first picture

    def run() -> Iterator[dict[str, Any]]:
        found = discover(named, recursive=recursive)
        for problem in found.problems:
            raise problem
        planned = plan_outputs(found.pictures, None, (), many=found.many)
        options = Options(made, threads=1 if found.many else None, timeout=timeout)
        with ExitStack() as stack:
            engine = start_engine(options, len(planned), stack, jobs=jobs)
            for outcome in scan(planned, engine, options):
                yield dict(outcome.record)

    return run()


class _Callable(ModuleType):
    __call__ = staticmethod(_records)


sys.modules[__name__].__class__ = _Callable
