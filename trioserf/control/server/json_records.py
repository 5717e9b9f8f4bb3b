"""Conversion of results to the objects of the JSON protocol (see control/README.md)."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from trioserf.agent.log_lines import LogLine, utc_text
from trioserf.control.payloads import with_payload
from trioserf.coordinate import Coordinate
from trioserf.health import Health
from trioserf.results import Dropped, QueryDone
from trioserf.serf.events import Event, MemberEvent, UserEventReceived
from trioserf.serf.key_queries import KeyQueryResult
from trioserf.serf.member import Member

Record = dict[str, Any]
WallClock = Callable[[], datetime]
"""Returns the time of day in UTC; used only in records for users."""


def utc_now() -> datetime:
    """Return the system's time of day in UTC."""
    return datetime.now(UTC)


def member(member: Member) -> Record:
    """Convert a member."""
    versions = member.versions
    return {
        "name": member.name,
        "addr": member.address.host,
        "port": member.address.port,
        "tags": dict(member.tags),
        "status": member.status,
        "protocol": {
            "min": versions.delegate_min,
            "max": versions.delegate_max,
            "version": versions.delegate_cur,
        },
        "release": member.release,
    }


def event(item: Event | Dropped, wall: datetime, now: float) -> Record:
    """Convert an event; `wall` and `now` are the same instant on the two clocks."""
    if isinstance(item, Dropped):
        return {"event": "dropped", "count": item.count}
    record: Record = {"event": item.kind, "time": utc_text(wall)}
    if isinstance(item, MemberEvent):
        record["members"] = list(map(member, item.members))
        if item.cause is not None:
            record["cause"] = {
                "suspected_by": item.cause.suspected_by,
                "reason": item.cause.reason,
                "declared_by": item.cause.declared_by,
            }
    elif isinstance(item, UserEventReceived):
        record["ltime"] = item.ltime
        record["name"] = item.name
        with_payload(record, item.payload)
        record["coalesce"] = item.coalesce
    else:
        record["id"] = item.id
        record["ltime"] = item.ltime
        record["name"] = item.name
        with_payload(record, item.payload)
        record["from"] = item.source
        left = timedelta(seconds=max(0.0, item.deadline - now))
        record["deadline"] = utc_text(wall + left)
    return record


def query_ack(source: str) -> Record:
    """Convert an ack."""
    return {"type": "ack", "from": source}


def query_response(source: str, payload: bytes) -> Record:
    """Convert a response."""
    return with_payload({"type": "response", "from": source}, payload)


def query_done(end: QueryDone) -> Record:
    """Convert the end of a query."""
    return {
        "type": "done",
        "acks": end.acks,
        "responses": end.responses,
        "expected": end.expected,
        "missing": list(end.missing),
    }


def log(line: LogLine | Dropped) -> Record:
    """Convert a line of the log."""
    if isinstance(line, Dropped):
        return {"event": "dropped", "count": line.count}
    return {"log": line.record}


def keys(result: KeyQueryResult) -> Record:
    """Convert the result of a key operation."""
    return {
        "messages": dict(result.messages),
        "keys": dict(result.keys),
        "primary_keys": dict(result.primary_keys),
        "nodes": result.nodes,
        "responses": result.responses,
        "errors": result.errors,
    }


def coordinate(coordinate: Coordinate) -> Record:
    """Convert a network coordinate."""
    return {
        "vec": list(coordinate.vec),
        "error": coordinate.error,
        "adjustment": coordinate.adjustment,
        "height": coordinate.height,
    }


def health(found: Health) -> Record:
    """Convert the health of an agent."""
    return {
        "healthy": found.healthy,
        "reasons": list(found.reasons),
        "phase": found.phase,
        "score": found.score,
        "members": dict(found.members),
        "queues": dict(found.queues),
        "joined": found.joined,
    }


def groups(info: Mapping[str, Mapping[str, object]]) -> Record:
    """Convert the groups of `serf info`; values of types that JSON lacks become text."""
    return {
        name: {
            key: value if isinstance(value, bool | int | float | str | list) else str(value)
            for key, value in group.items()
        }
        for name, group in info.items()
    }
