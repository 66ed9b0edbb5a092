"""Run the model over pictures as they come, those of like size together, and keep their order."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

from imlctl.scan.failures import failed
from imlctl.scan.worker import Decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from imlctl.scan.failures import Failed
    from imlctl.scan.run import Finished, Work
    from imlctl.scan.worker import Reply, Same

Tag = TypeVar("Tag")
Result = TypeVar("Result")

_WINDOW = 4  # batches' worth of pictures that may wait for others of like size


@dataclass(slots=True)
class _Waiting:
    """A picture and, once it was analysed, its result in the place of its pixels."""

    tag: Any
    name: str
    source: Decoded | Callable[[], bytes] | None
    like: Hashable | None
    result: Any


def analyse(
    work: Work[Result],
    pictures: Iterable[tuple[Tag, str, Reply | Finished | Callable[[], bytes]]],
    batch: int,
) -> Iterator[tuple[Tag, Result | Finished | Failed | Same]]:
    """Run the model over pictures that were decoded, or read and decode them first.

    A picture waits until there are `batch` of its kind, but not for ever: only a few are looked
    ahead, and none is past one that goes alone, which may be large.

    Args:
        work: What is done with each picture.
        pictures: Each with whatever it is known by, its name for errors that do not know it, and
            what became of it so far or what reads its bytes.
        batch: Most that the model is given at once.

    Yields:
        What each is known by, and its result, in their order.

    Raises:
        ImlctlError: Of any kind but `InputError`: other pictures would fail as well.
    """
    waiting: deque[_Waiting] = deque()
    for tag, name, source in pictures:
        waiting.append(_begun(work, tag, name, source))
        del source  # or its pixels would stay until the next picture is decoded
        while waiting and _is_time(waiting, batch):
            yield _first(work, waiting, batch)
    while waiting:
        yield _first(work, waiting, batch)


def _begun(
    work: Work[Any], tag: Any, name: str, source: Reply | Finished | Callable[[], bytes]
) -> _Waiting:
    if isinstance(source, Decoded):
        return _Waiting(tag, name, source, work.like(source), None)
    if callable(source):
        return _Waiting(tag, name, source, None, None)
    return _Waiting(tag, name, None, None, source)


def _is_time(waiting: deque[_Waiting], batch: int) -> bool:
    """Whether the first picture has waited long enough."""
    first, last = waiting[0], waiting[-1]
    if first.source is None or len(waiting) >= _WINDOW * batch:
        return True
    if last.source is not None and last.like is None:
        return True
    return len(_alike(waiting, batch)) == batch


def _alike(waiting: deque[_Waiting], batch: int) -> list[_Waiting]:
    """The first picture and those that can be analysed with it."""
    like = waiting[0].like
    if like is None:
        return [waiting[0]]
    return list(islice((each for each in waiting if each.like == like), batch))


def _first(work: Work[Any], waiting: deque[_Waiting], batch: int) -> tuple[Any, Any]:
    """Take the first picture out; analysed, if it is not, with those like it."""
    if waiting[0].source is not None:
        some = _alike(waiting, batch)
        for each, result in zip(some, _analysed(work, some), strict=True):
            each.result, each.source, each.like = result, None, None
    first = waiting.popleft()
    return first.tag, first.result


def _analysed(work: Work[Any], some: list[_Waiting]) -> list[Any]:
    if len(some) > 1:
        with suppress(Exception):  # whose fault it was shows when each goes alone
            return work.localize_batch([cast("Decoded", each.source) for each in some])
    return [_alone(work, each) for each in some]


def _alone(work: Work[Any], one: _Waiting) -> Any:
    source = cast("Decoded | Callable[[], bytes]", one.source)
    try:
        return work.localize(source() if callable(source) else source)
    except Exception as error:
        return failed(error, one.name)
