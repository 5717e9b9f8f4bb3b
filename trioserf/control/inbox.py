"""Between the reader of a connection, who waits for nobody, and the readers of its streams."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import trio

from trioserf.control.errors import ControlError
from trioserf.control.replies import fault_of

Record = dict[str, Any]
RecordT = TypeVar("RecordT")


class Inbox:
    """Records of one stream, between the connection's reader and the stream's."""

    def __init__(self, buffer: int) -> None:
        self._buffer = buffer
        self._kept: deque[Record] = deque()
        self._missed = 0
        self._news = trio.Event()
        self._fault: ControlError | None = None
        self.over = False

    def put(self, record: Record) -> None:
        """Keep a record, or count it as missed."""
        if record.get("ok") is False:
            self.fail(fault_of(record))
            return
        if len(self._kept) < self._buffer and not self._missed:
            self._kept.append(record)
        else:
            self._missed += 1
        self._news.set()

    def fail(self, fault: ControlError) -> None:
        """No record will follow."""
        self._fault = self._fault or fault
        self._news.set()

    async def get(self) -> Record | None:
        """Wait for a record; None at the end."""
        await trio.lowlevel.checkpoint()
        while not self._kept and not self._missed:
            if self.over:
                return None
            if self._fault is not None:
                raise self._fault
            self._news = trio.Event()
            await self._news.wait()
        if not self._kept:
            missed, self._missed = self._missed, 0
            return {"event": "dropped", "count": missed}
        record = self._kept.popleft()
        self.over = record.get("type") == "done"
        return record


class Records(Generic[RecordT]):
    """The records of a stream, for one reader: an async iterator.

    The iteration raises ControlError when the stream fails or the connection ends.
    """

    def __init__(self, inbox: Inbox, show: Callable[[Mapping[str, Any]], RecordT]) -> None:
        self._inbox = inbox
        self._show = show

    def __aiter__(self) -> "Records[RecordT]":
        return self

    async def __anext__(self) -> RecordT:
        record = await self._inbox.get()
        if record is None:
            raise StopAsyncIteration
        return self._show(record)
