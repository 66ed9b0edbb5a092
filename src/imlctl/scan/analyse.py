"""Run the model over pictures as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from imlctl.scan.failures import Failed, failed
from imlctl.scan.worker import Decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imlctl.scan.run import Finished, Work
    from imlctl.scan.worker import Reply, Same

Tag = TypeVar("Tag")
Result = TypeVar("Result")


def analyse(
    work: Work[Result],
    pictures: Iterable[tuple[Tag, str, Reply | Finished | Callable[[], bytes]]],
) -> Iterator[tuple[Tag, Result | Finished | Failed | Same]]:
    """Run the model over pictures that were decoded, or read and decode them first.

    Args:
        work: What is done with each picture.
        pictures: Each with whatever it is known by, its name for errors that do not know it, and
            what became of it so far or what reads its bytes.

    Yields:
        What each is known by, and its result, in their order.

    Raises:
        ImlctlError: Of any kind but `InputError`: other pictures would fail as well.
    """
    for tag, name, source in pictures:
        if isinstance(source, Decoded) or callable(source):
            yield tag, _analysed(work, name, source)
        else:
            yield tag, source
        del source  # or its pixels would stay until the next picture is decoded


def _analysed(work: Work[Any], name: str, source: Decoded | Callable[[], bytes]) -> Any:
    try:
        return work.localize(source() if callable(source) else source)
    except Exception as error:
        return failed(error, name)
