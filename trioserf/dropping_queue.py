"""A bounded queue for a slow reader: items without room are dropped, counted and announced."""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


def _no_size(_: object) -> int:
    return 0


class DroppingQueue(Generic[T]):
    """Items for one reader, first in, first out; the writer never waits.

    An item without room is dropped. A marker with the number of dropped items in a row takes
    their place: it precedes the next item that has room, or comes last.

    Args:
        max_items: items that wait at most, 1 or more; a marker may come on top of them.
        marker: makes the marker from a number of dropped items.
        max_bytes: bytes that wait at most; None for no limit.
        size_of: returns the bytes of an item or a marker.
    """

    def __init__(
        self,
        max_items: int,
        marker: Callable[[int], T],
        *,
        max_bytes: int | None = None,
        size_of: Callable[[T], int] = _no_size,
    ) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._marker = marker
        self._size_of = size_of
        self._items: deque[T] = deque()
        self._bytes = 0
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Items dropped since the last marker."""
        return self._dropped

    def __len__(self) -> int:
        return len(self._items) + (self._dropped > 0)

    def put(self, item: T) -> bool:
        """Append an item; return False if it was dropped."""
        size = self._size_of(item)
        is_full = len(self._items) >= self._max_items
        if is_full or (self._max_bytes is not None and self._bytes + size > self._max_bytes):
            self._dropped += 1
            return False
        self._append_marker()
        self._items.append(item)
        self._bytes += size
        return True

    def pop(self) -> T:
        """Remove and return the next item or marker.

        Raises:
            IndexError: the queue is empty.
        """
        if not self._items:
            self._append_marker()
        item = self._items.popleft()
        self._bytes -= self._size_of(item)
        return item

    def _append_marker(self) -> None:
        if self._dropped:
            marker = self._marker(self._dropped)
            self._items.append(marker)
            self._bytes += self._size_of(marker)
            self._dropped = 0
