"""A blocking client of the JSON lines, with nothing but the standard library."""

import json
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, Self

from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.connect import PATIENT, PROMPT, Action
from trioserf.control.client.records import (
    CoordinateInfo,
    Dropped,
    KeyReport,
    LogEntry,
    MemberInfo,
    QueryRecord,
)
from trioserf.control.client.replies import (
    coordinate_of,
    error_from,
    key_report_of,
    log_entry_of,
    map_records,
    member_of,
    query_record_of,
)
from trioserf.control.client.session import Session, SyncSocket
from trioserf.control.errors import ControlError
from trioserf.control.payloads import with_payload

Record = dict[str, Any]


class JsonSession(Session):
    """An `AgentSession` over JSON lines: the interface documents each method."""

    protocol: Literal["json"] = "json"

    def __init__(self, line: SyncSocket) -> None:
        super().__init__(line)
        self._data = b""

    @classmethod
    def connect(
        cls, address: str = DEFAULT_ADDRESS, auth: str | None = None, *, timeout: float = 10.0
    ) -> Self:
        """Connect and greet; arguments and errors as `session.connect_any`.

        Raises:
            ControlError: also `disconnected` or `protocol` when no JSON is spoken there.
        """
        with ExitStack() as unfinished:
            session = cls(SyncSocket(address, timeout))
            unfinished.callback(session.close)
            if auth:
                session._ask("auth", {"key": auth}, timeout)
            session._ask("handshake", wait=timeout)
            unfinished.pop_all()
        return session

    def members(
        self, name: str = "", status: str = "", tags: Mapping[str, str] | None = None
    ) -> list[MemberInfo]:
        """Give the members that match."""
        wanted = {"name": name, "status": status, "tags": dict(tags or {})}
        reply = self._ask("members", {key: value for key, value in wanted.items() if value})
        return [member_of(one) for one in reply["members"]]

    def event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> int | None:
        """Send a user event."""
        more = with_payload({"name": name, "coalesce": coalesce}, payload)
        ltime: int = self._ask("event", more)["ltime"]
        return ltime

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
        """Ask the cluster."""
        more = with_payload({"name": name, "ack": ack, "relay_factor": relay_factor}, payload)
        more |= {"nodes": list(nodes), "tags": dict(tags or {})}
        more |= {} if timeout is None else {"timeout": timeout}
        more |= {} if first is None else {"first": first}
        seq = self._open("query", more)
        return map_records(query_record_of, self._records(seq, (timeout or 0) + PATIENT, "done"))

    def respond(self, id: int, payload: bytes) -> None:  # noqa: A002
        """Answer a query."""
        self._ask("respond", with_payload({"id": id}, payload), PATIENT)

    def join(self, addresses: Sequence[str], *, replay: bool = False) -> int:
        """Join through these addresses."""
        where = {"addresses": list(addresses), "replay": replay}
        joined: int = self._ask("join", where, PATIENT)["joined"]
        return joined

    def leave(self) -> None:
        """Leave the cluster."""
        self._ask("leave", wait=PATIENT)

    def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare a failed member as left."""
        self._ask("force-leave", {"name": name, "prune": prune}, PATIENT)

    def tags(
        self,
        set: Mapping[str, str] | None = None,  # noqa: A002
        delete: Iterable[str] = (),
    ) -> Mapping[str, str] | None:
        """Change the agent's tags."""
        change = {"set": dict(set or {}), "delete": list(delete)}
        tags: dict[str, str] = self._ask("tags", change, PATIENT)["tags"]
        return tags

    def keys(self, action: Action, key: str | None = None) -> KeyReport:
        """Change or list keys."""
        wish = {"action": action} if key is None else {"action": action, "key": key}
        return key_report_of(self._ask("keys", wish, PATIENT))

    def info(self) -> dict[str, dict[str, Any]]:
        """Give the groups of `serf info`."""
        reply = self._ask("info")
        return {name: group for name, group in reply.items() if isinstance(group, dict)}

    def coordinate(self, node: str | None = None) -> CoordinateInfo:
        """Give a coordinate."""
        return coordinate_of(self._ask("coordinate", {} if node is None else {"node": node}))

    def rtt(self, node: str, other: str | None = None) -> float:
        """Estimate a round trip."""
        pair = {"node": node} if other is None else {"node": node, "other": other}
        seconds: float = self._ask("rtt", pair)["seconds"]
        return seconds

    def monitor(self, level: str = "INFO") -> Generator[LogEntry, None, None]:
        """Follow the agent's log."""
        seq = self._open("monitor", {"level": level})
        return map_records(_log_entry, self._records(seq))

    def stream(
        self, types: Sequence[str] = (), *, coalesce: bool = False, answers: bool = False
    ) -> Generator[Record, None, None]:
        """Follow events."""
        wish = {"types": list(types), "coalesce": coalesce, "answers": answers}
        return self._records(self._open("stream", wish))

    def _ask(self, command: str, parameters: Record | None = None, wait: float = PROMPT) -> Record:
        """Send a request and wait for its reply; give what it holds beside `seq` and `ok`."""
        self._seq += 1
        request = {"command": command, "seq": self._seq, **(parameters or {})}
        self._line.wait(wait)
        self._line.send(json.dumps(request).encode("ascii") + b"\n")
        while (reply := self._next()).get("seq") != self._seq or "ok" not in reply:
            self._route(reply)
        if not reply["ok"]:
            raise error_from(reply)
        return {key: value for key, value in reply.items() if key not in ("seq", "ok")}

    def _open(self, command: str, parameters: Record) -> int:
        """Open a stream; give its seq."""
        seq = self._seq + 1
        self._streams[seq] = deque()
        try:
            self._ask(command, parameters)
        except ControlError:
            del self._streams[seq]
            raise
        return seq

    def _records(
        self, seq: int, timeout: float | None = None, last: str = "nothing"
    ) -> Generator[Record, None, None]:
        """Give a stream's records, up to one of the type `last`; left early, it is stopped."""
        done = False
        try:
            while not done:
                record = self._take(seq)
                if record is None:
                    self._line.wait(timeout)
                    self._route(self._next())
                    continue
                done = record.get("type") == last or record.get("ok") is False
                if record.get("ok") is False:
                    raise error_from(record)
                yield record
        finally:
            self._drop(seq)
            if not done:
                self._stop_stream(seq)

    def _stop_stream(self, seq: int) -> None:
        """Stop a stream that its reader left; a connection that is gone has stopped it."""
        self._seq += 1
        request = {"command": "stop", "seq": self._seq, "stop": seq}
        try:
            self._line.send(json.dumps(request).encode("ascii") + b"\n")
        except ControlError:
            return

    def _route(self, record: Record) -> None:
        """Put a record with its stream."""
        self._put(record.pop("seq", None), record)

    def _next(self) -> Record:
        """Read one line."""
        parts = [self._data]
        while b"\n" not in parts[-1]:
            parts.append(self._line.receive())
        line, _, self._data = b"".join(parts).partition(b"\n")
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ControlError("protocol", "what answers there does not speak JSON lines")
        return record


def _log_entry(record: Mapping[str, Any]) -> LogEntry:
    entry = log_entry_of(record)
    if isinstance(entry, Dropped):
        return LogEntry("", "WARN", "control", f"{entry.lost} lines were lost on the way")
    return entry
