"""The messages of the Serf layer, carried in memberlist's user messages and push/pulls.

Lamport times and query identifiers are unsigned (64 and 32 bits); timeouts are in nanoseconds.
Payloads are bytes; names are text with surrogate escapes (see `swim_messages`).
See wire/README.md, § Serf messages.
"""

from collections.abc import Mapping
from enum import IntEnum, IntFlag

import attrs

from trioserf.value_objects import ValueObject


class QueryFlag(IntFlag):
    """Flags of a query."""

    ACK = 1
    NO_BROADCAST = 2


class ResponseFlag(IntFlag):
    """Flags of a query response; the second is our own and ignored by Go."""

    ACK = 1
    NO_ANSWER_WILL_FOLLOW = 256


class Status(IntEnum):
    """The status of a member in the Serf layer, numbered as on the wire."""

    NONE = 0
    ALIVE = 1
    LEAVING = 2
    LEFT = 3
    FAILED = 4


@attrs.frozen(eq=False, repr=False)
class Leave(ValueObject):
    """`node` leaves, or is forced to leave; `prune` also erases it."""

    ltime: int
    node: str
    prune: bool = False


@attrs.frozen(eq=False, repr=False)
class Join(ValueObject):
    """`node` has joined."""

    ltime: int
    node: str


@attrs.frozen(eq=False, repr=False)
class UserEvent(ValueObject):
    """A user event; `coalesce` lets handlers see only the newest event of a burst."""

    ltime: int
    name: str
    payload: bytes = b""
    coalesce: bool = False


@attrs.frozen(eq=False, repr=False)
class BufferedEvents(ValueObject):
    """The user events of one Lamport time in a push/pull, as (name, payload) pairs."""

    ltime: int
    events: tuple[tuple[str, bytes], ...]


@attrs.frozen(eq=False, repr=False)
class SerfPushPull(ValueObject):
    """The state of the Serf layer in a push/pull."""

    ltime: int
    status_ltimes: Mapping[str, int]
    left_members: tuple[str, ...]
    event_ltime: int
    events: tuple[BufferedEvents | None, ...]
    query_ltime: int


@attrs.frozen(eq=False, repr=False)
class NodeFilter(ValueObject):
    """Matches members with these names."""

    names: tuple[str, ...]


@attrs.frozen(eq=False, repr=False)
class TagFilter(ValueObject):
    """Matches members with a tag whose value contains a match of the RE2 expression."""

    tag: str
    expr: str


@attrs.frozen(eq=False, repr=False)
class Query(ValueObject):
    """A query to the members that match all filters (each encoded)."""

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


@attrs.frozen(eq=False, repr=False)
class QueryResponse(ValueObject):
    """A response to a query, or (with the flag ACK) its acknowledgement."""

    ltime: int
    id: int
    source: str
    flags: int
    payload: bytes = b""


@attrs.frozen(eq=False, repr=False)
class ConflictResponse(ValueObject):
    """The responder's record of a member whose name is in conflict."""

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


@attrs.frozen(eq=False, repr=False)
class KeyRequest(ValueObject):
    """Payload of the internal key queries."""

    key: bytes


@attrs.frozen(eq=False, repr=False)
class KeyResponse(ValueObject):
    """Response to an internal key query; keys are base64 text."""

    result: bool
    message: str = ""
    keys: tuple[str, ...] = ()
    primary_key: str = ""


@attrs.frozen(eq=False, repr=False)
class Relay(ValueObject):
    """A request to forward `inner`, an encoded Serf message, to `name` at `addr`:`port`."""

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
