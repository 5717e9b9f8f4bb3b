"""Records that nodes and clients share: results of queries, and the number of lost records."""

from typing import Literal, NamedTuple

MemberStatus = Literal["none", "alive", "leaving", "left", "failed"]
"""Serf's names of the statuses of a member, in the order of their numbers on the wire."""


class QueryAck(NamedTuple):
    """`source` has received the query."""

    source: str
    kind: Literal["ack"] = "ack"


class QueryAnswer(NamedTuple):
    """`source` has responded."""

    source: str
    payload: bytes
    kind: Literal["response"] = "response"


class QueryDone(NamedTuple):
    """The query is over.

    Attributes:
        acks: number of acks, 0 if none were requested.
        responses: number of responses.
        expected: number of members that match its filters; only a Go agent does not report it
            (None).
        missing: names of those that sent neither an ack nor a response; a Go agent reports none.
        kind: distinguishes the results.
    """

    acks: int
    responses: int
    expected: int | None = None
    missing: tuple[str, ...] = ()
    kind: Literal["done"] = "done"


QueryResult = QueryAck | QueryAnswer | QueryDone


class Dropped(NamedTuple):
    """The reader was too slow: `count` records before this one were dropped."""

    count: int  # type: ignore[assignment] # the word of the JSON protocol; hides tuple.count
    kind: Literal["dropped"] = "dropped"
