"""The recent events of a node, from which clients of `/v1/events` read at their own pace.

A client keeps nothing here but its position, so a slow or absent one costs nothing. If the events
after its position are no longer kept, it gets a `dropped` record instead of them.
"""

import re
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import trio

from trioserf.control.server import json_records
from trioserf.control.server.commands import STREAM_BUFFER
from trioserf.control.server.json_lines import encode
from trioserf.control.server.json_records import WallClock
from trioserf.control.server.params import bad_request
from trioserf.event_filter import SUSPICION_EVENT_KINDS, EventFilter
from trioserf.node import Node
from trioserf.results import Dropped
from trioserf.serf.events import Event

MAX_EVENTS: Final = 1024
"""Events that are kept: as many as for a slow reader of the control socket."""
MAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes of their records."""
_ID: Final = re.compile("([0-9a-f]{1,16})-([0-9]{1,20})", re.ASCII)
"""When the agent was started, and the number of the event."""


class _Entry(NamedTuple):
    event: Event | Dropped
    kind: str
    data: bytes


class EventLog:
    """The recent events, numbered from 1.

    Args:
        node: the source.
        wall: the time of day in UTC.
        max_events: events that are kept.
        max_bytes: bytes of records that are kept; the newest one is kept in any case.

    Attributes:
        next: the number of the next event.
    """

    def __init__(
        self,
        node: Node,
        wall: WallClock,
        *,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.next = 1
        self._node = node
        self._wall = wall
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._run = f"{int(wall().timestamp() * 1000):x}"
        self._entries: deque[_Entry] = deque()
        self._bytes = 0
        self._readers = trio.lowlevel.ParkingLot()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the events of the node until it ends."""
        kinds = ("*", *SUSPICION_EVENT_KINDS)
        with self._node.subscribe(*kinds, buffer=STREAM_BUFFER) as events:
            task_status.started()
            async for event in events:
                self._add(event)

    def _add(self, event: Event | Dropped) -> None:
        record = json_records.event(event, self._wall(), trio.current_time())
        entry = _Entry(event, record["event"], encode(record))
        self._entries.append(entry)
        self._bytes += len(entry.data)
        self.next += 1
        while len(self._entries) > self._max_events or (
            self._bytes > self._max_bytes and len(self._entries) > 1
        ):
            self._bytes -= len(self._entries.popleft().data)
        self._readers.unpark_all()

    @property
    def _first(self) -> int:
        return self.next - len(self._entries)

    def start_after(self, text: str) -> int:
        """Return where a client continues that has got events up to this id.

        0 stands for an earlier run of the agent, whose events are not kept.

        Raises:
            ControlError: `bad_request`; it is not an id of this log.
        """
        found = _ID.fullmatch(text)
        if found is None:
            raise bad_request("Last-Event-ID: expected the id of an event of this path")
        if found[1] != self._run:
            return 0
        position = int(found[2]) + 1
        if position > self.next:
            raise bad_request("Last-Event-ID: no event has this id yet")
        return position

    async def read(self, position: int, filters: Sequence[EventFilter]) -> tuple[int, bytes]:
        """Wait for events from a position on.

        Args:
            position: the number of the first event, or 0 (see `start_after`).
            filters: return the events that match one of them.

        Returns:
            The position after them, and the messages of server-sent events; they are empty if no
            event matches.
        """
        while position and position >= self.next:
            await self._readers.park()
        parts = []
        if position < self._first:
            # How many an earlier run had is not known.
            dropped: dict[str, Any] = {"event": "dropped"}
            if position:
                dropped["count"] = self._first - position
            position = self._first
            parts.append(self._message(position - 1, "dropped", encode(dropped)))
        for number, (event, kind, data) in enumerate(self._entries_from(position), start=position):
            if isinstance(event, Dropped) or any(one.matches(event) for one in filters):
                parts.append(self._message(number, kind, data))
        return self.next, b"".join(parts)

    def _entries_from(self, position: int) -> list[_Entry]:
        return list(self._entries)[position - self._first :]

    def _message(self, number: int, kind: str, data: bytes) -> bytes:
        return b"id: %b-%d\nevent: %b\ndata: %b\n\n" % (
            self._run.encode(),
            number,
            kind.encode(),
            data,
        )
