"""One interface to an agent for programs that block, whichever protocol the agent speaks.

Imports nothing heavy: a command line starts in milliseconds.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.records import (
    CoordinateInfo,
    KeyReport,
    LogEntry,
    MemberInfo,
    QueryRecord,
)
from trioserf.control.errors import ControlError

PROMPT = 30.0
"""Seconds without a byte from the agent after which a request that needs nobody else fails."""
PATIENT = 300.0
"""The same for requests that wait for other members."""

Action = Literal["install", "use", "remove", "list"]


class AgentSession(Protocol):
    """A connection to an agent.

    Every method raises ControlError: with the agent's code and message, or with `timeout`,
    `disconnected` or `protocol`. Records come in generators: other requests may be made while one
    is open, and `close()` ends it early. Not for use from several threads at once.
    """

    @property
    def protocol(self) -> Literal["json", "msgpack"]:
        """What the agent speaks."""
        ...

    def members(
        self, name: str = "", status: str = "", tags: Mapping[str, str] | None = None
    ) -> list[MemberInfo]:
        """Give the members that match the expressions (anchored as `^…$`; empty: any)."""
        ...

    def event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> int | None:
        """Send a user event; gives its Lamport time where the protocol tells it."""
        ...

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
        """Ask the cluster; gives acks and answers as they come, `QueryDone` last.

        It is asked at once, before the first record is taken. `timeout` in seconds (None: the
        cluster's default); `first` ends the query after that many answers.
        """
        ...

    def respond(self, id: int, payload: bytes) -> None:  # noqa: A002
        """Answer a query that came in a stream."""
        ...

    def join(self, addresses: Sequence[str], *, replay: bool = False) -> int:
        """Join through these addresses; gives how many were reached."""
        ...

    def leave(self) -> None:
        """Leave the cluster; returns when that is done. The agent then stops."""
        ...

    def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare a failed member as left; `prune` forgets it altogether."""
        ...

    def tags(
        self,
        set: Mapping[str, str] | None = None,  # noqa: A002
        delete: Iterable[str] = (),
    ) -> Mapping[str, str] | None:
        """Change the agent's tags; gives the new ones where the protocol tells them."""
        ...

    def keys(self, action: Action, key: str | None = None) -> KeyReport:
        """Install, use, remove or list keys (in base64) on every member.

        An error `key_failed` carries the report's fields in its `details`.
        """
        ...

    def info(self) -> dict[str, dict[str, Any]]:
        """Give the groups of `serf info`; over msgpack every value is text."""
        ...

    def coordinate(self, node: str | None = None) -> CoordinateInfo:
        """Give a member's network coordinate, or the agent's own."""
        ...

    def rtt(self, node: str, other: str | None = None) -> float:
        """Estimate the round trip between two members (`other`: the agent), in seconds."""
        ...

    def monitor(self, level: str = "INFO") -> Generator[LogEntry, None, None]:
        """Follow the agent's log, beginning with its last 512 lines."""
        ...

    def stream(
        self, types: Sequence[str] = (), *, coalesce: bool = False, answers: bool = False
    ) -> Generator[dict[str, Any], None, None]:
        """Follow events; gives the records of the JSON protocol, without `seq`.

        `types` are event filters (none: all). Over msgpack, records lack what Serf does not tell:
        `time`, `from` and `deadline`. `answers` says that this session may answer queries.
        """
        ...

    def close(self) -> None:
        """End the connection."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def connect_any(
    address: str = DEFAULT_ADDRESS, auth: str | None = None, *, timeout: float = 10.0
) -> AgentSession:
    """Connect to whatever agent is at `address`, over JSON lines if it speaks them.

    An agent of Serf's own closes a connection that begins with JSON; it is then called again and
    spoken to in msgpack.

    Args:
        address: `host:port`, a bare host (port 7373) or `unix:PATH`.
        auth: the agent's key, if it asks for one.
        timeout: seconds for the connection and for each step of the greeting.

    Raises:
        ControlError: `unreachable`; `auth_required` and `auth_failed`; `protocol` when the other
            side speaks neither.
    """
    from trioserf.control.client.json_session import JsonSession

    try:
        return JsonSession.connect(address, auth, timeout=timeout)
    except ControlError as error:
        if error.code not in ("disconnected", "protocol"):
            raise
    from trioserf.control.client.rpc_session import RpcSession

    return RpcSession.connect(address, auth, timeout=timeout)
