"""A blocking client of Serf's RPC, for agents of HashiCorp's Serf, which speak no JSON.

Requests are those of `requests`, translated: parameters into bodies, replies and records into
the objects of the JSON protocol. (See control/README.md, § RPC.)
"""

import re
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from typing import Any, Literal, Self

import msgpack

from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client import requests
from trioserf.control.client.records import CoordinateInfo, LogEntry
from trioserf.control.client.requests import Object
from trioserf.control.client.session import (
    PROMPT_TIMEOUT,
    REMOTE_TIMEOUT,
    AgentSession,
    SyncSocket,
)
from trioserf.control.errors import ControlError
from trioserf.control.payloads import payload_of, with_payload
from trioserf.control.tls import Tls
from trioserf.health import Health

Body = dict[str, Any]

_BODIES_BESIDE_ERRORS = frozenset(("join", "list-keys", "install-key", "use-key", "remove-key"))
"""Commands whose reply has a body even when it is an error."""
_REPLY_BODIES = _BODIES_BESIDE_ERRORS | {"members-filtered", "stats", "get-coordinate"}
"""Commands whose reply has a body."""
_BARE_ERRORS = frozenset(("Authentication required", "Handshake required", "Unsupported command"))
"""Errors of commands that were not run: no body follows."""
_FORBIDDEN = "lacks the scope"
"""Part of our agent's errors about permissions; the body of the reply follows, too."""
_CODES = (
    ("is not allowed here; rpc_allow has", "forbidden"),
    ("Authentication required", "auth_required"),
    ("Invalid authentication token", "auth_failed"),
    ("Invalid event filter", "invalid_filter"),
    ("No pending queries", "no_such_query"),
    ("response already sent", "no_such_query"),
    ("Unsupported command", "unknown_command"),
    ("Unsupported IPC version", "protocol"),
    ("exceeds", "too_large"),
)
"""Parts of Serf's error texts and their codes; every other error is `bad_request`."""
_HEALTH_NUMBERS = (
    *("members", "failed", "left", "health_score"),
    *("intent_queue", "event_queue", "query_queue"),
)
_QUEUE_WARNING = 128
"""Broadcasts in a queue from which Serf logs warnings."""
_LOG_LINE = re.compile(r"(\d\S+ \d\S+) \[(\w+)\] ([^:]+): (.*)", re.DOTALL)
_CAUSE = re.compile(r"\* [Ff]ailed to (?:join|resolve) (\S+): (?:dial \S+ \S+: connect: )?(.+)")


