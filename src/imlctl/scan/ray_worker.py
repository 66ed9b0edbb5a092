"""What runs on the machines of a Ray cluster: workers that hold the model, and their foreman.

Ray finds these classes by name, so the same imlctl must be installed on every machine.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imlctl.errors import ConfigError, ImlctlError, InputError
from imlctl.scan.ahead import DecodeAhead, Limits
from imlctl.scan.analyse import analyse
from imlctl.scan.behind import AtOnce, Behind
from imlctl.scan.failures import Failed
from imlctl.scan.run import Finished, finish
from imlctl.scan.worker import Same
from imlctl.scan.worker import answer as decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from imlctl.pipeline import Settings
    from imlctl.scan.ledger import Key
    from imlctl.scan.naming import Kind
    from imlctl.scan.worker import Decoded, Request

    Columns = Mapping[str, NDArray[Any]]

_MOST_DEATHS = 3  # of workers with the same picture in hand; then it is the picture's fault
_SETTLED = 1.0  # seconds in which what was finished last gets to whoever writes it


class Word(StrEnum):
    """What the foreman says."""

    GO = "go"
    CAREFULLY = "carefully"  # one step after another: a worker died here before
    SKIP = "skip"


class Ended(Exception):  # noqa: N818 - nothing went wrong
    """The scan was told to stop, and nothing is in hand any more."""


class Foreman:
    """Tells all workers when to stop, and which picture killed those before them.

    Ray gives the lot of a worker that died to another one, as often as it takes. A picture that
    kills whoever analyses it would keep the cluster busy for ever; here it is found out.
    """

    def __init__(self) -> None:
        self._stopped = False
        self._opened: set[int] = set()
        self._in_hand: dict[int, int] = {}
        self._deaths: Counter[int] = Counter()
        self._last = time.monotonic()

    def stop(self) -> None:
        """Let every worker finish the picture in hand, and begin no other."""
        self._stopped = True

    def open(self, lot: int) -> Word:
        """Say how to go about a lot.

        Raises:
            Ended: There is nothing more to do for anybody.
        """
        if self._stopped:
            if not self._in_hand and time.monotonic() - self._last > _SETTLED:
                raise Ended
            return Word.SKIP
        suspect = self._in_hand.pop(lot, None)
        if suspect is not None:
            self._deaths[suspect] += 1
        word = Word.CAREFULLY if lot in self._opened else Word.GO
        self._opened.add(lot)
        return word

    def next(self, lot: int, picture: int) -> Word | None:
        """Say whether to analyse a picture of an open lot; None to leave it and all after it."""
        if self._stopped:
            return None
        if self._deaths[picture] >= _MOST_DEATHS:
            return Word.SKIP
        self._in_hand[lot] = picture
        return Word.GO

    def close(self, lot: int) -> None:
        """Note that nothing of a lot is in hand any more."""
        self._in_hand.pop(lot, None)
        self._last = time.monotonic()


@dataclass(frozen=True, slots=True)
class Order:
    """What every worker is told before it begins.

    Attributes:
        settings: Of the localizer, with the worker's own device.
        key: What the work must have come to: the same weights, settings and device everywhere.
        soft: See `work.PhotoWork`.
        previews: See `work.PhotoWork`.
        kinds: The outputs that are wanted of every picture.
        limits: What decoding a picture may cost.
        decoders: Processes that decode for one worker; 0 to decode in the worker itself.
        threads: That compute in one worker. The last bits of a sum depend on their number.
        folder: The current one of whoever began the scan; names are relative to it.
    """

    settings: Settings
    key: Key
    soft: bool
    previews: bool
    kinds: tuple[Kind, ...]
    limits: Limits
    decoders: int
    threads: int
    folder: str


@dataclass(frozen=True, slots=True)
class OutOfReach:
    """A worker cannot read a file.

    Attributes:
        failed: What it would say of it if nobody else could either.
        host: Name of the worker's machine.
        folder: Whether it sees at least the folder.
    """

    failed: Failed
    host: str
    folder: bool


Answer = Finished | Failed | Same | OutOfReach | ImlctlError


class Analyst:
    """A worker: holds the model, and does all but the writing for one lot after another.

    Args:
        order: What to do.
        foreman: Handle of the actor.
    """

    def __init__(self, order: Order, foreman: Any) -> None:
        self.order = order
        self._ask = foreman
        self._refusal: ImlctlError | None = None
        # Names mean the same as where the scan was begun; absolute ones do so anyway.
        with suppress(OSError):
            os.chdir(order.folder)
        try:
            self._set_up(order)
        except ImlctlError as error:
            # An actor that cannot be made is made again and again; this one lives and says why.
            self._refusal = _of_this_machine(error)

    def _set_up(self, order: Order) -> None:
        import torch

        from imlctl.memory import keep_freed_blocks
        from imlctl.pipeline import Localizer
        from imlctl.scan.work import PhotoWork

        torch.set_num_threads(order.threads)
        keep_freed_blocks()
        localizer = Localizer(order.settings)
        self.work = PhotoWork(localizer, soft=order.soft, previews=order.previews)
        if self.work.key != order.key:
            raise ConfigError(
                f"this worker would not compute what the others do: {_difference(self, order)}",
                remedy="Install the same imlctl and weights on machines of the same kind.",
            )
        self._ahead = None
        if order.decoders:
            self._ahead = DecodeAhead(order.decoders, order.limits)

    def __call__(self, lot: Columns) -> Iterator[Columns]:
        """Yield one row for each picture of a lot: its number, and what to write of it.

        Args:
            lot: Columns `number` and `request`, a pickled `Request`.
        """
        import ray

        numbers = [int(number) for number in lot["number"]]
        todo = dict(zip(numbers, map(pickle.loads, lot["request"]), strict=True))
        first = numbers[0]
        if self._refusal is not None:
            yield _row(first, self._refusal)
            return
        word = ray.get(self._ask.open.remote(first))
        if word is Word.SKIP:
            return
        try:
            yield from self._analyse(first, todo, careful=word is Word.CAREFULLY)
        except ImlctlError as error:
            yield _row(first, _of_this_machine(error))
        finally:
            ray.get(self._ask.close.remote(first))

    def _analyse(
        self, lot: int, todo: Mapping[int, Request], *, careful: bool
    ) -> Iterator[Columns]:
        # Several pictures are in hand at once, unless it must be known which of them is fatal.
        with (AtOnce if careful else Behind)(self._finish) as writer:
            for number, result in analyse(self.work, self._allowed(lot, todo)):
                yield from writer.put((number, todo[number].path, result))
                del result  # or its pixels would stay until the next one is there
            yield from writer.rest()

    def _allowed(
        self, lot: int, todo: Mapping[int, Request]
    ) -> Iterator[tuple[int, str, Decoded | Same | Failed]]:
        """Decode what the foreman does not object to."""
        import ray

        for number, reply in self._decoded(todo):
            word = ray.get(self._ask.next.remote(lot, number))
            if word is None:
                return
            name = todo[number].path
            yield number, name, _fatal(name) if word is Word.SKIP else reply
            del reply  # or its pixels would stay until the next picture is decoded

    def _decoded(self, todo: Mapping[int, Request]) -> Iterator[tuple[int, Any]]:
        if self._ahead:
            yield from self._ahead.run(todo.items())
        else:
            yield from ((number, decode(request)) for number, request in todo.items())

    def _finish(self, item: tuple[int, str, Any]) -> Columns:
        number, name, result = item
        if not isinstance(result, (Failed, Same)):
            result = finish(self.work, result, self.order.kinds, name, preview=True)
        if isinstance(result, Failed) and not os.access(name, os.R_OK):
            result = OutOfReach(result, socket.gethostname(), Path(name).parent.is_dir())
        return _row(number, result)


def _row(number: int, answer: Answer) -> Columns:
    # As bytes: Arrow's strings cannot hold the names of all files, and objects pickle themselves.
    data = np.empty(1, dtype=object)
    data[0] = pickle.dumps(answer)
    return {"number": np.array([number]), "answer": data}


def _fatal(name: str) -> Failed:
    return Failed(
        InputError(
            f"{_MOST_DEATHS} workers died while they analysed it",
            source=name,
            remedy="Perhaps memory ran out: try --tile 512, or workers with more of it.",
        )
    )


def _of_this_machine(error: ImlctlError) -> ImlctlError:
    """Say on which machine it went wrong."""
    where = f"on {socket.gethostname()}"
    error.source = f"{error.source} ({where})" if error.source else where
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _difference(analyst: Analyst, order: Order) -> str:
    ours, theirs = analyst.work.key, order.key
    if ours.weights != theirs.weights:
        return f"its weights have sha256 {ours.weights}, not {theirs.weights}"
    mine, wanted = json.loads(ours.settings), json.loads(theirs.settings)
    return ", ".join(
        f"{name} is {mine.get(name)!r}, not {wanted[name]!r}"
        for name in wanted
        if mine.get(name) != wanted[name]
    )
