"""Do the last step of each picture here and at once, or in a thread behind the model."""

from __future__ import annotations

import threading
from queue import Empty, Queue, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

Item = TypeVar("Item")
Done = TypeVar("Done")

_DEPTH = 2  # finished results that may wait for the writer


class AtOnce(Generic[Item, Done]):
    """Does each item when it is put."""

    def __init__(self, finish: Callable[[Item], Done]) -> None:
        self._finish = finish

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to do."""

    def put(self, item: Item) -> Iterator[Done]:
        """Do an item and yield what came of it."""
        yield self._finish(item)

    def rest(self) -> Iterator[Done]:
        """Yield nothing: nothing is ever left."""
        return iter(())


class Behind(Generic[Item, Done]):
    """Does items in a thread, in their order; whoever puts them waits if there are too many."""

    def __init__(self, finish: Callable[[Item], Done]) -> None:
        self._finish = finish
        self._waiting: Queue[Item | None] = Queue(_DEPTH)
        self._done: SimpleQueue[Done | BaseException | None] = SimpleQueue()
        self._ending = False  # what waits is not wanted any more
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the thread finish the item in hand, drop the others, and wait for it."""
        self._ending = True
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self._ending:
                continue
            try:
                self._done.put(self._finish(item))
            except BaseException as error:
                self._ending = True
                self._done.put(error)
            del item
        self._done.put(None)

    def put(self, item: Item) -> Iterator[Done]:
        """Hand over an item, and yield what came of earlier ones so far.

        Raises:
            BaseException: What an earlier item raised; those after it were dropped.
        """
        self._waiting.put(item)
        del item
        while True:
            try:
                done = self._done.get_nowait()
            except Empty:
                return
            yield self._checked(done)

    def rest(self) -> Iterator[Done]:
        """Wait for all items, and yield what came of them; see `put`."""
        self._waiting.put(None)
        while (done := self._done.get()) is not None:
            yield self._checked(done)

    def _checked(self, done: Done | BaseException | None) -> Done:
        if isinstance(done, BaseException):
            raise done
        assert done is not None  # noqa: S101 - the thread ends only in `rest` and after it
        return done
