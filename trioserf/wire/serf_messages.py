"""The messages of the Serf layer, which ride in memberlist's user messages and push/pulls.

Lamport times and query identifiers are unsigned (64 and 32 bits); timeouts are in nanoseconds, as
on the wire. Payloads are bytes; names are text with surrogate escapes (see `swim.messages`).
"""

from collections.abc import Mapping
from enum import IntEnum, IntFlag

import attrs


class QueryFlag(IntFlag):
    """Flags of a query."""

    ACK = 1
    NO_BROADCAST = 2


class ResponseFlag(IntFlag):
    """Flags of a query's response; the second is ours and ignored by Go."""

    ACK = 1
    NO_ANSWER_WILL_FOLLOW = 256


class Status(IntEnum):
    """What the Serf layer says of a member; the numbers are the wire's."""

    NONE = 0
    ALIVE = 1
    LEAVING = 2
    LEFT = 3
    FAILED = 4


@attrs.frozen
class Leave:
    """`node` is about to leave, or was told to; `prune` erases it altogether."""

    ltime: int
    node: str
    prune: bool = False


@attrs.frozen
class Join:
    """`node` has joined."""

    ltime: int
    node: str


@attrs.frozen
class UserEvent:
    """A custom event; `coalesce` allows handlers to see only the newest of a burst."""

    ltime: int
    name: str
    payload: bytes = b""
    coalesce: bool = False


@attrs.frozen
class BufferedEvents:
    """The user events of one Lamport time, as push/pulls replay them: (name, payload) pairs."""

    ltime: int
    events: tuple[tuple[str, bytes], ...]


@attrs.frozen
class SerfPushPull:
    """The Serf layer's half of a push/pull."""

    ltime: int
    status_ltimes: Mapping[str, int]
    left_members: tuple[str, ...]
    event_ltime: int
    events: tuple[BufferedEvents | None, ...]
    query_ltime: int


@attrs.frozen
class NodeFilter:
    """Only the members of these names."""

    names: tuple[str, ...]


@attrs.frozen
class TagFilter:
    """Only members whose tag matches the (RE2) expression somewhere."""

    tag: str
    expr: str


@attrs.frozen
class Query:
    """A question to the members that match all filters (each still encoded)."""

    ltime: int
    id: int
    addr: bytes
    port: int
    source_node: str
    filters: tuple[bytes, ...]
    flags: int
    relay_factor: int
    timeout: int
    name: str
    payload: bytes = b""


@attrs.frozen
class QueryResponse:
    """An answer to a query, or (by its flags) the acknowledgement that it arrived."""

    ltime: int
    id: int
    source: str
    flags: int
    payload: bytes = b""


@attrs.frozen
class ConflictResponse:
    """What the answerer knows of the member whose name is claimed twice."""

    name: str
    addr: bytes
    port: int
    tags: Mapping[str, str]
    status: int
    protocol_min: int
    protocol_max: int
    protocol_cur: int
    delegate_min: int
    delegate_max: int
    delegate_cur: int


@attrs.frozen
class KeyRequest:
    """Payload of the internal key queries."""

    key: bytes


@attrs.frozen
class KeyResponse:
    """Answer to an internal key query; keys are base64 text."""

    result: bool
    message: str = ""
    keys: tuple[str, ...] = ()
    primary_key: str = ""


@attrs.frozen
class Relay:
    """Please hand `inner` (an encoded Serf message) to the member `name` at `addr`:`port`."""

    addr: bytes
    port: int
    name: str
    inner: bytes
    zone: str = ""


SerfMessage = (
    Leave
    | Join
    | UserEvent
    | SerfPushPull
    | Query
    | QueryResponse
    | ConflictResponse
    | KeyRequest
    | KeyResponse
    | Relay
)
