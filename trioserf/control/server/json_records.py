"""Domain objects as the JSON objects of the control protocol (its README shows each of them)."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from trioserf.agent.logs import LogLine
from trioserf.control.payloads import with_payload
from trioserf.coordinate import Coordinate
from trioserf.serf.events import Dropped, Event, MemberEvent, UserEventReceived
from trioserf.serf.key_queries import KeyQueryResult
from trioserf.serf.member import Member
from trioserf.serf.query_collector import QueryDone

Record = dict[str, Any]
WallClock = Callable[[], datetime]
"""Returns the time of day in UTC; used only in records for users."""


def utc_now() -> datetime:
    """Return the system's time of day in UTC."""
    return datetime.now(UTC)


def wall_text(moment: datetime) -> str:
    """Spell a UTC moment in ISO 8601 with milliseconds and `Z`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def member(one: Member) -> Record:
    """Show a member."""
    versions = one.versions
    return {
        "name": one.name,
        "addr": one.address.host,
        "port": one.address.port,
        "tags": dict(one.tags),
        "status": one.status_text,
        "protocol": {
            "min": versions.delegate_min,
            "max": versions.delegate_max,
            "version": versions.delegate_cur,
        },
    }


def event(what: Event | Dropped, wall: datetime, now: float) -> Record:
    """Show an event record; `wall` and `now` are the same instant on the two clocks."""
    if isinstance(what, Dropped):
        return {"event": "dropped", "count": what.count}
    record: Record = {"event": what.kind, "time": wall_text(wall)}
    if isinstance(what, MemberEvent):
        record["members"] = [member(one) for one in what.members]
    elif isinstance(what, UserEventReceived):
        record["ltime"] = what.ltime
        record["name"] = what.name
        with_payload(record, what.payload)
        record["coalesce"] = what.coalesce
    else:
        record["id"] = what.id
        record["ltime"] = what.ltime
        record["name"] = what.name
        with_payload(record, what.payload)
        record["from"] = what.source
        left = timedelta(seconds=max(0.0, what.deadline - now))
        record["deadline"] = wall_text(wall + left)
    return record


def query_ack(source: str) -> Record:
    """Show an acknowledgement."""
    return {"type": "ack", "from": source}


def query_answer(source: str, payload: bytes) -> Record:
    """Show an answer."""
    return with_payload({"type": "response", "from": source}, payload)


def query_done(end: QueryDone) -> Record:
    """Show the end of a query."""
    return {
        "type": "done",
        "acks": end.acks,
        "responses": end.responses,
        "expected": end.expected,
        "missing": list(end.missing),
    }


def log(line: LogLine | Dropped) -> Record:
    """Show a line of the log."""
    if isinstance(line, Dropped):
        return {"event": "dropped", "count": line.count}
    return {
        "log": {
            "time": wall_text(line.time),
            "level": line.level,
            "source": line.source,
            "message": line.message,
        }
    }


def keys(result: KeyQueryResult) -> Record:
    """Show what members answered to a key operation."""
    return {
        "messages": dict(result.messages),
        "keys": dict(result.keys),
        "primary_keys": dict(result.primary_keys),
        "nodes": result.nodes,
        "responses": result.responses,
        "errors": result.errors,
    }


def coordinate(place: Coordinate) -> Record:
    """Show a network coordinate."""
    return {
        "vec": list(place.vec),
        "error": place.error,
        "adjustment": place.adjustment,
        "height": place.height,
    }


def groups(info: Mapping[str, Mapping[str, object]]) -> Record:
    """Show the groups of `serf info`; whatever is no JSON value becomes text."""
    return {
        name: {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in group.items()
        }
        for name, group in info.items()
    }
