"""Replies and records of the JSON lines as what clients get.

A missing field is a KeyError: the agent is not one of this protocol's.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any, TypeVar

from trioserf.control.client.records import (
    AgentEvent,
    CoordinateInfo,
    Dropped,
    KeyReport,
    LogEntry,
    MemberEvent,
    MemberInfo,
    QueryAck,
    QueryAnswer,
    QueryDone,
    QueryEvent,
    QueryRecord,
    UserEvent,
)
from trioserf.control.errors import ControlError
from trioserf.control.payloads import payload_of

Record = Mapping[str, Any]
ShownT = TypeVar("ShownT")


def map_records(
    show: Callable[[Record], ShownT], records: Generator[dict[str, Any], None, None]
) -> Generator[ShownT, None, None]:
    """Give records as something else; leaving it early leaves the records, too."""
    with closing(records):
        for record in records:
            yield show(record)


def member_of(record: Record) -> MemberInfo:
    """Read a member from a reply's JSON object (KeyError, TypeError: it is none)."""
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
    )


def key_report_of(reply: Record) -> KeyReport:
    """Read what members said to a key operation from a reply's JSON object."""
    return KeyReport(
        reply["messages"],
        reply["keys"],
        reply["primary_keys"],
        reply["nodes"],
        reply["responses"],
        reply["errors"],
    )


def coordinate_of(reply: Record) -> CoordinateInfo:
    """Read a network coordinate from a reply."""
    place = reply["coordinate"]
    return CoordinateInfo(
        tuple(place["vec"]), place["error"], place["adjustment"], place["height"]
    )


def error_from(reply: Record) -> ControlError:
    """Make an error of a reply; details are what stands beside code and message."""
    error = dict(reply["error"])
    code, message = error.pop("code"), error.pop("message")
    beside = {k: v for k, v in reply.items() if k not in ("seq", "ok", "error")}
    return ControlError(code, message, {**error, **beside})


def query_record_of(record: Record) -> QueryRecord:
    """Read a record of a query."""
    match record:
        case {"type": "ack", "from": source}:
            return QueryAck(source)
        case {"type": "response", "from": source}:
            return QueryAnswer(source, payload_of(record))
        case {"type": "done", "acks": acks, "responses": answers}:
            missing = tuple(record.get("missing", ()))
            return QueryDone(acks, answers, record.get("expected"), missing)
    raise ControlError("protocol", f"no record of a query: {record}")


def event_of(record: Record) -> AgentEvent:
    """Read an event."""
    match record:
        case {"event": "dropped", "count": count}:
            return Dropped(count)
        case {"event": "user", "time": time, "ltime": ltime, "name": name, "coalesce": coalesce}:
            return UserEvent(time, ltime, name, payload_of(record), coalesce)
        case {"event": "query", "time": time, "id": number, "ltime": ltime, "name": name}:
            source, deadline = record["from"], record["deadline"]
            return QueryEvent(time, number, ltime, name, payload_of(record), source, deadline)
        case {"event": kind, "time": time, "members": members}:
            return MemberEvent(kind, time, tuple(member_of(one) for one in members))
    raise ControlError("protocol", f"no event: {record}")


def log_entry_of(record: Record) -> LogEntry | Dropped:
    """Read a line of the log."""
    match record:
        case {"log": line}:
            return LogEntry(line["time"], line["level"], line["source"], line["message"])
        case {"event": "dropped", "count": count}:
            return Dropped(count)
    raise ControlError("protocol", f"no line of the log: {record}")
