"""The interface of blocking clients, and the code common to both protocols."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, Literal, Self, TypeVar

from trioserf.address import Address
from trioserf.control.address import split_address, unix_path
from trioserf.control.client import requests
from trioserf.control.client.records import (
    AgentEvent,
    CoordinateInfo,
    KeyReport,
    LogEntry,
    MemberInfo,
)
from trioserf.control.client.requests import (
    Action,
    Object,
    Request,
    StreamRequest,
    record_queue,
    unreachable,
)
from trioserf.control.errors import ControlError
from trioserf.control.tls import (
    ClientTls,
    Tls,
    certificate_error,
    client_tls,
    split_tls,
    tls_error,
)
from trioserf.dropping_queue import DroppingQueue
from trioserf.errors import AddressError, ConfigError
from trioserf.event_filter import EventFilter
from trioserf.health import Health
from trioserf.operating_system.sockets import unix_socket
from trioserf.results import Dropped, QueryResult

ResultT = TypeVar("ResultT")

PROMPT_TIMEOUT = 30.0
"""Seconds without a byte from the agent after which a prompt request fails."""
REMOTE_TIMEOUT = 300.0
"""The same for requests that wait for members."""
_CHUNK = 262_144
_BUFFER = 16_384
"""Records kept of each open stream while the caller waits for another reply."""


class SyncSocket:
    """A connected socket that raises ControlErrors.

    Args:
        address: `host:port`, `[v6]:port`, a bare host (port 7373), the same after `tls://`, or
            `unix:PATH`.
        timeout: seconds to connect; also the first timeout of reads and writes.
        tls: the options of TLS, for an address that begins with `tls://`.

    Raises:
        ControlError: `unreachable`.
    """

    def __init__(self, address: str, timeout: float, tls: Tls | None = None) -> None:
        self.address = address
        self._timeout: float | None = timeout
        try:
            self._tls = client_tls(address, tls)
            self._socket = _open_socket(address, timeout)
        except (AddressError, ConfigError, OSError) as error:
            raise unreachable(address, error) from None
        if self._tls is not None:
            self._socket = _start_tls(self._socket, address, self._tls)

    def set_timeout(self, timeout: float | None) -> None:
        """Set how long a read or a write may wait, in seconds (None: without limit)."""
        self._timeout = timeout

    def send(self, data: bytes) -> None:
        """Write all bytes.

        Raises:
            ControlError: `timeout`, `disconnected`.
        """
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(data)
        except TimeoutError:
            raise ControlError(
                "timeout", f"the agent at {self.address} accepts no input"
            ) from None
        except OSError as error:
            raise self._disconnected(error) from None

    def receive(self) -> bytes:
        """Read at least one byte.

        Raises:
            ControlError: `timeout`; `disconnected` at the end.
        """
        try:
            self._socket.settimeout(self._timeout)
            data = self._socket.recv(_CHUNK)
        except TimeoutError:
            raise ControlError("timeout", f"no answer from the agent at {self.address}") from None
        except OSError as error:
            raise self._disconnected(error) from None
        if not data:
            raise self._disconnected(None)
        return data

    def _disconnected(self, error: OSError | None) -> ControlError:
        if found := certificate_error(error, self.address, self._tls):
            return found
        reason = f": {(error.strerror or str(error)).lower()}" if error else ""
        return ControlError("disconnected", f"the agent closed the connection{reason}")

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class AgentSession(ABC):
    """A blocking connection to an agent; made by `connect_any`.

    Wrong types of arguments are TypeErrors; every other error is a ControlError: with the agent's
    code and message, or with `timeout`, `disconnected` or `protocol`. A generator yields the
    records of a stream: other requests may be made while it is open, and its `close()` stops the
    stream. Use a session from one thread only.

    Attributes:
        prompt_timeout: seconds without a byte from the agent after which a request fails that
            waits for no member.
    """

    def __init__(self, sock: SyncSocket) -> None:
        self.prompt_timeout = PROMPT_TIMEOUT
        self._socket = sock
        self._seq = 0
        self._streams: dict[int, DroppingQueue[Object]] = {}

    @property
    @abstractmethod
    def protocol(self) -> Literal["json", "msgpack"]:
        """The protocol of this connection."""

    @abstractmethod
    def _ask(self, command: str, parameters: Object, timeout: float) -> Object:
        """Send a request and return the fields of its reply."""

    @abstractmethod
    def _open(
        self, command: str, parameters: Object, limit: float | None
    ) -> Generator[Object, None, None]:
        """Start a stream and return its records; the generator stops it when it is closed."""

    def members(
        self, name: str = "", status: str = "", tags: Mapping[str, str] | None = None
    ) -> list[MemberInfo]:
        """Return the members that match the expressions (anchored as `^…$`; empty: any)."""
        return self._call(requests.members(name, status, tags))

    def event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> int | None:
        """Send a user event; return its Lamport time, None over Serf's RPC."""
        return self._call(requests.event(name, payload, coalesce))

    def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Iterable[str] = (),
        tags: Mapping[str, str] | None = None,
        timeout: float | None = None,
        ack: bool = True,
        relay_factor: int = 0,
        first: int | None = None,
    ) -> Generator[QueryResult, None, None]:
        """Send a query at once; yield acks and responses as they come, `QueryDone` last.

        Args:
            name: name of the query.
            payload: its payload.
            nodes: only these members (none: all).
            tags: only members whose tags match these expressions.
            timeout: seconds until the query ends (None: the cluster's default).
            ack: whether members acknowledge the query.
            relay_factor: members that relay each response, 0 to 255.
            first: end after this many responses.
        """
        return self._records(
            requests.query(
                name,
                payload,
                nodes=nodes,
                tags=tags,
                timeout=timeout,
                ack=ack,
                relay_factor=relay_factor,
                first=first,
            )
        )

    def stream(
        self, *types: str | EventFilter, coalesce: bool = False, answers: bool | None = None
    ) -> Generator[AgentEvent, None, None]:
        """Subscribe to events; arguments as `AsyncClient.stream`."""
        return self._records(requests.stream(types, coalesce, answers))

    def stream_records(
        self, types: Sequence[str] = (), *, coalesce: bool = False, answers: bool | None = False
    ) -> Generator[Object, None, None]:
        """Subscribe to events; yield the records of the JSON protocol, without `seq`.

        Over Serf's RPC, records lack `time`, `from` and `deadline`.
        """
        request = requests.stream(types, coalesce, answers)
        return self._open(request.command, request.parameters, request.limit)

    def monitor(self, level: str = "INFO") -> Generator[LogEntry | Dropped, None, None]:
        """Subscribe to the agent's log, beginning with its last 512 lines."""
        return self._records(requests.monitor(level))

    def respond(self, id: int, payload: bytes = b"") -> None:  # noqa: A002
        """Respond to a query of a stream (`no_such_query`: too late)."""
        self._call(requests.respond(id, payload))

    def decline(self, id: int) -> None:  # noqa: A002
        """Report that no response will follow, so that the requester need not wait."""
        self._call(requests.decline(id))

    def join(self, addresses: Iterable[str | Address], *, replay: bool = False) -> int:
        """Join through these addresses; return how many were reached (`join_failed`: none)."""
        return self._call(requests.join(addresses, replay))

    def leave(self) -> None:
        """Leave the cluster; return when that is done. The agent then stops."""
        self._call(requests.leave())

    def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare a failed member as left; `prune` removes it. A Go agent accepts any name."""
        self._call(requests.force_leave(name, prune))

    def tags(
        self,
        set: Mapping[str, str] | None = None,  # noqa: A002
        delete: Iterable[str] = (),
    ) -> Mapping[str, str] | None:
        """Change the agent's tags; return all of them, None over Serf's RPC."""
        return self._call(requests.tags(set, delete))

    def keys(self, action: Action, key: str | None = None) -> KeyReport:
        """Install, use, remove or list keys (in base64) on every member.

        Raises:
            ControlError: `key_failed`, with the report's fields as `details`.
        """
        return self._call(requests.keys(action, key))

    def info(self) -> dict[str, dict[str, Any]]:
        """Return the groups of `serf info`; over Serf's RPC every value is text."""
        return self._call(requests.info())

    def health(self) -> Health:
        """Return what the agent says about itself; over Serf's RPC without suspects and joins."""
        return self._call(requests.health())

    def coordinate(self, node: str | None = None) -> CoordinateInfo:
        """Return the network coordinate of a member (None: of the agent)."""
        return self._call(requests.coordinate(node))

    def rtt(self, node: str, other: str | None = None) -> float:
        """Estimate the round-trip time of two members (`other`: the agent), in seconds."""
        return self._call(requests.rtt(node, other))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, request: Request[ResultT], timeout: float | None = None) -> ResultT:
        """Send a request; `timeout`: seconds, None for the request's own."""
        if timeout is None:
            timeout = self.prompt_timeout if request.prompt else REMOTE_TIMEOUT
        return request.read(self._ask(request.command, request.parameters, timeout))

    def _records(self, request: StreamRequest[ResultT]) -> Generator[ResultT, None, None]:
        """Start a stream at once, before the caller reads its first record."""
        return _convert(request, self._open(request.command, request.parameters, request.limit))

    def _open_queue(self, seq: int) -> None:
        """Make the queue for the records of a stream."""
        self._streams[seq] = record_queue(_BUFFER)

    def _put(self, seq: object, record: Object) -> None:
        """Queue a record for its stream; drop it if no such stream is open."""
        queue = self._streams.get(seq) if isinstance(seq, int) else None
        if queue is not None:
            queue.put(record)

    def _take(self, *seqs: int) -> Object | None:
        """Return a queued record, or the number of dropped ones, or None."""
        for seq in seqs:
            if self._streams[seq]:
                return self._streams[seq].pop()
        return None


def _convert(
    request: StreamRequest[ResultT], records: Generator[Object, None, None]
) -> Generator[ResultT, None, None]:
    with closing(records):
        for record in records:
            yield request.read(record)


def _start_tls(sock: socket.socket, address: str, tls: ClientTls) -> socket.socket:
    try:
        return tls.context.wrap_socket(sock, server_hostname=tls.server_name)
    except TimeoutError as error:
        sock.close()
        raise unreachable(address, error) from None
    except OSError as error:
        sock.close()
        raise tls_error(error, address, tls) from None


def _open_socket(address: str, timeout: float) -> socket.socket:
    path = unix_path(address)
    if path is None:
        host, port = split_address(split_tls(address)[1])
        # As bytes: with text, Python imports its tables of international names.
        name: Any = host or "127.0.0.1"
        if host.isascii():
            name = name.encode("ascii")
        sock = socket.create_connection((name, port), timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = unix_socket()
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock
