"""A queue in which whoever has many waits behind himself alone."""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ItemT = TypeVar("ItemT")


class FairQueue(Generic[KeyT, ItemT]):
    """Items by key: the keys take turns, and those of one key go in order."""

    def __init__(self) -> None:
        self._queues: dict[KeyT, deque[ItemT]] = {}  # none is empty; the next turn first
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[ItemT]:
        for items in self._queues.values():
            yield from items

    def add(self, key: KeyT, item: ItemT) -> None:
        """Put an item last of its key."""
        self._queues.setdefault(key, deque()).append(item)
        self._size += 1

    def next(self, wanted: Callable[[KeyT], bool] = lambda _: True) -> ItemT | None:
        """Take the item whose turn it is, of a key that is `wanted`; None where there is none."""
        key = next(filter(wanted, self._queues), None)
        if key is None:
            return None
        items = self._queues.pop(key)
        item = items.popleft()
        self._size -= 1
        if items:
            self._queues[key] = items
        return item

    def discard(self, unwanted: Callable[[ItemT], bool]) -> list[ItemT]:
        """Take out and return what is unwanted."""
        found = [item for item in self if unwanted(item)]
        if found:
            kept = {k: deque(i for i in q if not unwanted(i)) for k, q in self._queues.items()}
            self._queues = {key: items for key, items in kept.items() if items}
            self._size -= len(found)
        return found
