"""Collect the responses to a query of our own (see serf/README.md, § Queries).

The expected members are those that match the filters and are alive at the start. Serf's queries
end at their deadline. Ours end as soon as they are complete: every expected member has responded,
has acknowledged that no response will follow, or has left or failed. A Go agent without a handler
does not acknowledge that, so we wait for it until the deadline.
"""

from collections.abc import Callable, Iterable
from typing import Final

from trioserf.results import QueryAck, QueryAnswer, QueryDone, QueryResult
from trioserf.wire.serf_messages import QueryResponse, ResponseFlag

MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
"""Bytes of all responses to one query; any host can send some, in any name."""


class RunningQuery:
    """One query of our own while it is running.

    Args:
        ltime: its Lamport time.
        id: its number.
        name: its name.
        deadline: the time after which responses are dropped, in seconds.
        expected: names of the members that are queried.
        wants_acks: whether acks were requested.
        ack_suffices: whether members send acks only.
        first: finish after this number of responses; None for all.
        max_unexpected: names from which responses are accepted beside the expected ones.
        deliver: receives each result; a `QueryDone` is the last.
    """

    __slots__ = (
        "_ack_suffices",
        "_acked",
        "_bytes_left",
        "_deliver",
        "_first",
        "_max_unexpected",
        "_outstanding",
        "_responded",
        "_responders",
        "_wants_acks",
        "deadline",
        "expected",
        "finished",
        "id",
        "ltime",
        "name",
    )

    def __init__(
        self,
        ltime: int,
        id: int,  # noqa: A002 - its name on the wire
        name: str,
        *,
        deadline: float,
        expected: Iterable[str],
        wants_acks: bool,
        ack_suffices: bool = False,
        first: int | None = None,
        max_unexpected: int = 1024,
        deliver: Callable[[QueryResult], None],
    ) -> None:
        self.ltime = ltime
        self.id = id
        self.name = name
        self.deadline = deadline
        self.expected = tuple(expected)
        self.finished = False
        self._outstanding = set(self.expected)
        self._wants_acks = wants_acks
        self._ack_suffices = ack_suffices
        self._first = first
        self._max_unexpected = max_unexpected
        self._deliver = deliver
        self._acked: set[str] = set()
        self._responded: set[str] = set()
        self._bytes_left = MAX_RESPONSE_BYTES
        self._responders: set[str] = set()

    @property
    def key(self) -> tuple[int, int]:
        """The Lamport time and number, which responses repeat."""
        return (self.ltime, self.id)

    def handle_response(self, response: QueryResponse) -> bool:
        """Count an ack or a response.

        Returns:
            Whether it was a duplicate, as relays cause; duplicates are ignored.
        """
        if self.finished or not self._admits(response.source):
            return False
        is_ack = bool(response.flags & ResponseFlag.ACK)
        is_duplicate = response.source in (self._acked if is_ack else self._responded)
        self._responders.add(response.source)
        if is_ack:
            if self._wants_acks and response.source not in self._acked:
                self._acked.add(response.source)
                self._deliver(QueryAck(response.source))
            if self._ack_suffices or response.flags & ResponseFlag.NO_ANSWER_WILL_FOLLOW:
                self._outstanding.discard(response.source)
        elif response.source not in self._responded and len(response.payload) <= self._bytes_left:
            self._bytes_left -= len(response.payload)
            self._responded.add(response.source)
            self._outstanding.discard(response.source)
            self._deliver(QueryAnswer(response.source, response.payload))
        self.finish_if_complete()
        return is_duplicate

    def has_acked(self, name: str) -> bool:
        """Return whether a member has acknowledged the query."""
        return name in self._acked

    def awaits(self, name: str) -> bool:
        """Return whether a response of an expected member is outstanding."""
        return name in self._outstanding

    def stop_waiting_for(self, name: str) -> None:
        """Stop waiting for a member that has left or failed."""
        if name in self._outstanding:
            self._outstanding.discard(name)
            self.finish_if_complete()

    def finish_if_complete(self) -> None:
        """End the query if it is complete."""
        enough = self._first is not None and len(self._responded) >= self._first
        if enough or not self._outstanding:
            self.finish()

    def finish(self) -> None:
        """End the query now."""
        if self.finished:
            return
        self.finished = True
        missing = tuple(name for name in self.expected if name not in self._responders)
        done = QueryDone(len(self._acked), len(self._responded), len(self.expected), missing)
        self._deliver(done)

    def _admits(self, source: str) -> bool:
        """Bound the names that are kept, since any host can respond in any name."""
        return (
            source in self._responders
            or len(self._responders) < len(self.expected) + self._max_unexpected
        )

    def __repr__(self) -> str:
        outstanding = len(self._outstanding)
        return f"<RunningQuery {self.name!r} of time {self.ltime}, {outstanding} outstanding>"
