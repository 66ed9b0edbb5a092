"""`imlctl bench --scan FOLDER`: a scan's pictures per second against the bare model's."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from imlctl.cli.bench_run import head, watched
from imlctl.cli.bench_show import Measured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from imlctl.bench.timing import Timer
    from imlctl.cli.bench_run import Common
    from imlctl.errors import InputError
    from imlctl.pipeline import Localizer
    from imlctl.scan.discover import Discovery

_MOST = 24  # pictures


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds for all pictures.

    Attributes:
        decode: To read, decode and prepare them here, one after another.
        model: The model alone.
        scan: From files to masks and the ledger.
    """

    decode: float
    model: float
    scan: float


@dataclass(frozen=True, slots=True)
class Compared:
    """What was timed, and of how many pictures."""

    rounds: list[Round]
    pictures: int
    of: int
    workers: int


def share_of(rounds: Sequence[Round]) -> float:
    """The scan's pictures per second over the model's: the median of the rounds."""
    return median(each.model / each.scan for each in rounds)


def throughput(common: Common, folder: Path) -> Measured:
    """Time the bare model and a scan over the same pictures, in turns.

    Args:
        common: What to run.
        folder: Of pictures; see `rounds_of`.
    """
    from imlctl.bench.bars import LEAST_SCAN_SHARE
    from imlctl.bench.environment import observe

    localizer = common.localizer()
    environment = observe(localizer.device)
    compared = rounds_of(localizer, folder, common.runs)
    share = share_of(compared.rounds)
    document = {
        **head("scan", localizer),
        "environment": asdict(environment) | {"busy": environment.busy},
        **asdict(compared),
        "share": share,
        "least": LEAST_SCAN_SHARE,
        "passed": share >= LEAST_SCAN_SHARE,
    }
    return Measured(document)


def rounds_of(localizer: Localizer, folder: Path, runs: int) -> Compared:
    """Time both, in turns.

    Args:
        localizer: With its model in memory.
        folder: Of pictures; a few are taken, evenly spread.
        runs: Rounds.

    Raises:
        InputError: A picture cannot be analysed.
    """
    from imlctl.bench.timing import WallTimer, waits_for
    from imlctl.scan.ahead import suitable_workers

    found, of = _spread(folder)
    timed = WallTimer(waits_for(localizer.device))
    localizer.localize(str(found.pictures[0]))  # a warm-up
    count = len(found.pictures)
    workers = suitable_workers(count)
    rounds = [_round(localizer, found, workers, timed) for _ in watched(range(runs), runs)]
    return Compared(rounds, count, of, workers)


def _spread(folder: Path) -> tuple[Discovery, int]:
    """A few pictures of a folder, evenly spread; and how many there are."""
    from imlctl.scan.discover import Discovery, discover

    pictures = discover([str(folder)], recursive=True).pictures
    count = min(_MOST, len(pictures))
    chosen = tuple(pictures[i * len(pictures) // count] for i in range(count))
    return Discovery(chosen, many=True), len(pictures)


def _round(localizer: Localizer, found: Discovery, workers: int, timed: Timer) -> Round:
    from imlctl.scan.ahead import DecodeAhead
    from imlctl.scan.place import Place
    from imlctl.scan.run import scan
    from imlctl.scan.work import PhotoWork

    work = PhotoWork(localizer)
    with tempfile.TemporaryDirectory(prefix="imlctl-bench-") as out, ExitStack() as stack:
        place = Place(out, many=True)
        jobs = place.plan(found, [], stack)
        # As in `localize`, decoders start first; the bare model gives them the time to.
        ahead = stack.enter_context(DecodeAhead(workers)) if workers else None
        decode, model = _bare(localizer, found, timed)
        ledger = place.begin(jobs, stack)
        outcomes = scan(jobs, work, ahead=ahead, ledger=ledger)
        failed: list[InputError] = []

        def run() -> None:
            failed.extend(o.error for o in outcomes if o.error is not None)

        seconds = timed(run)
    if failed:
        raise failed[0]
    return Round(decode, model, seconds)


def _bare(localizer: Localizer, found: Discovery, timed: Timer) -> tuple[float, float]:
    """Seconds to decode and prepare all pictures, and to run the model over them."""
    from imlctl.image.decode import read
    from imlctl.image.prepare import prepare

    def load(path: Path) -> tuple[Tensor, bytes]:
        photo = read(path)
        image, _ = prepare(photo)
        return image, bytes.fromhex(photo.sha256)

    decode = model = 0.0
    for picture in found.pictures:
        ready: list[tuple[Tensor, bytes]] = []
        decode += timed(lambda path=Path(str(picture)), ready=ready: ready.append(load(path)))  # type: ignore[misc]
        model += timed(partial(localizer.predict, *ready[0]))
    return decode, model
