"""The client's core, without input and output: one builder and one reader for each command.

The clients send the requests that the builders make, in JSON lines or, translated by
`rpc_session`, in Serf's RPC, and pass each reply to the request's reader.
(See control/README.md, § Commands.)
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, Generic, Literal, NamedTuple, ParamSpec, TypeVar, get_args

from trioserf import arguments as check
from trioserf.address import Address
from trioserf.control.client.records import (
    AgentEvent,
    CoordinateInfo,
    KeyReport,
    LogEntry,
    MemberInfo,
    Record,
    coordinate_of,
    event_of,
    health_of,
    key_report_of,
    log_entry_of,
    member_of,
    query_record_of,
)
from trioserf.control.errors import ControlError
from trioserf.control.payloads import with_payload
from trioserf.control.tls import Tls
from trioserf.dropping_queue import DroppingQueue
from trioserf.errors import InvalidFilter, InvalidQuery
from trioserf.event_filter import EventFilter, event_filters
from trioserf.health import Health
from trioserf.results import Dropped, QueryResult

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


P = ParamSpec("P")


def _checked(build: Callable[P, ResultT]) -> Callable[P, ResultT]:
    """Raise the errors that the agent would send for wrong values; wrong types are TypeErrors."""

    @wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> ResultT:
        try:
            return build(*args, **kwargs)
        except InvalidFilter as error:
            raise ControlError("invalid_filter", str(error)) from None
        except (InvalidQuery, ValueError) as error:
            raise ControlError("bad_request", str(error)) from None

    return checked


@_checked
def check_connection(address: str, auth: str | None, timeout: float, tls: Tls | None) -> None:
    """Check the arguments of a function that connects.

    Raises:
        ControlError: `bad_request`; the timeout is not above zero.
        TypeError: an argument of a wrong type.
    """
    check.text("address", address)
    if auth is not None:
        check.key("auth", auth, str)
    if not check.number("timeout", timeout) > 0:
        raise ValueError(f"timeout: expected seconds above 0, not {timeout}")
    if tls is not None:
        check.instance("tls", tls, Tls)


def handshake() -> Request[Record]:
    """Request the agent's `protocol`, `version` and `node`."""
    return Request("handshake", {}, _read_all, prompt=True)


@_checked
def auth(key: str) -> Request[None]:
    """Authenticate this connection."""
    return Request("auth", {"key": key}, _read_nothing, prompt=True)


@_checked
def members(name: str, status: str, tags: Mapping[str, str] | None) -> Request[list[MemberInfo]]:
    """Request the members that match the expressions."""
    filters = {
        "name": check.text("name", name),
        "status": check.text("status", status),
        "tags": _tags("tags", tags),
    }
    parameters = {key: value for key, value in filters.items() if value}
    return Request("members", parameters, _read_members, prompt=True)


@_checked
def event(name: str, payload: bytes, coalesce: bool) -> Request[int]:
    """Send a user event."""
    parameters = {"name": check.text("name", name), "coalesce": check.flag("coalesce", coalesce)}
    with_payload(parameters, check.payload("payload", payload))
    return Request("event", parameters, _read_field("ltime"), prompt=True)


@_checked
def query(
    name: str,
    payload: bytes,
    *,
    nodes: Iterable[str],
    tags: Mapping[str, str] | None,
    timeout: float | None,
    ack: bool,
    relay_factor: int,
    first: int | None,
) -> StreamRequest[QueryResult]:
    """Send a query."""
    check.check_query_numbers(timeout, relay_factor, first)
    if timeout == math.inf:
        raise ValueError("timeout: expected a finite number of seconds")
    parameters = {
        "name": check.text("name", name),
        "ack": check.flag("ack", ack),
        "relay_factor": relay_factor,
        "nodes": list(check.texts("nodes", nodes)),
        "tags": _tags("tags", tags),
    }
    with_payload(parameters, check.payload("payload", payload))
    parameters |= _without_none(timeout=timeout, first=first)
    return StreamRequest("query", parameters, query_record_of, timeout or 0.0)


@_checked
def respond(id: int, payload: bytes) -> Request[None]:  # noqa: A002
    """Respond to a query."""
    check.payload("payload", payload)
    return Request("respond", with_payload({"id": _query_id(id)}, payload), _read_nothing)


@_checked
def decline(id: int) -> Request[None]:  # noqa: A002
    """Report that no response to a query will follow."""
    return Request("decline", {"id": _query_id(id)}, _read_nothing)


@_checked
def join(addresses: Iterable[str | Address], replay: bool) -> Request[int]:
    """Join through these addresses."""
    parameters = {
        "addresses": list(check.texts("addresses", addresses, Address)),
        "replay": check.flag("replay", replay),
    }
    return Request("join", parameters, _read_field("joined"))


def leave() -> Request[None]:
    """Leave the cluster."""
    return Request("leave", {}, _read_nothing)


@_checked
def force_leave(name: str, prune: bool) -> Request[None]:
    """Declare a failed member as left."""
    parameters = {"name": check.text("name", name), "prune": check.flag("prune", prune)}
    return Request("force-leave", parameters, _read_nothing)


@_checked
def tags(set: Mapping[str, str] | None, delete: Iterable[str]) -> Request[dict[str, str]]:  # noqa: A002
    """Change the agent's tags."""
    parameters = {"set": _tags("set", set), "delete": list(check.texts("delete", delete))}
    return Request("tags", parameters, _read_field("tags"))


@_checked
def keys(action: Action, key: str | None) -> Request[KeyReport]:
    """Install, use, remove or list keys."""
    check.one_of("action", action, get_args(Action))
    if key is not None:
        check.key("key", key, str, " in base64")
    return Request("keys", {"action": action, **_without_none(key=key)}, key_report_of)


def info() -> Request[dict[str, dict[str, Any]]]:
    """Request the groups of `serf info`."""
    return Request("info", {}, _read_groups, prompt=True)


def health() -> Request[Health]:
    """Request what the agent says about itself."""
    return Request("health", {}, health_of, prompt=True)


@_checked
def coordinate(node: str | None) -> Request[CoordinateInfo]:
    """Request a member's network coordinate."""
    if node is not None:
        check.text("node", node)
    return Request("coordinate", _without_none(node=node), coordinate_of, prompt=True)


@_checked
def rtt(node: str, other: str | None) -> Request[float]:
    """Estimate the round-trip time between two members."""
    parameters = {"node": check.text("node", node)}
    if other is not None:
        parameters["other"] = check.text("other", other)
    return Request("rtt", parameters, _read_field("seconds"), prompt=True)


@_checked
def stream(
    types: Sequence[str | EventFilter], coalesce: bool, answers: bool | None
) -> StreamRequest[AgentEvent]:
    """Subscribe to events."""
    parameters: Object = {
        "types": list(map(str, event_filters(tuple(types)))),
        "coalesce": check.flag("coalesce", coalesce),
    }
    if answers is not None:
        parameters["answers"] = check.flag("answers", answers)
    return StreamRequest("stream", parameters, event_of)


@_checked
def monitor(level: str) -> StreamRequest[LogEntry | Dropped]:
    """Subscribe to the agent's log."""
    return StreamRequest("monitor", {"level": check.text("level", level)}, log_entry_of)


def _tags(name: str, values: Mapping[str, str] | None) -> dict[str, str]:
    return {} if values is None else check.text_mapping(name, values)


def _query_id(number: int) -> int:
    return check.whole("id", number, 0)


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
