"""Makes the next item of an iterator while its user works on the last: a batch is read while the model is at another.

Both are greenlets of the hub, so that only one runs Python at a time; what overlaps is what they wait for.
"""

from collections.abc import Generator
from typing import Generic, TypeVar

from pellucid_server.engine.tasks.hub import Hub

Item = TypeVar("Item")


def ahead(hub: Hub, items: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """Give the items, each begun when the one before is taken; called by a task.

    At most one is kept, beside the one that is worked on. If the user stops early, so does the making, once the item in
    progress is done.

    Raises
    ------
    Exception
        What making an item raised, in its place.
    """
    work = _Ahead(hub, items)
    hub.begin(work.make)
    try:
        yield from work.taken()
    finally:
        work.stop()


class _Ahead(Generic[Item]):
    """The item that is made, and which side waits for the other."""

    def __init__(self, hub: Hub, items: Generator[Item, None, None]) -> None:
        self._hub = hub
        self._items = items
        self._made: list[Item] = []
        self._error: Exception | None = None
        self._ended = self._stopped = False
        self._changed = hub.signal()

    def make(self) -> None:
        """Make items until there are no more, or the reader is closed; a task of its own."""
        try:
            for item in self._items:
                self._made.append(item)
                self._wake()
                while self._made and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    break
        except Exception as error:  # noqa: BLE001 - raised again where the item is taken
            self._error = error
        finally:
            self._items.close()
            self._ended = True
            self._wake()

    def taken(self) -> Generator[Item, None, None]:
        """Give the items as they are made."""
        while True:
            while not self._made and not self._ended:
                self._changed.wait()
            if not self._made:
                break
            item = self._made.pop()
            self._wake()
            yield item
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Have no more items made."""
        self._stopped = True
        self._made.clear()
        self._wake()

    def _wake(self) -> None:
        """Wake the other side, if it waits."""
        changed, self._changed = self._changed, self._hub.signal()
        changed.set()
