"""A blocking client of Serf's RPC, for agents that speak no JSON: those of HashiCorp's Serf."""

from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, Self

import msgpack

from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.connect import PATIENT, PROMPT, Action
from trioserf.control.client.records import (
    CoordinateInfo,
    KeyReport,
    LogEntry,
    MemberInfo,
    QueryAck,
    QueryAnswer,
    QueryDone,
    QueryRecord,
)
from trioserf.control.client.replies import map_records
from trioserf.control.client.rpc_records import (
    Body,
    event_record,
    fault,
    key_fields,
    log_entry,
    member,
)
from trioserf.control.client.session import Session, SyncSocket
from trioserf.control.errors import ControlError

_BODIES_BESIDE_ERRORS = frozenset(("join", "list-keys", "install-key", "use-key", "remove-key"))
"""Commands whose reply has a body even when it is an error."""
_REPLY_BODIES = _BODIES_BESIDE_ERRORS | {"members-filtered", "stats", "get-coordinate"}
"""Commands whose reply has a body."""
_BARE_ERRORS = frozenset(("Authentication required", "Handshake required", "Unsupported command"))
"""Errors that come before the command is looked at: no body is beside them."""
_KEY_COMMANDS: Mapping[Action, str] = {
    "install": "install-key",
    "use": "use-key",
    "remove": "remove-key",
    "list": "list-keys",
}


class RpcSession(Session):
    """An `AgentSession` over Serf's RPC: the interface documents each method."""

    protocol: Literal["msgpack"] = "msgpack"

    def __init__(self, line: SyncSocket) -> None:
        super().__init__(line)
        self._unpacker = msgpack.Unpacker(
            raw=False, unicode_errors="surrogateescape", max_buffer_size=256 * 1024 * 1024
        )
        self._stops: set[int] = set()

    @classmethod
    def connect(
        cls, address: str = DEFAULT_ADDRESS, auth: str | None = None, *, timeout: float = 10.0
    ) -> Self:
        """Connect and greet; arguments and errors as `session.connect_any`."""
        with ExitStack() as unfinished:
            session = cls(SyncSocket(address, timeout))
            unfinished.callback(session.close)
            try:
                session._ask("handshake", {"Version": 1}, timeout)
                if auth:
                    session._ask("auth", {"AuthKey": auth}, timeout)
            except ControlError as error:
                if error.code == "disconnected":
                    text = f"what answers at {address} is no agent"
                    raise ControlError("protocol", text) from None
                raise
            unfinished.pop_all()
        return session

    def members(
        self, name: str = "", status: str = "", tags: Mapping[str, str] | None = None
    ) -> list[MemberInfo]:
        """Give the members that match; a bad expression ends the connection."""
        body = {"Name": name, "Status": status, "Tags": dict(tags or {})}
        return [member(one) for one in self._ask("members-filtered", body)["Members"] or ()]

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
        seq = self.open_stream("query", body)
        return self._query_records(seq, (timeout or 0) + PATIENT, first)

    def _query_records(
        self, seq: int, timeout: float, first: int | None
    ) -> Generator[QueryRecord, None, None]:
        acks = answers = 0
        for record in self.records(seq, timeout=timeout):
            if record.get("Type") == "ack":
                acks += 1
                yield QueryAck(record["From"])
            elif record.get("Type") == "response":
                answers += 1
                yield QueryAnswer(record["From"], record["Payload"] or b"")
            if record.get("Type") == "done" or answers == first:
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
        return KeyReport(**key_fields(self._ask(_KEY_COMMANDS[action], body, PATIENT)))

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
        seq = self.open_stream("monitor", {"LogLevel": level})
        return map_records(log_entry, self.records(seq))

    def stream(
        self, types: Sequence[str] = (), *, coalesce: bool = False, answers: bool = False
    ) -> Generator[Body, None, None]:
        """Follow events; Serf neither coalesces here nor asks who answers."""
        del coalesce, answers
        seq = self.open_stream("stream", {"Type": ",".join(types)})
        return map_records(event_record, self.records(seq))

    def _ask(self, command: str, body: Body | None = None, timeout: float = PROMPT) -> Body:
        """Send a request and wait for its reply; give the reply's body."""
        self._seq += 1
        seq = self._seq
        self._line.wait(timeout)
        self._send(command, seq, body)
        while (header := self._header())["Seq"] != seq:
            self._route(header)
        said = header["Error"]
        bodies = _BODIES_BESIDE_ERRORS if said else _REPLY_BODIES
        reply = self._map() if command in bodies and said not in _BARE_ERRORS else {}
        if said:
            raise fault(said, reply)
        return reply

    def _send(self, command: str, seq: int, body: Body | None) -> None:
        data = _pack({"Command": command, "Seq": seq})
        self._line.send(data if body is None else data + _pack(body))

    def open_stream(self, command: str, body: Body) -> int:
        """Open a stream; give its seq, for `records`."""
        self._ask(command, body)
        self._streams[self._seq] = deque()
        return self._seq

    def records(self, *seqs: int, timeout: float | None = None) -> Generator[Body, None, None]:
        """Give the records of streams that have no end; when they are left, they are stopped.

        Those with a timeout are queries, which Serf cannot stop: what still comes is ignored.
        """
        try:
            while True:
                if (ready := self._take(*seqs)) is not None:
                    yield ready
                else:
                    self._line.wait(timeout)
                    self._route(self._header())
        finally:
            for seq in seqs:
                self._drop(seq)
                if timeout is None:
                    self._stop_stream(seq)

    def _stop_stream(self, seq: int) -> None:
        """Stop a stream that its reader left; a connection that is gone has stopped it."""
        self._seq += 1
        self._stops.add(self._seq)
        try:
            self._send("stop", self._seq, {"Stop": seq})
        except ControlError:
            return

    def _route(self, header: Body) -> None:
        """Take the record that follows a header and put it with its stream.

        A header that tells an error has none: an agent that refuses a request before it knows the
        key takes the request's body for one more request, and refuses that as well.
        """
        if header["Error"]:
            return
        self._put(header["Seq"], self._map())

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
