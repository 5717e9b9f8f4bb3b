"""The client's core, without input and output: one builder and one reader for each command.

The clients send the requests that the builders make, in JSON lines or, translated by
`rpc_session`, in Serf's RPC, and pass each reply to the request's reader.
(See control/README.md, § Commands.)
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from trioserf.control.client.records import (
    AgentEvent,
    CoordinateInfo,
    Dropped,
    KeyReport,
    LogEntry,
    MemberInfo,
    QueryRecord,
    Record,
    coordinate_of,
    event_of,
    key_report_of,
    log_entry_of,
    member_of,
    query_record_of,
)
from trioserf.control.errors import ControlError
from trioserf.control.payloads import with_payload
from trioserf.dropping_queue import DroppingQueue

ResultT = TypeVar("ResultT")
Object = dict[str, Any]

Action = Literal["install", "use", "remove", "list"]


class Request(NamedTuple, Generic[ResultT]):
    """A request with one reply; `prompt`: the agent replies without waiting for members."""

    command: str
    parameters: Object
    read: Callable[[Record], ResultT]
    prompt: bool = False


class StreamRequest(NamedTuple, Generic[ResultT]):
    """A request whose reply is followed by records, each of which `read` converts.

    `limit`: seconds until a query ends on its own; None for a stream that has no end.
    """

    command: str
    parameters: Object
    read: Callable[[Record], ResultT]
    limit: float | None = None


def handshake() -> Request[Record]:
    """Request the agent's `protocol`, `version` and `node`."""
    return Request("handshake", {}, _read_all, prompt=True)


def auth(key: str) -> Request[None]:
    """Authenticate this connection."""
    return Request("auth", {"key": key}, _read_nothing, prompt=True)


def members(name: str, status: str, tags: Mapping[str, str] | None) -> Request[list[MemberInfo]]:
    """Request the members that match the expressions."""
    filters = {"name": name, "status": status, "tags": dict(tags or {})}
    parameters = {key: value for key, value in filters.items() if value}
    return Request("members", parameters, _read_members, prompt=True)


def event(name: str, payload: bytes, coalesce: bool) -> Request[int]:
    """Send a user event."""
    parameters = with_payload({"name": name, "coalesce": coalesce}, payload)
    return Request("event", parameters, _read_field("ltime"), prompt=True)


def query(
    name: str,
    payload: bytes,
    *,
    nodes: Sequence[str],
    tags: Mapping[str, str] | None,
    timeout: float | None,
    ack: bool,
    relay_factor: int,
    first: int | None,
) -> StreamRequest[QueryRecord]:
    """Send a query."""
    parameters = with_payload({"name": name, "ack": ack, "relay_factor": relay_factor}, payload)
    parameters |= {"nodes": list(nodes), "tags": dict(tags or {})}
    parameters |= _without_none(timeout=timeout, first=first)
    return StreamRequest("query", parameters, query_record_of, timeout or 0.0)


def respond(id: int, payload: bytes) -> Request[None]:  # noqa: A002
    """Respond to a query."""
    return Request("respond", with_payload({"id": id}, payload), _read_nothing)


def decline(id: int) -> Request[None]:  # noqa: A002
    """Report that no response to a query will follow."""
    return Request("decline", {"id": id}, _read_nothing)


def join(addresses: Sequence[str], replay: bool) -> Request[int]:
    """Join through these addresses."""
    return Request("join", {"addresses": list(addresses), "replay": replay}, _read_field("joined"))


def leave() -> Request[None]:
    """Leave the cluster."""
    return Request("leave", {}, _read_nothing)


def force_leave(name: str, prune: bool) -> Request[None]:
    """Declare a failed member as left."""
    return Request("force-leave", {"name": name, "prune": prune}, _read_nothing)


def tags(set: Mapping[str, str] | None, delete: Iterable[str]) -> Request[dict[str, str]]:  # noqa: A002
    """Change the agent's tags."""
    return Request("tags", {"set": dict(set or {}), "delete": list(delete)}, _read_field("tags"))


