"""A blocking client of Serf's RPC, for agents that speak no JSON: those of HashiCorp's Serf."""

import ipaddress
import re
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import msgpack

from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.calling import Line
from trioserf.control.errors import ControlError
from trioserf.control.payloads import with_payload
from trioserf.control.records import (
    CoordinateInfo,
    KeyReport,
    LogEntry,
    MemberInfo,
    QueryAck,
    QueryAnswer,
    QueryDone,
    QueryRecord,
)
from trioserf.control.replies import shown
from trioserf.control.session import PATIENT, PROMPT, Action

Body = dict[str, Any]

_BUFFER = 16_384
_BODIES_BESIDE_ERRORS = frozenset(("join", "list-keys", "install-key", "use-key", "remove-key"))
"""Commands whose reply has a body even when it is an error."""
_REPLY_BODIES = _BODIES_BESIDE_ERRORS | {"members-filtered", "stats", "get-coordinate"}
"""Commands whose reply has a body."""
_KEY_COMMANDS: Mapping[Action, str] = {
    "install": "install-key",
    "use": "use-key",
    "remove": "remove-key",
    "list": "list-keys",
}
_CODES = (
    ("Authentication required", "auth_required"),
    ("Invalid authentication token", "auth_failed"),
    ("Invalid event filter", "invalid_filter"),
    ("No pending queries", "no_such_query"),
    ("Unsupported command", "unknown_command"),
    ("Unsupported IPC version", "protocol"),
    ("exceeds", "too_large"),
)
"""What Serf says, and the code for it; anything else is a bad request."""
_LOG_LINE = re.compile(r"(\d\S+ \d\S+) \[(\w+)\] ([^:]+): (.*)", re.DOTALL)
_CAUSE = re.compile(r"\* Failed to join (.+?): (.+)")


