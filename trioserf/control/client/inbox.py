"""Between the reader of a connection, who waits for nobody, and the readers of its streams."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import trio

from trioserf.control.client.replies import error_from
from trioserf.control.errors import ControlError

Record = dict[str, Any]
RecordT = TypeVar("RecordT")


class RecordBuffer:
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
            self.fail(error_from(record))
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

    def close(self) -> None:
        """Nobody wants its records any more."""
        self._kept.clear()
        self._missed = 0
        self.over = True
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
    """The records of a stream, for one reader.

    Either `async with` it, to be sure that it has begun when the block does and is stopped when
    the block ends, and `async for` inside; or `async for` at once, which begins it. A stream that
    is left that way is stopped as soon as nobody holds it any more and another record comes.

    The iteration raises ControlError when the stream is refused or fails, and when the connection
    ends.
    """

    def __init__(
        self,
        inbox: RecordBuffer,
        show: Callable[[Mapping[str, Any]], RecordT],
        begin: Callable[[], Awaitable[object]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        self._inbox = inbox
        self._show = show
        self._begin = begin
        self._stop = stop
        self._begun = False

    async def __aenter__(self) -> Self:
        await self._begin_once()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RecordT:
        if not self._begun:
            await self._begin_once()
        record = await self._inbox.get()
        if record is None:
            raise StopAsyncIteration
        return self._show(record)

    async def aclose(self) -> None:
        """Stop the stream; it has no more records."""
        if self._begun and not self._inbox.over:
            self._inbox.close()
            await self._stop()

    async def _begin_once(self) -> None:
        if not self._begun:
            await self._begin()
            self._begun = True