def keys(action: Action, key: str | None) -> Request[KeyReport]:
    """Install, use, remove or list keys."""
    return Request("keys", {"action": action, **_without_none(key=key)}, key_report_of)


def info() -> Request[dict[str, dict[str, Any]]]:
    """Request the groups of `serf info`."""
    return Request("info", {}, _read_groups, prompt=True)


def coordinate(node: str | None) -> Request[CoordinateInfo]:
    """Request a member's network coordinate."""
    return Request("coordinate", _without_none(node=node), coordinate_of, prompt=True)


def rtt(node: str, other: str | None) -> Request[float]:
    """Estimate the round-trip time between two members."""
    return Request(
        "rtt", {"node": node, **_without_none(other=other)}, _read_field("seconds"), prompt=True
    )


def stream(
    types: Sequence[str], coalesce: bool, answers: bool | None
) -> StreamRequest[AgentEvent]:
    """Subscribe to events."""
    parameters = {"types": list(types), "coalesce": coalesce, **_without_none(answers=answers)}
    return StreamRequest("stream", parameters, event_of)


def monitor(level: str) -> StreamRequest[LogEntry | Dropped]:
    """Subscribe to the agent's log."""
    return StreamRequest("monitor", {"level": level}, log_entry_of)


def _without_none(**parameters: object) -> Object:
    """Return the parameters that are not None."""
    return {name: value for name, value in parameters.items() if value is not None}


def _read_field(name: str) -> Callable[[Record], Any]:
    return lambda reply: reply[name]


def _read_all(reply: Record) -> Record:
    return reply


def _read_nothing(reply: Record) -> None:
    del reply


def _read_members(reply: Record) -> list[MemberInfo]:
    return [member_of(member) for member in reply["members"]]


def _read_groups(reply: Record) -> dict[str, dict[str, Any]]:
    return {name: group for name, group in reply.items() if isinstance(group, dict)}


# --- JSON lines ---


def encode_line(command: str, seq: int, parameters: Mapping[str, Any]) -> bytes:
    """Encode a request as a line."""
    return json.dumps({"command": command, "seq": seq, **parameters}).encode("ascii") + b"\n"


class LineReader:
    """Decodes the lines of an agent as they arrive, whole or in pieces."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[Object]:
        """Yield the objects that are complete with these bytes.

        Raises:
            ControlError: `protocol`; a line is not a JSON object.
        """
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._parts.append(line)
            complete, self._parts = b"".join(self._parts), []
            yield _decode(complete)
        self._parts.append(rest)


def _decode(line: bytes) -> Object:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise ControlError("protocol", "the other side does not speak JSON lines")
    return record


def result_of(reply: Object) -> Object:
    """Return the fields of a reply, without `seq` and `ok`.

    Raises:
        ControlError: the reply is an error.
    """
    if not reply["ok"]:
        raise error_from(reply)
    return {key: value for key, value in reply.items() if key not in ("seq", "ok")}


def record_queue(size: int) -> DroppingQueue[Object]:
    """Return a queue for the records of a stream; a record `dropped` counts those without room."""
    return DroppingQueue(size, lambda count: {"event": "dropped", "count": count})


def unreachable(address: str, error: Exception) -> ControlError:
    """Convert the exception of a connection that could not be made."""
    match error:
        case TimeoutError():
            return ControlError("unreachable", f"no agent answers at {address}")
        case OSError():
            reason = (error.strerror or str(error)).lower()
            return ControlError("unreachable", f"no agent at {address}: {reason}")
    return ControlError("unreachable", str(error))


def error_from(reply: Record) -> ControlError:
    """Convert the error of a reply; `details` holds all fields but code and message."""
    error = dict(reply["error"])
    code, message = error.pop("code"), error.pop("message")
    details = {k: v for k, v in reply.items() if k not in ("seq", "ok", "error")}
    return ControlError(code, message, {**error, **details})
