"""The messages of memberlist, without their encoding (see `swim_codec`).

Sequence numbers and incarnations are unsigned 32-bit integers, ports 16-bit. Addresses are 4 or 16
raw bytes. Names are text; bytes that are not UTF-8 are kept as surrogate escapes.
See wire/README.md, § Message types.
"""

from enum import IntEnum
from typing import NamedTuple

import attrs

MAX_META = 512
"""Maximum length of node metadata, in bytes."""


class State(IntEnum):
    """The state of a member in the failure detector, numbered as on the wire."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


# Attribute lookup on an enum is slow, and the rule of precedence needs these for every message.
ALIVE, SUSPECT, DEAD, LEFT = State


class Versions(NamedTuple):
    """Protocol versions that a member supports (ranges) and uses, each 0 to 255."""

    protocol_min: int
    protocol_max: int
    protocol_cur: int
    delegate_min: int
    delegate_max: int
    delegate_cur: int


OUR_VERSIONS = Versions(1, 5, 2, 2, 5, 5)


@attrs.frozen
class Ping:
    """A ping to `node`; the ack goes to the source address if one is given.

    `digest` is our own field (see `event_digest`); empty if there is none.
    """

    seq_no: int
    node: str
    source_addr: bytes = b""
    source_port: int = 0
    source_node: str = ""
    digest: bytes = b""


@attrs.frozen
class IndirectPing:
    """A request to ping `node` at `target`:`port`, with a nack if it sends no ack."""

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
    """The response to a ping; the payload contains the sender's network coordinate.

    `digest` is our own field (see `event_digest`); empty if there is none.
    """

    seq_no: int
    payload: bytes = b""
    digest: bytes = b""


@attrs.frozen
class Nack:
    """The response to an indirect ping whose target has sent no ack."""

    seq_no: int


@attrs.frozen
class Suspect:
    """`source` suspects `node`; `refused` means that `node` refused its connection.

    Only trioserf knows `refused`. Go ignores it, and drops it when it passes the message on.
    """

    incarnation: int
    node: str
    source: str
    refused: bool = False


@attrs.frozen
class Alive:
    """`node` is alive at this address with this metadata."""

    incarnation: int
    node: str
    addr: bytes
    port: int
    meta: bytes = b""
    versions: Versions | None = OUR_VERSIONS


@attrs.frozen
class Dead:
    """`source` declares `node` dead; `source == node` means that it left."""

    incarnation: int
    node: str
    source: str


@attrs.frozen
class UserMessage:
    """A message of the Serf layer, opaque here."""

    payload: bytes


@attrs.frozen
class NodeState:
    """One member in a push/pull."""

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
    """A whole member table, and the state of the Serf layer as opaque bytes."""

    join: bool
    nodes: tuple[NodeState, ...]
    user_state: bytes = b""


@attrs.frozen
class ErrorMessage:
    """The reason why the other side closed a stream."""

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
