"""Collecting what comes back to a query of ours (spec: queries).

The asker knows whom it expects: the members that were alive when it asked and match the filters.
Serf's queries end at their deadline. Here they end as soon as nothing more can come: everyone who
is expected has answered, or has said with its acknowledgement that it will not, or has left or
failed in the meantime. A Serf that has no handler never says so, and is waited for.
"""

from collections.abc import Callable, Iterable
from typing import Final

import attrs

from trioserf.wire.serf_messages import QueryResponse, ResponseFlag

MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
"""Bytes of all answers to one query; anybody may answer, in any name and by stream."""


@attrs.frozen
class QueryAck:
    """A member has got the query."""

    source: str


@attrs.frozen
class QueryAnswer:
    """A member has answered."""

    source: str
    payload: bytes


@attrs.frozen
class QueryDone:
    """Nothing more will come.

    Attributes:
        acks: acknowledgements counted, 0 if none were asked for.
        responses: answers counted.
        expected: members that were asked.
        missing: those of whom nothing was heard at all, neither acknowledgement nor answer.
    """

    acks: int
    responses: int
    expected: int
    missing: tuple[str, ...]


QueryResult = QueryAck | QueryAnswer | QueryDone


class RunningQuery:
    """One query of ours, as long as it runs.

    Args:
        ltime: its Lamport time.
        id: its number.
        name: its name.
        deadline: the instant after which nothing is taken any more, in seconds.
        expected: names of the members that are asked.
        wants_acks: whether they were asked to acknowledge it.
        ack_suffices: whether an acknowledgement is all that will come.
        first: answers that are enough, or None for all.
        strangers: names that are accepted beside the expected ones.
        deliver: takes each result; a `QueryDone` is the last.
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
        """What answers bear to be recognised."""
        return (self.ltime, self.id)

    def handle_response(self, response: QueryResponse) -> bool:
        """Count an acknowledgement or an answer.

        Returns:
            Whether it was a double, which relays cause and which is ignored.
        """
        if self.finished or not self._admits(response.source):
            return False
        is_ack = bool(response.flags & ResponseFlag.ACK)
        double = response.source in (self._acked if is_ack else self._responded)
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
        return double

    def on_member_gone(self, name: str) -> None:
        """Wait no longer for a member that has gone."""
        if name in self._outstanding:
            self._outstanding.discard(name)
            self.finish_if_complete()

    def finish_if_complete(self) -> None:
        """End it if nothing more is expected."""
        enough = self._first is not None and len(self._responded) >= self._first
        if enough or not self._outstanding:
            self.finish()

    def finish(self) -> None:
        """End it now."""
        if self.finished:
            return
        self.finished = True
        missing = tuple(name for name in self.expected if name not in self._responders)
        done = QueryDone(len(self._acked), len(self._responded), len(self.expected), missing)
        self._deliver(done)

    def _admits(self, source: str) -> bool:
        """Bound the names that are remembered, since anybody may answer in any name."""
        return (
            source in self._responders
            or len(self._responders) < len(self.expected) + self._max_unexpected
        )

    def __repr__(self) -> str:
        return f"<AskedQuery {self.name!r} of time {self.ltime}, {len(self._outstanding)} open>"
