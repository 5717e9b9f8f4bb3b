"""One row of the member table."""

import attrs

from trioserf.address import Address, address_of
from trioserf.wire.swim_messages import DEAD, Alive, NodeState, State, Versions

NO_VERSIONS = Versions(0, 0, 0, 0, 0, 0)
"""What we note for a member that announced no versions; it is never sent and never compared."""


@attrs.define(eq=False)
class NodeRecord:
    """What is known of one member now. Only its table changes it; readers look, and keep copies.

    Attributes:
        name: its name, unique in the cluster; any text.
        addr: its address, 4 or 16 raw bytes (v4-mapped addresses have their 4-byte form).
        port: its port.
        meta: its metadata, opaque here.
        versions: the protocol versions it announced, all zero if it announced none.
        incarnation: its own count of what it has said about itself, unsigned 32 bits.
        state: what the failure detector believes.
        state_change: the instant since when it believes so, in seconds.
    """

    name: str
    addr: bytes
    port: int
    meta: bytes
    versions: Versions
    incarnation: int
    state: State
    state_change: float
    _address: Address | None = attrs.field(default=None, init=False, repr=False)

    @property
    def address(self) -> Address:
        """Address and port as text and number; made when first asked for."""
        if self._address is None:
            self._address = address_of(self.addr, self.port)
        return self._address

    @property
    def is_dead_or_left(self) -> bool:
        """Whether it is dead or has left."""
        return self.state >= DEAD

    def set_address(self, addr: bytes, port: int) -> None:
        """Give it another address."""
        self.addr = addr
        self.port = port
        self._address = None

    def to_alive(self) -> Alive:
        """Say of it what it says of itself."""
        return Alive(
            self.incarnation, self.name, self.addr, self.port, self.meta, self._announced()
        )

    def node_state(self) -> NodeState:
        """Give its line in a push/pull."""
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