class RpcSession:
    """An `AgentSession` over Serf's RPC: the interface documents each method."""

    protocol: Literal["msgpack"] = "msgpack"

    def __init__(self, line: Line) -> None:
        self._line = line
        self._unpacker = msgpack.Unpacker(
            raw=False, unicode_errors="surrogateescape", max_buffer_size=256 * 1024 * 1024
        )
        self._seq = 0
        self._streams: dict[int, deque[Body]] = {}
        self._lost: dict[int, int] = {}
        self._stops: set[int] = set()

    @classmethod
    def connect(
        cls, address: str = DEFAULT_ADDRESS, auth: str | None = None, *, timeout: float = 10.0
    ) -> Self:
        """Connect and greet; arguments and errors as `session.connect_any`."""
        session = cls(Line(address, timeout))
        try:
            session._ask("handshake", {"Version": 1}, timeout)
            if auth:
                session._ask("auth", {"AuthKey": auth}, timeout)
        except ControlError as error:
            session.close()
            if error.code == "disconnected":
                text = f"what answers at {address} is no agent"
                raise ControlError("protocol", text) from None
            raise
        return session

    def members(
        self, name: str = "", status: str = "", tags: Mapping[str, str] | None = None
    ) -> list[MemberInfo]:
        """Give the members that match; a bad expression ends the connection."""
        body = {"Name": name, "Status": status, "Tags": dict(tags or {})}
        return [_member(one) for one in self._ask("members-filtered", body)["Members"] or ()]

    def event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> int | None:
        """Send a user event."""
        self._ask("event", {"Coalesce": coalesce, "Name": name, "Payload": payload or None})
        return None

    def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        timeout: float | None = None,
        ack: bool = True,
        relay_factor: int = 0,
        first: int | None = None,
    ) -> Generator[QueryRecord, None, None]:
        """Ask the cluster; `first` is kept by leaving the query."""
        body = {
            "FilterNodes": list(nodes) or None,
            "FilterTags": dict(tags or {}),
            "Name": name,
            "Payload": payload or None,
            "RelayFactor": relay_factor,
            "RequestAck": ack,
            "Timeout": int((timeout or 0) * 1e9),
        }
        seq = self._open("query", body)
        return self._query_records(seq, (timeout or 0) + PATIENT, first)

    def _query_records(
        self, seq: int, timeout: float, first: int | None
    ) -> Generator[QueryRecord, None, None]:
        acks = answers = 0
        for record in self._records(seq, timeout):
            if record["Type"] == "ack":
                acks += 1
                yield QueryAck(record["From"])
            elif record["Type"] == "response":
                answers += 1
                yield QueryAnswer(record["From"], record["Payload"] or b"")
            if record["Type"] == "done" or answers == first:
                yield QueryDone(acks, answers)
                return

    def respond(self, id: int, payload: bytes) -> None:  # noqa: A002
        """Answer a query."""
        self._ask("respond", {"ID": id, "Payload": payload}, PATIENT)

    def join(self, addresses: Sequence[str], *, replay: bool = False) -> int:
        """Join through these addresses."""
        number: int = self._ask("join", {"Existing": list(addresses), "Replay": replay}, PATIENT)[
            "Num"
        ]
        return number

    def leave(self) -> None:
        """Leave the cluster."""
        self._ask("leave", None, PATIENT)

    def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare a failed member as left; Serf does not mind if it is unknown."""
        self._ask("force-leave", {"Node": name, "Prune": prune}, PATIENT)

    def tags(
        self,
        set: Mapping[str, str] | None = None,  # noqa: A002
        delete: Iterable[str] = (),
    ) -> Mapping[str, str] | None:
        """Change the agent's tags."""
        self._ask("tags", {"DeleteTags": list(delete), "Tags": dict(set or {})}, PATIENT)
        return None

    def keys(self, action: Action, key: str | None = None) -> KeyReport:
        """Change or list keys; Serf does not tell which are primary."""
        body = None if action == "list" else {"Key": key or ""}
        return KeyReport(**_key_fields(self._ask(_KEY_COMMANDS[action], body, PATIENT)))

    def info(self) -> dict[str, dict[str, Any]]:
        """Give the groups of `serf info`."""
        return self._ask("stats")

    def coordinate(self, node: str | None = None) -> CoordinateInfo:
        """Give a coordinate."""
        name = self.info()["agent"]["name"] if node is None else node
        reply = self._ask("get-coordinate", {"Node": name})
        if not reply["Ok"]:
            raise ControlError("no_such_member", f"no coordinate is known of '{name}'")
        place = reply["Coord"]
        return CoordinateInfo(
            tuple(place["Vec"]), place["Error"], place["Adjustment"], place["Height"]
        )

    def rtt(self, node: str, other: str | None = None) -> float:
        """Estimate a round trip."""
        return self.coordinate(node).distance(self.coordinate(other))

    def monitor(self, level: str = "INFO") -> Generator[LogEntry, None, None]:
        """Follow the agent's log."""
        seq = self._open("monitor", {"LogLevel": level})
        return shown(_log_entry, self._records(seq))

    def stream(
        self, types: Sequence[str] = (), *, coalesce: bool = False, answers: bool = False
    ) -> Generator[Body, None, None]:
        """Follow events; Serf neither coalesces here nor asks who answers."""
        del coalesce, answers
        seq = self._open("stream", {"Type": ",".join(types)})
        return shown(_event_record, self._records(seq))

    def close(self) -> None:
        """End the connection."""
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, command: str, body: Body | None = None, timeout: float = PROMPT) -> Body:
        """Send a request and wait for its reply; give the reply's body."""
        self._seq += 1
        seq = self._seq
        self._line.wait(timeout)
        self._send(command, seq, body)
        while (header := self._header())["Seq"] != seq:
            self._keep(header["Seq"])
        said = header["Error"]
        bodies = _BODIES_BESIDE_ERRORS if said else _REPLY_BODIES
        reply = self._map() if command in bodies else {}
        if said:
            raise _fault(said, reply)
        return reply

    def _send(self, command: str, seq: int, body: Body | None) -> None:
        data = _pack({"Command": command, "Seq": seq})
        self._line.send(data if body is None else data + _pack(body))

    def _open(self, command: str, body: Body) -> int:
        """Open a stream; give its seq."""
        self._ask(command, body)
        self._streams[self._seq] = deque()
        return self._seq

    def _records(self, seq: int, timeout: float | None = None) -> Generator[Body, None, None]:
        """Give the records of a stream that has no end; when it is left, it is stopped.

        One with a timeout is a query, which Serf cannot stop: what still comes is ignored.
        """
        kept = self._streams[seq]
        try:
            while True:
                if kept:
                    yield kept.popleft()
                elif seq in self._lost:
                    yield {"Event": "dropped", "Count": self._lost.pop(seq), "Type": "dropped"}
                else:
                    self._line.wait(timeout)
                    self._keep(self._header()["Seq"])
        finally:
            del self._streams[seq]
            self._lost.pop(seq, None)
            if timeout is None:
                self._forget(seq)

    def _forget(self, seq: int) -> None:
        """Stop a stream that its reader left; a connection that is gone has stopped it."""
        self._seq += 1
        self._stops.add(self._seq)
        try:
            self._send("stop", self._seq, {"Stop": seq})
        except ControlError:
            return

    def _keep(self, seq: int) -> None:
        """Take the record that follows a header and put it with its stream."""
        record = self._map()
        kept = self._streams.get(seq)
        if kept is None:
            return
        if len(kept) < _BUFFER:
            kept.append(record)
        else:
            self._lost[seq] = self._lost.get(seq, 0) + 1

    def _header(self) -> Body:
        while (header := self._map()).get("Seq") in self._stops:
            self._stops.discard(header["Seq"])
        if not isinstance(header.get("Error"), str) or not isinstance(header.get("Seq"), int):
            raise ControlError("protocol", "what answers there does not speak Serf's RPC")
        return header

    def _map(self) -> Body:
        while True:
            try:
                value = self._unpacker.unpack()
                break
            except msgpack.OutOfData:
                self._unpacker.feed(self._line.receive())
            except (msgpack.UnpackException, ValueError):
                value = None
                break
        if not isinstance(value, dict):
            raise ControlError("protocol", "what answers there does not speak Serf's RPC")
        return value