class RpcSession(AgentSession):
    """An `AgentSession` over Serf's RPC."""

    protocol: Literal["msgpack"] = "msgpack"

    def __init__(self, sock: SyncSocket) -> None:
        super().__init__(sock)
        self._unpacker = msgpack.Unpacker(
            raw=False, unicode_errors="surrogateescape", max_buffer_size=256 * 1024 * 1024
        )
        self._stops: set[int] = set()

    @classmethod
    def connect(
        cls,
        address: str = DEFAULT_ADDRESS,
        auth: str | None = None,
        *,
        timeout: float = 10.0,
        tls: Tls | None = None,
    ) -> Self:
        """Connect and authenticate; arguments and errors as `connect_any`."""
        with ExitStack() as unfinished:
            session = cls(SyncSocket(address, timeout, tls))
            unfinished.callback(session.close)
            try:
                session._exchange("handshake", {"Version": 1}, timeout)
                if auth:
                    session._exchange("auth", {"AuthKey": auth}, timeout)
            except ControlError as error:
                if error.code == "disconnected":
                    text = f"no agent of Serf at {address}: it closed the connection"
                    raise ControlError("protocol", text) from None
                raise
            unfinished.pop_all()
        return session

    def coordinate(self, node: str | None = None) -> CoordinateInfo:
        """Return the network coordinate of a member (None: of the agent)."""
        requests.coordinate(node)  # checks the argument
        name = self.info()["agent"]["name"] if node is None else node
        reply = self._exchange("get-coordinate", {"Node": name}, PROMPT_TIMEOUT)
        if not reply["Ok"]:
            raise ControlError("no_such_member", f"no coordinate is known of '{name}'")
        found = reply["Coord"]
        return CoordinateInfo(
            tuple(found["Vec"]), found["Error"], found["Adjustment"], found["Height"]
        )

    def rtt(self, node: str, other: str | None = None) -> float:
        """Estimate the round-trip time of two members (`other`: the agent), in seconds."""
        requests.rtt(node, other)  # checks the arguments
        return self.coordinate(node).distance(self.coordinate(other))

    def decline(self, id: int) -> None:  # noqa: A002
        """Do nothing: Serf's RPC has no such message. The requester waits for its deadline."""
        requests.decline(id)

    def _ask(self, command: str, parameters: Object, timeout: float) -> Object:
        translate_request, translate_reply = _TRANSLATIONS[command]
        name, body = translate_request(parameters)
        return translate_reply(self._exchange(name, body, timeout))

    def _open(
        self, command: str, parameters: Object, limit: float | None
    ) -> Generator[Object, None, None]:
        match command:
            case "query":
                seq = self.open_stream("query", _query_body(parameters))
                timeout = (limit or 0.0) + REMOTE_TIMEOUT
                return self._read_query(seq, timeout, parameters.get("first"))
            case "stream":
                # Serf neither coalesces here nor distinguishes clients that respond.
                seq = self.open_stream("stream", {"Type": ",".join(parameters["types"])})
                return self._read_stream(seq, event_record)
            case _:
                seq = self.open_stream("monitor", {"LogLevel": parameters["level"]})
                return self._read_stream(seq, _log_record)

    def _read_stream(
        self, seq: int, translate: Callable[[Body], Object]
    ) -> Generator[Object, None, None]:
        with closing(self.records(seq)) as records:
            for record in records:
                yield record if "event" in record else translate(record)

    def _read_query(
        self, seq: int, timeout: float, first: int | None
    ) -> Generator[Object, None, None]:
        """Yield the records of a query; `first` ends it early, which Serf itself cannot."""
        acks = responses = 0
        with closing(self.records(seq, timeout=timeout)) as records:
            for record in records:
                kind = record.get("Type")
                if kind == "ack":
                    acks += 1
                    yield {"type": "ack", "from": record["From"]}
                elif kind == "response":
                    responses += 1
                    response = {"type": "response", "from": record["From"]}
                    yield with_payload(response, record["Payload"] or b"")
                if kind == "done" or responses == first:
                    yield {"type": "done", "acks": acks, "responses": responses}
                    return

    def _exchange(self, command: str, body: Body | None, timeout: float) -> Body:
        """Send a request of Serf's RPC and return the body of its reply."""
        self._seq += 1
        seq = self._seq
        self._socket.set_timeout(timeout)
        self._send(command, seq, body)
        while (header := self._header())["Seq"] != seq:
            self._route(header)
        error = header["Error"]
        is_short = error and _FORBIDDEN not in error
        bodies = _BODIES_BESIDE_ERRORS if is_short else _REPLY_BODIES
        reply = self._map() if command in bodies and error not in _BARE_ERRORS else {}
        if error:
            raise _error_of(error, reply)
        return reply

    def _send(self, command: str, seq: int, body: Body | None) -> None:
        data = _pack({"Command": command, "Seq": seq})
        self._socket.send(data if body is None else data + _pack(body))

    def open_stream(self, command: str, body: Body) -> int:
        """Start a stream of Serf's RPC; return its seq, for `records`."""
        self._exchange(command, body, PROMPT_TIMEOUT)
        self._open_queue(self._seq)
        return self._seq

    def records(self, *seqs: int, timeout: float | None = None) -> Generator[Body, None, None]:
        """Yield the records of streams, as Serf sends them; stop the streams at the end.

        Streams with a timeout (seconds) are queries, which Serf cannot stop: later records are
        ignored.
        """
        try:
            while True:
                if (ready := self._take(*seqs)) is not None:
                    yield ready
                else:
                    self._socket.set_timeout(timeout)
                    self._route(self._header())
        finally:
            for seq in seqs:
                del self._streams[seq]
                if timeout is None:
                    self._send_stop(seq)

    def _send_stop(self, seq: int) -> None:
        """Stop a stream; a lost connection has stopped it."""
        self._seq += 1
        self._stops.add(self._seq)
        try:
            self._send("stop", self._seq, {"Stop": seq})
        except ControlError:
            return

    def _route(self, header: Body) -> None:
        """Read the record that follows a header and queue it for its stream.

        No record follows an error: a Go agent that rejects a request for a missing key parses the
        request's body as one more request, and rejects that as well.
        """
        if header["Error"]:
            return
        self._put(header["Seq"], self._map())

    def _header(self) -> Body:
        while (header := self._map()).get("Seq") in self._stops:
            self._stops.discard(header["Seq"])
        if not isinstance(header.get("Error"), str) or not isinstance(header.get("Seq"), int):
            raise ControlError("protocol", "the other side does not speak Serf's RPC")
        return header

    def _map(self) -> Body:
        while True:
            try:
                value = self._unpacker.unpack()
                break
            except msgpack.OutOfData:
                self._unpacker.feed(self._socket.receive())
            except (msgpack.UnpackException, ValueError):
                value = None
                break
        if not isinstance(value, dict):
            raise ControlError("protocol", "the other side does not speak Serf's RPC")
        return value


def _pack(value: Body) -> bytes:
    data: bytes = msgpack.packb(value, use_bin_type=True, unicode_errors="surrogateescape")
    return data


# --- translation ---


def _error_of(text: str, body: Body) -> ControlError:
    """Convert an error of Serf's RPC."""
    message = text.strip()
    if _FORBIDDEN in text:
        return ControlError("forbidden", message)
    if "NumNodes" in body:
        return ControlError("key_failed", message, _key_record(body))
    if "Num" in body:
        causes = [{"address": at, "reason": reason} for at, reason in _CAUSE.findall(text)]
        return ControlError("join_failed", message, {"causes": causes})
    for part, code in _CODES:
        if part in text:
            return ControlError(code, message)
    return ControlError("bad_request", message)


