"""The messages of memberlist, without their encoding (see `swim_codec`).

Sequence numbers and incarnations are unsigned 32-bit integers, ports 16-bit. Addresses are 4 or 16
raw bytes. Names are text; bytes that are not UTF-8 are kept as surrogate escapes.
See wire/README.md, § Message types.
"""

from enum import IntEnum
from typing import NamedTuple

import attrs

from trioserf.value_objects import ValueObject

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


@attrs.frozen(eq=False, repr=False)
class Ping(ValueObject):
    """A ping to `node`; the ack goes to the source address if one is given.

    `digest` is our own field (see `event_digest`); empty if there is none.
    """

    seq_no: int
    node: str
    source_addr: bytes = b""
    source_port: int = 0
    source_node: str = ""
    digest: bytes = b""


@attrs.frozen(eq=False, repr=False)
class IndirectPing(ValueObject):
    """A request to ping `node` at `target`:`port`, with a nack if it sends no ack."""

    seq_no: int
    target: bytes
    port: int
    node: str
    nack: bool = False
    source_addr: bytes = b""
    source_port: int = 0
    source_node: str = ""


@attrs.frozen(eq=False, repr=False)
class Ack(ValueObject):
    """The response to a ping; the payload contains the sender's network coordinate.

    `digest` (see `event_digest`) and `release`, that of the sender's trioserf, are our own fields;
    empty if there are none.
    """

    seq_no: int
    payload: bytes = b""
    digest: bytes = b""
    release: str = ""


@attrs.frozen(eq=False, repr=False)
class Nack(ValueObject):
    """The response to an indirect ping whose target has sent no ack."""

    seq_no: int


@attrs.frozen(eq=False, repr=False)
class Suspect(ValueObject):
    """`source` suspects `node`; `refused` means that `node` refused its connection.

    Only trioserf knows `refused`. Go ignores it, and drops it when it passes the message on.
    """

    incarnation: int
    node: str
    source: str
    refused: bool = False


@attrs.frozen(eq=False, repr=False)
class Alive(ValueObject):
    """`node` is alive at this address with this metadata."""

    incarnation: int
    node: str
    addr: bytes
    port: int
    meta: bytes = b""
    versions: Versions | None = OUR_VERSIONS


@attrs.frozen(eq=False, repr=False)
class Dead(ValueObject):
    """`source` declares `node` dead; `source == node` means that it left."""

    incarnation: int
    node: str
    source: str


@attrs.frozen(eq=False, repr=False)
class UserMessage(ValueObject):
    """A message of the Serf layer, opaque here."""

    payload: bytes


@attrs.frozen(eq=False, repr=False)
class NodeState(ValueObject):
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


@attrs.frozen(eq=False, repr=False)
class PushPull(ValueObject):
    """A whole member table, and the state of the Serf layer as opaque bytes."""

    join: bool
    nodes: tuple[NodeState, ...]
    user_state: bytes = b""


@attrs.frozen(eq=False, repr=False)
class ErrorMessage(ValueObject):
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