def _pack(value: Body) -> bytes:
    data: bytes = msgpack.packb(value, use_bin_type=True, unicode_errors="surrogateescape")
    return data


def _fault(said: str, body: Body) -> ControlError:
    """Make an error of what Serf says."""
    message = said.strip()
    if "NumNodes" in body:
        return ControlError("key_failed", message, _key_fields(body))
    if "Num" in body:
        causes = [{"address": a, "reason": why} for a, why in _CAUSE.findall(said)]
        return ControlError("join_failed", message, {"causes": causes})
    for words, code in _CODES:
        if words in said:
            return ControlError(code, message)
    return ControlError("bad_request", message)


def _key_fields(body: Body) -> Body:
    return {
        "messages": body["Messages"] or {},
        "keys": body["Keys"] or {},
        "primary_keys": {},
        "nodes": body["NumNodes"],
        "responses": body["NumResp"],
        "errors": body["NumErr"],
    }


def _member(one: Body) -> MemberInfo:
    return MemberInfo(
        one["Name"],
        _host(one["Addr"]),
        one["Port"],
        one["Tags"] or {},
        one["Status"],
        one["DelegateMin"],
        one["DelegateMax"],
        one["DelegateCur"],
    )


def _host(addr: bytes) -> str:
    address = ipaddress.ip_address(addr)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _log_entry(record: Mapping[str, Any]) -> LogEntry:
    line = record.get("Log", f"{record.get('Count')} lines were lost on the way")
    found = _LOG_LINE.fullmatch(line)
    return LogEntry(*found.groups()) if found else LogEntry("", "", "", line)


def _event_record(record: Mapping[str, Any]) -> Body:
    """Show an event as the JSON protocol does, as far as Serf tells it."""
    ours: Body = {"event": record["Event"]}
    if "Members" in record:
        ours["members"] = [_member_record(_member(one)) for one in record["Members"] or ()]
        return ours
    names: tuple[tuple[str, str], ...] = (
        ("ID", "id"), ("LTime", "ltime"), ("Name", "name"), ("Count", "count"),
    )  # fmt: skip
    ours |= {name: record[theirs] for theirs, name in names if theirs in record}
    if "Payload" in record:
        with_payload(ours, record["Payload"] or b"")
    if "Coalesce" in record:
        ours["coalesce"] = record["Coalesce"]
    return ours


def _member_record(one: MemberInfo) -> Body:
    return {
        "name": one.name,
        "addr": one.addr,
        "port": one.port,
        "tags": dict(one.tags),
        "status": one.status,
        "protocol": {
            "min": one.protocol_min,
            "max": one.protocol_max,
            "version": one.protocol_version,
        },
    }
