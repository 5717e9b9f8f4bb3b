"""One record of the member table (swim/README.md, § Node records)."""

import attrs

from trioserf.address import Address, address_of
from trioserf.wire.swim_messages import DEAD, Alive, NodeState, State, Versions

NO_VERSIONS = Versions(0, 0, 0, 0, 0, 0)
"""Recorded for a member that announced no versions; never sent, never compared."""


@attrs.define(eq=False, repr=False)
class NodeRecord:
    """The current knowledge of one member. Only the member table changes it.

    Attributes:
        name: the name, unique in the cluster; any text.
        addr: the address, 4 or 16 raw bytes (4 for a v4-mapped address).
        port: the port.
        meta: the metadata, opaque here.
        versions: the announced protocol versions, or `NO_VERSIONS`.
        incarnation: the last accepted incarnation, unsigned 32 bits.
        state: alive, suspect, dead or left.
        state_change: the instant of the last change of `state`, in seconds.
        is_reached: whether it has answered a probe or a push/pull from here at this address.
    """

    name: str
    addr: bytes
    port: int
    meta: bytes
    versions: Versions
    incarnation: int
    state: State
    state_change: float
    is_reached: bool = attrs.field(default=False, init=False)
    _address: Address | None = attrs.field(default=None, init=False, repr=False)

    @property
    def address(self) -> Address:
        """Address and port, as text and number."""
        if self._address is None:
            self._address = address_of(self.addr, self.port)
        return self._address

    @property
    def is_dead_or_left(self) -> bool:
        """Whether the member is dead or has left."""
        return self.state >= DEAD

    def set_address(self, addr: bytes, port: int) -> None:
        """Set address and port."""
        self.addr = addr
        self.port = port
        self._address = None
        self.is_reached = False

    def to_alive(self) -> Alive:
        """Return the alive message that announces this member."""
        return Alive(
            self.incarnation, self.name, self.addr, self.port, self.meta, self._announced()
        )

    def node_state(self) -> NodeState:
        """Return the row of this member in a push/pull."""
        return NodeState(
            self.name,
            self.addr,
            self.port,
            self.meta,
            self.incarnation,
            self.state,
            self._announced(),
        )

    def _announced(self) -> Versions | None:
        return None if self.versions is NO_VERSIONS else self.versions
