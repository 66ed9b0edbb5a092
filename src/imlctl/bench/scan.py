"""`--scan`: the pictures per second of a scan, against those of the bare model on every core."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from imlctl.bench.accuracy import Track, provenance_of
from imlctl.bench.machine import BUSY_SHARE, Timer, observe, timer_for
from imlctl.image.decode import read
from imlctl.image.prepare import prepare
from imlctl.scan.analysis import Options
from imlctl.scan.find import Discovery, discover
from imlctl.scan.folder import Outputs
from imlctl.scan.naming import Kind
from imlctl.scan.pool import start_engine
from imlctl.scan.processes import suitable_jobs
from imlctl.scan.run import scan

if TYPE_CHECKING:
    from imlctl.errors import InputError
    from imlctl.pipeline import Localizer

_MOST = 24  # pictures


def throughput(localizer: Localizer, folder: Path, runs: int, track: Track) -> dict[str, Any]:
    """Time the bare model and a scan over a few pictures, evenly spread, in turns.

    On a CPU the model runs on one thread, and what a scan could reach at best is its rate times the
    cores; on a GPU it is the model's own rate. InputError where a picture cannot be analysed.
    """
    machine = observe(localizer.device)
    found, of = _spread(folder)
    timed = timer_for(localizer.device)
    localizer.localize(str(found.pictures[0]))  # a warm-up
    rounds = [_round(localizer, found, timed) for _ in track(range(runs), runs)]
    at_once = machine["cores"] if localizer.device.type == "cpu" else 1
    return {
        **provenance_of(localizer),
        "machine": machine,
        "busy": (machine["others"] or 0) > BUSY_SHARE,
        "rounds": rounds,
        "pictures": len(found.pictures),
        "of": of,
        "jobs": suitable_jobs(len(found.pictures)) if localizer.device.type == "cpu" else 1,
        "at_once": at_once,
        "share": median(each["model"] / at_once / each["scan"] for each in rounds),
    }


def _spread(folder: Path) -> tuple[Discovery, int]:
    """A few pictures of a folder, evenly spread; and how many there are."""
    pictures = discover([str(folder)], recursive=True).pictures
    count = min(_MOST, len(pictures))
    chosen = tuple(pictures[i * len(pictures) // count] for i in range(count))
    return Discovery(chosen, many=True), len(pictures)


def _round(localizer: Localizer, found: Discovery, timed: Timer) -> dict[str, float]:
    """Seconds of all pictures to decode, of the model alone, and of a scan from files to ledger."""
    options = Options(localizer.settings, (Kind.MASK,), threads=1)
    seconds = _bare(localizer, found, timed)
    with tempfile.TemporaryDirectory(prefix="imlctl-bench-") as out, ExitStack() as stack:
        outputs = Outputs(out, many=True)
        jobs = outputs.plan(found, [], stack)
        engine = start_engine(options, len(jobs), stack)
        ledger = outputs.begin(jobs, found, ["imlctl", "bench", "--scan"], stack)
        outcomes = scan(jobs, engine, options, ledger=ledger)
        failed: list[InputError] = []
        seconds["scan"] = timed(
            lambda: failed.extend(o.error for o in outcomes if o.error is not None)
        )
    if failed:
        raise failed[0]
    return seconds


def _bare(localizer: Localizer, found: Discovery, timed: Timer) -> dict[str, float]:
    """Seconds to decode and prepare all pictures, and to run the model over them."""
    seconds = {"decode": 0.0, "model": 0.0}
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if localizer.device.type == "cpu" else threads)
    try:
        for picture in found.pictures:
            ready: list[Any] = []

            def load(path: Path, ready: list[Any] = ready) -> None:
                photo = read(path)
                ready += [prepare(photo), bytes.fromhex(photo.sha256)]

            seconds["decode"] += timed(partial(load, Path(str(picture))))
            seconds["model"] += timed(partial(localizer.predict, *ready))
    finally:
        torch.set_num_threads(threads)
    return seconds
