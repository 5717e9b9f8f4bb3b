"""Records that clients receive, as named tuples (cheap to import and make), and their readers.

Payloads are bytes, names are text. A name that is not UTF-8 carries its bytes as surrogate
escapes. Readers take the objects of the JSON protocol; a missing field is a KeyError.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from trioserf.address import Address
from trioserf.control.errors import ControlError
from trioserf.control.payloads import payload_of
from trioserf.event_filter import MemberEventKind
from trioserf.health import Health
from trioserf.results import Dropped, MemberStatus, QueryAck, QueryAnswer, QueryDone, QueryResult

Record = Mapping[str, Any]


class MemberInfo(NamedTuple):
    """A member as the agent sees it.

    Its name, `address`, tags, `status` and `release` are those of `Member`; the release is also
    empty over Serf's RPC, which does not have it. The versions are those of Serf's protocol: the
    range that the member supports, and the version that it sends.
    """

    name: str
    addr: str
    port: int
    tags: Mapping[str, str]
    status: MemberStatus
    protocol_min: int
    protocol_max: int
    protocol_version: int
    release: str = ""

    @property
    def address(self) -> Address:
        """The advertised address."""
        return Address(self.addr, self.port)


class KeyReport(NamedTuple):
    """The result of a key operation.

    `messages` has the members' messages by name; `keys` and `primary_keys` map keys in base64 to
    the number of members that hold or use them.
    """

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
        """Estimate the round-trip time between two coordinates, in seconds (as in Serf)."""
        straight = math.dist(self.vec, other.vec)
        raw = straight + self.height + other.height
        adjusted = raw + self.adjustment + other.adjustment
        return adjusted if adjusted > 0 else raw


class LogEntry(NamedTuple):
    """A line of the agent's log; `time` has the agent's format.

    `fields` has the values in the message that have a name, such as `member`; none over RPC.
    """

    time: str
    level: str
    source: str
    message: str
    fields: Mapping[str, Any] = MappingProxyType({})

    @property
    def record(self) -> dict[str, Any]:
        """The line as an object of the JSON protocol."""
        time, level, source, message, fields = self
        return {"time": time, "level": level, "source": source, "message": message, **fields}

    @property
    def text(self) -> str:
        """The line in Serf's order; over JSON lines its time is UTC, in ISO 8601."""
        return f"{self.time} [{self.level}] {self.source}: {self.message}"


class FailureCause(NamedTuple):
    """Why a member was declared failed (see control/README.md, § Event records)."""

    suspected_by: str
    reason: str | None
    declared_by: str


class MemberEventRecord(NamedTuple):
    """A change of these members (one, unless the event was coalesced).

    `cause` is that of a failure; None for other kinds, coalesced events and Go agents.
    """

    kind: MemberEventKind
    time: str
    members: tuple[MemberInfo, ...]
    cause: FailureCause | None = None


class UserEventRecord(NamedTuple):
    """A user event."""

    time: str
    ltime: int
    name: str
    payload: bytes
    coalesce: bool
    kind: Literal["user"] = "user"


class QueryEventRecord(NamedTuple):
    """A query that may be answered with `respond(id, payload)` before `deadline`."""

    time: str
    id: int
    ltime: int
    name: str
    payload: bytes
    source: str
    deadline: str
    kind: Literal["query"] = "query"


AgentEvent = MemberEventRecord | UserEventRecord | QueryEventRecord | Dropped


def member_of(record: Record) -> MemberInfo:
    """Read a member."""
    protocol = record["protocol"]
    return MemberInfo(
        record["name"],
        record["addr"],
        record["port"],
        record["tags"],
        record["status"],
        protocol["min"],
        protocol["max"],
        protocol["version"],
        record.get("release", ""),
    )


def key_report_of(record: Record) -> KeyReport:
    """Read the result of a key operation."""
    return KeyReport(*(record[name] for name in KeyReport._fields))


def health_of(record: Record) -> Health:
    """Read the health of an agent."""
    found = Health(*(record[name] for name in Health._fields))
    return found._replace(reasons=tuple(found.reasons))


def coordinate_of(record: Record) -> CoordinateInfo:
    """Read a network coordinate."""
    found = record["coordinate"]
    return CoordinateInfo(
        tuple(found["vec"]), found["error"], found["adjustment"], found["height"]
    )


def query_record_of(record: Record) -> QueryResult:
    """Read a record of a query."""
    match record:
        case {"type": "ack", "from": source}:
            return QueryAck(source)
        case {"type": "response", "from": source}:
            return QueryAnswer(source, payload_of(record))
        case {"type": "done", "acks": acks, "responses": responses}:
            missing = tuple(record.get("missing", ()))
            return QueryDone(acks, responses, record.get("expected"), missing)
    raise ControlError("protocol", f"not a record of a query: {record}")


def event_of(record: Record) -> AgentEvent:
    """Read an event; a Go agent sends no `time`, `from` and `deadline` (empty)."""
    time = record.get("time", "")
    match record:
        case {"event": "dropped", "count": count}:
            return Dropped(count)
        case {"event": "user", "ltime": ltime, "name": name, "coalesce": coalesce}:
            return UserEventRecord(time, ltime, name, payload_of(record), coalesce)
        case {"event": "query", "id": number, "ltime": ltime, "name": name}:
            source, deadline = record.get("from", ""), record.get("deadline", "")
            return QueryEventRecord(
                time, number, ltime, name, payload_of(record), source, deadline
            )
        case {"event": kind, "members": members}:
            return MemberEventRecord(kind, time, tuple(map(member_of, members)), _cause_of(record))
    raise ControlError("protocol", f"not an event: {record}")


def _cause_of(record: Record) -> FailureCause | None:
    cause = record.get("cause")
    if cause is None:
        return None
    return FailureCause(cause["suspected_by"], cause["reason"], cause["declared_by"])


def log_entry_of(record: Record) -> LogEntry | Dropped:
    """Read a line of the log."""
    match record:
        case {"log": line}:
            fields = {name: line[name] for name in line if name not in LogEntry._fields}
            return LogEntry(line["time"], line["level"], line["source"], line["message"], fields)
        case {"event": "dropped", "count": count}:
            return Dropped(count)
    raise ControlError("protocol", f"not a line of the log: {record}")