def _key_record(body: Body) -> Object:
    """Convert the result of a key operation; Serf does not report which keys are primary."""
    return {
        "messages": body["Messages"] or {},
        "keys": body["Keys"] or {},
        "primary_keys": {},
        "nodes": body["NumNodes"],
        "responses": body["NumResp"],
        "errors": body["NumErr"],
    }


def _member_record(body: Body) -> Object:
    """Convert a member."""
    return {
        "name": body["Name"],
        "addr": _host(body["Addr"]),
        "port": body["Port"],
        "tags": body["Tags"] or {},
        "status": body["Status"],
        "protocol": {
            "min": body["DelegateMin"],
            "max": body["DelegateMax"],
            "version": body["DelegateCur"],
        },
    }


def _host(addr: bytes) -> str:
    if len(addr) == 4:
        return socket.inet_ntoa(addr)
    import ipaddress

    address = ipaddress.ip_address(addr)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def log_entry(record: Mapping[str, Any]) -> LogEntry:
    """Read a record of the log; a line without Serf's format becomes the message."""
    line = record.get("Log", f"{record.get('count')} lines were dropped")
    found = _LOG_LINE.fullmatch(line)
    time, level, source, message = found.groups() if found else ("", "", "", line)
    return LogEntry(time, level, source, message)


def _log_record(record: Body) -> Object:
    return {"log": log_entry(record).record}


def event_record(record: Mapping[str, Any]) -> Object:
    """Convert an event; fields that Serf does not report are missing."""
    event: Object = {"event": record["Event"]}
    if "Members" in record:
        event["members"] = [_member_record(member) for member in record["Members"] or ()]
        return event
    names = (("ID", "id"), ("LTime", "ltime"), ("Name", "name"))
    event |= {name: record[field] for field, name in names if field in record}
    with_payload(event, record["Payload"] or b"")
    if "Coalesce" in record:
        event["coalesce"] = record["Coalesce"]
    return event


def _query_body(parameters: Object) -> Body:
    return {
        "FilterNodes": parameters["nodes"] or None,
        "FilterTags": parameters["tags"],
        "Name": parameters["name"],
        "Payload": payload_of(parameters) or None,
        "RelayFactor": parameters["relay_factor"],
        "RequestAck": parameters["ack"],
        "Timeout": int(parameters.get("timeout", 0.0) * 1e9),
    }


def _members_request(parameters: Object) -> tuple[str, Body]:
    return "members-filtered", {
        "Name": parameters.get("name", ""),
        "Status": parameters.get("status", ""),
        "Tags": parameters.get("tags", {}),
    }


def _event_request(parameters: Object) -> tuple[str, Body]:
    return "event", {
        "Coalesce": parameters["coalesce"],
        "Name": parameters["name"],
        "Payload": payload_of(parameters) or None,
    }


def _key_request(parameters: Object) -> tuple[str, Body | None]:
    action = parameters["action"]
    if action == "list":
        return "list-keys", None
    return f"{action}-key", {"Key": parameters.get("key", "")}


def _health_record(stats: Body) -> Object:
    """Judge an agent by its statistics."""
    serf = stats["serf"]
    number = {name: int(serf.get(name, "0")) for name in _HEALTH_NUMBERS}
    dead, left = number["failed"], number["left"]
    members = {"alive": number["members"] - dead - left, "dead": dead, "left": left}
    queues = {name: number[f"{name}_queue"] for name in ("intent", "event", "query")}
    found = Health("alive", number["health_score"], members, queues, None)
    judged = found.judged(dict.fromkeys(queues, _QUEUE_WARNING))
    return {**judged._asdict(), "healthy": judged.healthy}


_TRANSLATIONS: Mapping[
    str,
    tuple[Callable[[Object], tuple[str, Body | None]], Callable[[Body], Object]],
] = {
    "members": (
        _members_request,
        lambda body: {"members": [_member_record(member) for member in body["Members"] or ()]},
    ),
    "event": (_event_request, lambda _: {"ltime": None}),
    "respond": (
        lambda params: ("respond", {"ID": params["id"], "Payload": payload_of(params)}),
        lambda _: {},
    ),
    "join": (
        lambda params: ("join", {"Existing": params["addresses"], "Replay": params["replay"]}),
        lambda body: {"joined": body["Num"]},
    ),
    "leave": (lambda _: ("leave", None), lambda _: {}),
    "force-leave": (
        lambda params: ("force-leave", {"Node": params["name"], "Prune": params["prune"]}),
        lambda _: {},
    ),
    "tags": (
        lambda params: ("tags", {"DeleteTags": params["delete"], "Tags": params["set"]}),
        lambda _: {"tags": None},
    ),
    "keys": (_key_request, _key_record),
    "info": (lambda _: ("stats", None), lambda body: body),
    "health": (lambda _: ("stats", None), _health_record),
}
"""For each command, functions that make Serf's command and body, and convert the reply's body."""
