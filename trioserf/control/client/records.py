"""What clients get: plain named tuples, cheap to import and to make.

Bytes are bytes, names are text. A name that is not UTF-8 carries its bytes as surrogate escapes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class MemberInfo(NamedTuple):
    """A member as the agent sees it.

    `status` is alive, leaving, left, failed or none; the three versions are those of Serf's own
    protocol: the range that the member understands, and what it speaks.
    """

    name: str
    addr: str
    port: int
    tags: Mapping[str, str]
    status: str
    protocol_min: int
    protocol_max: int
    protocol_version: int


class QueryAck(NamedTuple):
    """`source` has received the query."""

    source: str


class QueryAnswer(NamedTuple):
    """`source` answered."""

    source: str
    payload: bytes


class QueryDone(NamedTuple):
    """The query is over.

    `expected` counts the members that it was meant for and `missing` names those that were never
    heard of; a Go agent tells neither (None and empty).
    """

    acks: int
    responses: int
    expected: int | None = None
    missing: tuple[str, ...] = ()


QueryRecord = QueryAck | QueryAnswer | QueryDone


class KeyReport(NamedTuple):
    """What the members said to a key operation; keys in base64, with the number of holders."""

    messages: Mapping[str, str]
    keys: Mapping[str, int]
    primary_keys: Mapping[str, int]
    nodes: int
    responses: int
    errors: int


class CoordinateInfo(NamedTuple):
    """A network coordinate: seconds, except `error`, which has no unit."""

    vec: Sequence[float]
    error: float
    adjustment: float
    height: float

    def distance(self, other: "CoordinateInfo") -> float:
        """Estimate the round trip between the two places, in seconds (spec: coordinates)."""
        straight = math.dist(self.vec, other.vec)
        raw = straight + self.height + other.height
        adjusted = raw + self.adjustment + other.adjustment
        return adjusted if adjusted > 0 else raw


class LogEntry(NamedTuple):
    """A line of the agent's log; `time` is spelled as the agent spells it."""

    time: str
    level: str
    source: str
    message: str

    @property
    def text(self) -> str:
        """The line in Serf's order; over JSON lines its time is UTC, in ISO 8601."""
        return f"{self.time} [{self.level}] {self.source}: {self.message}"


class MemberEvent(NamedTuple):
    """Something happened to these members: `event` is member-join, member-failed and so on."""

    event: str
    time: str
    members: tuple[MemberInfo, ...]


class UserEvent(NamedTuple):
    """A user event."""

    time: str
    ltime: int
    name: str
    payload: bytes
    coalesce: bool
    event: str = "user"


class QueryEvent(NamedTuple):
    """A query that may be answered with `respond(id, payload)` before `deadline`."""

    time: str
    id: int
    ltime: int
    name: str
    payload: bytes
    source: str
    deadline: str
    event: str = "query"


class Dropped(NamedTuple):
    """We were too slow: `lost` records before this place were not delivered."""

    lost: int
    event: str = "dropped"


AgentEvent = MemberEvent | UserEvent | QueryEvent | Dropped
