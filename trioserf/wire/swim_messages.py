"""The messages of SWIM as memberlist speaks it: what is said, without how it is spelled.

Field widths are those of the wire (spec: memberlist message types): sequence numbers and
incarnations are unsigned 32-bit integers, ports 16-bit. Addresses are 4 or 16 raw bytes; names are
text in which bytes that are not UTF-8 survive as surrogate escapes.
"""

from enum import IntEnum
from typing import NamedTuple

import attrs

MAX_META = 512
"""Longest node metadata, in bytes."""


class State(IntEnum):
    """What the failure detector believes of a member; the numbers are the wire's."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


# Looking a member up on its enum is slow, and the rules of precedence ask all the time.
ALIVE, SUSPECT, DEAD, LEFT = State


class Versions(NamedTuple):
    """Protocol ranges a member understands and the versions it speaks, each 0 to 255."""

    protocol_min: int
    protocol_max: int
    protocol_cur: int
    delegate_min: int
    delegate_max: int
    delegate_cur: int


OUR_VERSIONS = Versions(1, 5, 2, 2, 5, 5)


@attrs.frozen
class Ping:
    """Is `node` there? The answer goes to the source address if one is given."""

    seq_no: int
    node: str
    source_addr: bytes = b""
    source_port: int = 0
    source_node: str = ""


@attrs.frozen
class IndirectPing:
    """Please ping `node` at `target`:`port` for me, and say so if it does not answer."""

    seq_no: int
    target: bytes
    port: int
    node: str
    nack: bool = False
    source_addr: bytes = b""
    source_port: int = 0
    source_node: str = ""


@attrs.frozen
class Ack:
    """I am here; the payload carries the sender's network coordinate."""

    seq_no: int
    payload: bytes = b""


@attrs.frozen
class Nack:
    """I am here, but the member you asked me to ping has not answered me."""

    seq_no: int


@attrs.frozen
class Suspect:
    """`source` could not reach `node`."""

    incarnation: int
    node: str
    source: str


@attrs.frozen
class Alive:
    """`node` lives at this address with this metadata."""

    incarnation: int
    node: str
    addr: bytes
    port: int
    meta: bytes = b""
    versions: Versions | None = OUR_VERSIONS


@attrs.frozen
class Dead:
    """`source` declares `node` dead; `source == node` means that it left by itself."""

    incarnation: int
    node: str
    source: str


@attrs.frozen
class UserMessage:
    """A message of the layer above, opaque here."""

    payload: bytes


@attrs.frozen
class NodeState:
    """One member in a push/pull exchange."""

    name: str
    addr: bytes
    port: int
    meta: bytes
    incarnation: int
    state: State
    versions: Versions | None = OUR_VERSIONS

    def to_alive(self) -> Alive:
        """Return the alive message that announces this member."""
        return Alive(self.incarnation, self.name, self.addr, self.port, self.meta, self.versions)


@attrs.frozen
class PushPull:
    """A whole view of the cluster, and the state of the layer above as opaque bytes."""

    join: bool
    nodes: tuple[NodeState, ...]
    user_state: bytes = b""


@attrs.frozen
class ErrorMessage:
    """Why the other side of a stream gave up."""

    error: str


Message = (
    Ping
    | IndirectPing
    | Ack
    | Nack
    | Suspect
    | Alive
    | Dead
    | UserMessage
    | PushPull
    | ErrorMessage
)
